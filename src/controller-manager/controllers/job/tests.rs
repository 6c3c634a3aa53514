//! Tables for the counting, the verdicts and the sizes of Jobs.

use super::plan::*;
use super::*;
use serde_json::Value;

fn now() -> jiff::Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({ "spec": { "containers": [{ "name": "c" }], "restartPolicy": "Never" } });
    serde_json::from_value(json!({ "metadata": { "name": "j", "namespace": "n" }, "spec": spec, "status": status }))
        .expect("a job")
}

fn pod(uid: &str, phase: &str, index: Option<i32>, held: bool) -> Arc<Pod> {
    let mut pod = json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid, "annotations": {} }, "status": { "phase": phase } });
    if held {
        pod["metadata"]["finalizers"] = json!([FINALIZER]);
    }
    if let Some(index) = index {
        pod["metadata"]["annotations"][INDEX] = json!(index.to_string());
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

#[test]
fn indexes_are_written_as_ranges() {
    for text in ["", "1", "0,1", "1,3-5,7", "0-9"] {
        assert_eq!(format_indexes(&parse_indexes(Some(text))), text);
    }
}

#[test]
fn a_pod_is_named_then_released_then_counted() {
    let empty = HashSet::new();
    let first =
        tally(&job(json!({ "completions": 2 }), json!({})), &[pod("a", "Succeeded", None, true)], &empty, false);
    assert_eq!((first.status.succeeded, first.counts.succeeded, first.release.len()), (None, 1, 1));
    let named = first.status.uncounted_terminated_pods.clone().and_then(|all| all.succeeded);
    assert_eq!(named, Some(vec!["a".to_owned()]));
    let status = serde_json::to_value(&first.status).expect("json");
    let second =
        tally(&job(json!({ "completions": 2 }), status.clone()), &[pod("a", "Succeeded", None, false)], &empty, false);
    assert_eq!((second.status.succeeded, second.counts.succeeded), (Some(1), 1));
    // The cache is behind: the pod still shows the finalizer that we removed.
    let released = HashSet::from(["a".to_owned()]);
    let third =
        tally(&job(json!({ "completions": 2 }), status), &[pod("a", "Succeeded", None, true)], &released, false);
    assert_eq!((third.status.succeeded, third.release.len()), (Some(1), 0));
    let counted = serde_json::to_value(&third.status).expect("json");
    let fourth =
        tally(&job(json!({ "completions": 2 }), counted), &[pod("a", "Succeeded", None, true)], &released, false);
    assert_eq!((fourth.status.succeeded, fourth.counts.succeeded), (Some(1), 1));
}

#[test]
fn indexed_jobs_count_indexes() {
    let job = job(json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed" }), json!({}));
    let pods =
        [pod("a", "Succeeded", Some(0), true), pod("b", "Succeeded", Some(0), true), pod("c", "Failed", Some(1), true)];
    let tally = tally(&job, &pods, &HashSet::new(), false);
    assert_eq!(tally.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!((tally.status.succeeded, tally.counts.failed), (Some(1), 1));
    assert_eq!(next_indexes(&spec(&job), &tally.counts, &BTreeSet::from([2]), 5), [1]);
    let pod = indexed_pod(&job, &[], 1);
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-1-"));
    assert_eq!(pod.spec.and_then(|spec| spec.hostname).as_deref(), Some("j-1"));
}

#[test]
fn verdicts() {
    let counts = |succeeded, failed, active| Counts { succeeded, failed, active, ..Counts::default() };
    let started = json!({ "startTime": "2026-01-01T00:59:00Z" });
    for (spec, counts, want) in [
        (json!({ "completions": 2 }), counts(1, 0, 1), ""),
        (json!({ "completions": 2 }), counts(2, 0, 0), "CompletionsReached"),
        (json!({}), counts(1, 0, 1), ""),
        (json!({}), counts(1, 0, 0), "CompletionsReached"),
        (json!({ "completions": 2, "backoffLimit": 1 }), counts(0, 1, 0), ""),
        (json!({ "completions": 2, "backoffLimit": 1 }), counts(0, 2, 0), "BackoffLimitExceeded"),
        (json!({ "completions": 2, "activeDeadlineSeconds": 60 }), counts(0, 0, 0), "DeadlineExceeded"),
        (json!({ "completions": 2, "activeDeadlineSeconds": 61 }), counts(0, 0, 0), ""),
    ] {
        let got = match verdict(&job(spec.clone(), started.clone()), &counts, now()) {
            Verdict::Goes => "",
            Verdict::Fails(reason, _) | Verdict::Succeeds(reason, _) => reason,
        };
        assert_eq!(got, want, "{spec} {counts:?}");
    }
}

#[test]
fn sizes() {
    for (spec, succeeded, active, want) in [
        (json!({ "parallelism": 3, "completions": 5 }), 0, 0, 3),
        (json!({ "parallelism": 3, "completions": 5 }), 4, 1, 1),
        (json!({ "parallelism": 3 }), 0, 1, 3),
        (json!({ "parallelism": 3 }), 1, 2, 2),
        (json!({ "parallelism": 0, "completions": 5 }), 0, 1, 0),
    ] {
        let job = job(spec.clone(), json!({}));
        let counts = Counts { succeeded, active, ..Counts::default() };
        assert_eq!(plan::wanted(&plan::spec(&job), &counts), want, "{spec}");
    }
}

#[test]
fn the_failure_policy_says_what_a_failure_is() {
    let job = job(
        json!({ "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [42] } },
        ] } }),
        json!({}),
    );
    let failed = |status: Value| -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n" }, "status": status }))
            .expect("a pod")
    };
    let code = |code: i32| {
        failed(json!({ "phase": "Failed", "containerStatuses": [
            { "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code } } }
        ] }))
    };
    let message = "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 1";
    assert_eq!(failure_policy(&job, &code(42)), PolicyAction::FailJob(message.into()));
    assert_eq!(failure_policy(&job, &code(1)), PolicyAction::Count);
    let disrupted =
        failed(json!({ "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True" }] }));
    assert_eq!(failure_policy(&job, &disrupted), PolicyAction::Ignore);
}

#[test]
fn failures_are_waited_after() {
    let job = job(json!({}), json!({}));
    let failed = |at: &str| -> Arc<Pod> {
        let status = json!({ "phase": "Failed", "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "terminated": { "exitCode": 1, "finishedAt": at } } }] });
        Arc::new(serde_json::from_value(json!({ "status": status })).expect("a pod"))
    };
    assert_eq!(backoff(&[], &job, now()), Duration::ZERO);
    assert_eq!(backoff(&[failed("2026-01-01T00:59:55Z")], &job, now()), Duration::from_secs(5));
    let two = [failed("2026-01-01T00:59:55Z"), failed("2026-01-01T00:59:40Z")];
    assert_eq!(backoff(&two, &job, now()), Duration::from_secs(15));
}
