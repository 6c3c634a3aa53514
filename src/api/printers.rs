//! Helpers for rows of `kubectl get`.
//!
//! Invariants:
//! - PR-1: column definitions are facts, packed by `scripts/gen-printcolumns.py` into `data/printcolumns.json`;
//!   a kind's file only makes the cells.

use std::collections::HashMap;
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{obj, text};
use crate::kind::Column;

#[derive(Deserialize)]
struct Packed {
    texts: Vec<String>,
    columns: HashMap<String, Vec<(String, String, String, usize, i32)>>,
}

/// Upstream's columns of a resource: `v1/pods`, `apps/v1/deployments`. Resources that are not recorded have the
/// default columns.
pub fn columns_of(resource: &str) -> Vec<Column> {
    static PACKED: OnceLock<Packed> = OnceLock::new();
    let packed = PACKED.get_or_init(|| {
        serde_json::from_str(include_str!("data/printcolumns.json"))
            .expect("the packed column file is part of this build")
    });
    let Some(rows) = packed.columns.get(resource) else {
        return default_columns();
    };
    rows.iter()
        .map(|(name, ty, format, description, priority)| Column {
            name: name.clone().into(),
            ty: ty.clone().into(),
            format: format.clone().into(),
            description: packed.texts[*description].clone().into(),
            priority: *priority,
        })
        .collect()
}

/// `Name`, `Created At`: what a kind without a printer shows.
pub fn default_columns() -> Vec<Column> {
    // The kinds of RBAC have no printer of their own upstream, so theirs is the default one.
    static DEFAULT: &str = "rbac.authorization.k8s.io/v1/clusterroles";
    columns_of(DEFAULT)
}

/// The cells for [`default_columns`]: the name and the creation time as the API shows it.
pub fn default_row(object: &Value, _now: Timestamp) -> Vec<Value> {
    let meta = obj(object, "metadata");
    vec![json!(text(meta, "name")), json!(text(meta, "creationTimestamp"))]
}

/// The `Age` of an object; `<unknown>` when it was never created.
pub fn age_of(object: &Value, now: Timestamp) -> Value {
    json!(since(text(obj(object, "metadata"), "creationTimestamp"), now))
}

/// How long ago a time (RFC 3339) was, as upstream prints ages: `5m`, `3d4h`; `<unknown>` without a time.
pub fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => apimachinery::duration::human_duration(now.duration_since(then).as_secs()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// How long until a time, for columns that look ahead.
pub fn until(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => apimachinery::duration::human_duration(then.duration_since(now).as_secs()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// `metadata.name` as a cell.
pub fn name_of(object: &Value) -> Value {
    json!(text(obj(object, "metadata"), "name"))
}

/// Containers' names and images, comma separated: the two wide columns of workloads.
pub fn containers_and_images(pod_spec: &Value) -> (String, String) {
    let containers = crate::access::items(pod_spec, "containers");
    let join = |key: &str| containers.iter().map(|c| text(c, key)).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

/// A label selector as `kubectl get` shows it: `a=b,c in (d,e)`, `<none>` when there is none.
pub fn format_label_selector(selector: &Value) -> String {
    match apimachinery::labels::Selector::from_label_selector(selector) {
        Ok(parsed) => {
            let shown = parsed.to_string();
            if shown.is_empty() { "<none>".to_owned() } else { shown }
        }
        Err(_) => "<error>".to_owned(),
    }
}
