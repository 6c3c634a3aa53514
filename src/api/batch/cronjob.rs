//! CronJob: jobs on a schedule.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{job, schedule};
use crate::access::{ensure_map, flag, has, items, obj, opt_flag, opt_text, set, set_blank, set_missing, text};
use crate::apps::template::{name_warning, nonnegative_fields};
use crate::checks::{keep_spec_or_status, meta, name, spec, start_generation, status};
use crate::core::podspec::{self, Scope as PodScope};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, containers_and_images, format_label_selector, name_of, since};

pub struct CronJob;

pub fn kind() -> Kind {
    Kind::builtin("batch/v1", "CronJob", "cronjobs", Scope::Namespaced, "io.k8s.api.batch.v1.CronJob", CronJob)
        .with_short_names(&["cj"])
        .with_categories(&["all"])
        .with_subresource("status", "batch/v1", "CronJob", &["get", "patch", "update"])
}

/// The jobs' names are this one and eleven characters more.
const MAX_NAME: usize = 52;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        set_blank(spec, "concurrencyPolicy", "Allow");
        set_missing(spec, "suspend", false);
        set_missing(spec, "successfulJobsHistoryLimit", 3);
        set_missing(spec, "failedJobsHistoryLimit", 1);
        ensure_map(spec, "jobTemplate");
        if let Some(template) = spec.get_mut("jobTemplate") {
            ensure_map(template, "spec");
            if let Some(job) = template.get_mut("spec") {
                job::default_template(job);
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
        start_generation(object);
        drop_disabled(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        drop_disabled(object);
        keep_spec_or_status(cx, object, old);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, spec(object), None);
        if name(object).len() > MAX_NAME {
            let detail = format!("must be no more than {MAX_NAME} characters");
            errors.invalid(Path::new("metadata").child("name"), name(object), &detail);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource != "status" {
            check_spec(&mut errors, spec(object), Some(spec(old)));
        }
        errors
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, old: Option<&Value>) -> Vec<String> {
        if !cx.subresource.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        if old.is_none() {
            let what = "Job names, Pod names and hostnames, which can result in surprising behavior";
            found.extend(name_warning(name(object), what));
        }
        let generation = |o: &Value| crate::access::int(meta(o), "generation");
        if old.is_none_or(|old| generation(old) != generation(object)) {
            let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
            let template = obj(obj(obj(spec(object), "jobTemplate"), "spec"), "template");
            found.extend(podspec::warnings(template, PodScope::Template, &path));
        }
        if text(spec(object), "schedule").contains("TZ") {
            found.push("spec.schedule: CRON_TZ or TZ used in schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        found
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("batch/v1/cronjobs")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec(object), status(object));
        let job = obj(obj(spec, "jobTemplate"), "spec");
        let (containers, images) = containers_and_images(obj(obj(job, "template"), "spec"));
        let last = match text(status, "lastScheduleTime") {
            "" => "<none>".to_owned(),
            time => since(time, now),
        };
        let suspended = match opt_flag(spec, "suspend") {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        vec![
            name_of(object),
            json!(text(spec, "schedule")),
            json!(opt_text(spec, "timeZone").unwrap_or("<none>")),
            json!(suspended),
            json!(items(status, "active").len()),
            json!(last),
            age_of(object, now),
            json!(containers),
            json!(images),
            json!(format_label_selector(obj(job, "selector"))),
        ]
    }
}

fn drop_disabled(object: &mut Value) {
    if let Some(pod) = object.pointer_mut("/spec/jobTemplate/spec/template/spec") {
        podspec::drop_disabled(pod);
    }
}

fn check_spec(errors: &mut ErrorList, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let zone = opt_text(spec, "timeZone");
    match text(spec, "schedule") {
        "" => errors.required(path.child("schedule"), ""),
        schedule => {
            let kept = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
            check_schedule(errors, path.child("schedule"), schedule, zone.is_some(), kept);
        }
    }
    nonnegative_fields(errors, spec, &["startingDeadlineSeconds"], &path);
    // a zone that was stored stays valid, even if the database lost it
    if let Some(zone) = zone.filter(|zone| old.is_none_or(|old| opt_text(old, "timeZone") != Some(zone))) {
        check_zone(errors, path.child("timeZone"), zone);
    }
    let concurrency = text(spec, "concurrencyPolicy");
    crate::checks::one_of(errors, path.child("concurrencyPolicy"), concurrency, &["Allow", "Forbid", "Replace"]);
    check_template(errors, &path.child("jobTemplate").child("spec"), obj(obj(spec, "jobTemplate"), "spec"));
    nonnegative_fields(errors, spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], &path);
}

fn check_schedule(errors: &mut ErrorList, path: Path, schedule: &str, zoned: bool, keeps_zone: bool) {
    if let Err(why) = schedule::check(schedule) {
        errors.invalid(path.clone(), schedule, &why);
    }
    if !schedule.contains("TZ") {
        return;
    }
    if zoned {
        errors.invalid(path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
    } else if !keeps_zone {
        errors.invalid(path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn check_zone(errors: &mut ErrorList, path: Path, zone: &str) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    } else if !schedule::known_zone(zone) {
        errors.invalid(path, zone, &format!("unknown time zone {zone}"));
    }
}

fn check_template(errors: &mut ErrorList, path: &Path, job: &Value) {
    errors.extend(job::validate_spec(job, path));
    if has(job, "selector") {
        errors.invalid(path.child("selector"), obj(job, "selector").clone(), "`selector` will be auto-generated");
    }
    if flag(job, "manualSelector") {
        errors.not_supported(path.child("manualSelector"), true, &["nil", "false"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, update_errors};

    fn cron(extra: Value) -> Value {
        let mut cron = json!({"metadata": {"name": "x"}, "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            cron["spec"][key] = value.clone();
        }
        cron
    }

    #[test]
    fn defaults_the_pod_template_only() {
        let made = created(&CronJob, cron(json!({})));
        assert_eq!(made["spec"]["concurrencyPolicy"], "Allow");
        let job = &made["spec"]["jobTemplate"]["spec"];
        assert_eq!(job["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert!(job.get("completions").is_none());
    }

    #[test]
    fn checks_zone_and_schedule() {
        for (extra, want) in [
            (json!({"timeZone": "Europe/Vienna"}), None),
            (
                json!({"timeZone": ""}),
                Some("spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"),
            ),
            (json!({"timeZone": "Mars"}), Some("spec.timeZone: Invalid value: \"Mars\": unknown time zone Mars")),
            (
                json!({"timeZone": "UTC", "schedule": "TZ=UTC * * * * *"}),
                Some(
                    "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule",
                ),
            ),
        ] {
            assert_eq!(create_errors(&CronJob, cron(extra)), Vec::from_iter(want));
        }
        let zoned = cron(json!({"schedule": "TZ=UTC * * * * *"}));
        assert!(update_errors(&CronJob, zoned.clone(), zoned).is_empty());
    }

    #[test]
    fn names_leave_room_for_the_time() {
        let mut long = cron(json!({}));
        long["metadata"]["name"] = json!("a".repeat(53));
        assert_eq!(
            create_errors(&CronJob, long),
            [format!("metadata.name: Invalid value: \"{}\": must be no more than 52 characters", "a".repeat(53))]
        );
    }
}
