//! What the volumes made of API objects hold: pure functions from the objects to files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::atomic::{File, Payload};
use crate::containers::env::{metadata_field, resource_value};
use crate::containers::{find, text};

pub const DEFAULT_MODE: i32 = 0o644;

fn file(data: Vec<u8>, mode: i32) -> File {
    File { data, mode: u32::try_from(mode).unwrap_or(0o644), uid: None }
}

/// Chooses keys of `data` by `items` (all of them without), upstream's error for one that is missing.
fn select(
    missing: &str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|list| !list.is_empty()) else {
        return Ok(data.iter().map(|(key, value)| (key.clone(), file(value.clone(), mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                out.insert(item.path.clone(), file(value.clone(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("{missing}: {}", item.key)),
        }
    }
    Ok(out)
}

/// # Errors
/// Upstream's text for a key that is missing.
pub fn of_config_map(
    map: &ConfigMap,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let mut data: BTreeMap<String, Vec<u8>> =
        map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
    data.extend(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())));
    select("configmap references non-existent config key", &data, items, mode, optional)
}

/// # Errors
/// Upstream's text for a key that is missing.
pub fn of_secret(
    secret: &Secret,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, String> {
    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    select("references non-existent secret key", &data, items, mode, optional)
}

/// # Errors
/// When a field is none of those offered.
pub fn of_downward(
    pod: &Pod,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: i32,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in items.into_iter().flatten() {
        let value = if let Some(field) = &item.field_ref {
            metadata_field(pod, &field.field_path)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = text(&resource.container_name);
            let container = find(pod, name).ok_or_else(|| format!("container {name} not found"))?;
            resource_value(&container, resource, allocatable).map_err(|error| error.to_string())?
        } else {
            continue;
        };
        out.insert(item.path.clone(), file(value.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn items(value: serde_json::Value) -> Vec<KeyToPath> {
        serde_json::from_value(value).expect("items")
    }

    #[test]
    fn keys_become_files() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}})).expect("a map");
        let all = of_config_map(&map, None, 0o644, false).expect("made");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all["c"].data, [0, 1]);
        let some = items(json!([{"key": "a", "path": "x/y", "mode": 256}]));
        let out = of_config_map(&map, Some(&some), 0o644, false).expect("made");
        assert_eq!((out.len(), out["x/y"].mode), (1, 0o400));
        let missing = items(json!([{"key": "no", "path": "x"}]));
        assert_eq!(
            of_config_map(&map, Some(&missing), 0o644, false).expect_err("missing"),
            "configmap references non-existent config key: no"
        );
        assert_eq!(of_config_map(&map, Some(&missing), 0o644, true).map(|p| p.len()), Ok(0));
        let secret: Secret = serde_json::from_value(json!({"data": {"k": "eA=="}})).expect("a secret");
        assert_eq!(
            of_secret(&secret, Some(&missing), 0o644, false).expect_err("missing"),
            "references non-existent secret key: no"
        );
    }

    #[test]
    fn the_downward_api() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"l": "v"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}}))
        .expect("a pod");
        let files: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "requests.cpu", "divisor": "1m"}}]))
        .expect("files");
        let out = of_downward(&pod, Some(&files), 0o644, &BTreeMap::new()).expect("made");
        assert_eq!((out["labels"].data.as_slice(), out["cpu"].data.as_slice()), (&b"l=\"v\""[..], &b"100"[..]));
    }
}
