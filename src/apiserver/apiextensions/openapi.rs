//! OpenAPI of custom resources, made from their definitions when somebody asks and kept compressed until they change.
//!
//! Invariants:
//! - XP-1: a document's hash is known without making the document: it is that of the stored definitions.
//! - XP-2: paths and shared types are those of a built-in workload (`apps/v1` deployments), renamed: custom resources
//!   are described exactly like built-in ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::crds::Crds;
use super::definition::{Definition, Version};
use super::openapi_v2;
use crate::Object;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const TEMPLATE: &str = "apis/apps/v1";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers \
    should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
    this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More \
    info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Compressed documents by name, each with the hash it was made for.
#[derive(Default)]
pub struct Documents(Mutex<BTreeMap<String, (String, Bytes)>>);

/// A compressed document and its hash.
pub struct Document {
    pub gzip: Bytes,
    pub hash: String,
}

/// Which dialect a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::V2 => json!(format!("#/definitions/{name}")),
            Self::V3 => json!(format!("#/components/schemas/{name}")),
        }
    }

    fn described(self, name: &str, description: &str) -> Value {
        let target = json!({"$ref": self.reference(name)});
        match self {
            Self::V2 => json!({"description": description, "$ref": target["$ref"]}),
            Self::V3 => json!({"description": description, "allOf": [target]}),
        }
    }
}

type Stored = (Arc<Definition>, Arc<Object>);

impl Crds {
    /// The group versions of custom resources with the hash of their documents: `apis/example.com/v1`.
    pub fn openapi_index(&self) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
        for (definition, object) in self.stored() {
            for version in definition.versions.iter().filter(|version| version.served) {
                let path = format!("apis/{}/{}", definition.group, version.name);
                found.entry(path).or_default().push((definition.clone(), object.clone()));
            }
        }
        found.into_iter().map(|(path, of)| (path, hash(&of))).collect()
    }

    /// The v3 document of a group version (`apis/example.com/v1`).
    pub fn openapi_v3(&self, path: &str, builtin: &dyn Fn(&str) -> Option<&'static [u8]>) -> Option<Document> {
        let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
        let of: Vec<Stored> = self.stored().into_iter().filter(|(d, _)| d.group == group).collect();
        let of: Vec<Stored> =
            of.into_iter().filter(|(d, _)| d.version(version).is_some_and(|version| version.served)).collect();
        if of.is_empty() {
            return None;
        }
        let make = || {
            let template = unzip(builtin(TEMPLATE)?)?;
            serde_json::to_vec(&document(&serde_json::from_slice(&template).ok()?, &of, version)).ok()
        };
        self.documents.get(path, hash(&of), || Some(zip(&make()?)))
    }

    /// The v2 document: the built-in one with the custom definitions spliced in. `None` without custom resources.
    pub fn openapi_v2(&self, builtin: &'static [u8], protobuf: bool) -> Option<Document> {
        let of = self.stored();
        if of.is_empty() {
            return None;
        }
        let name = if protobuf { "v2 protobuf" } else { "v2" };
        self.documents.get(name, hash(&of), || {
            let mut schemas = Map::new();
            for (definition, object) in &of {
                let crd = object.value();
                for version in definition.versions.iter().filter(|version| version.served) {
                    schemas.extend(schemas_of(definition, version, &crd, Dialect::V2));
                }
            }
            if protobuf {
                // Documents in protobuf are merged by putting them one after the other, and so are gzip's streams.
                let more = zip(&openapi_v2::encode(&schemas));
                return Some([builtin, &more[..]].concat().into());
            }
            const OPENING: &[u8] = b"{\"definitions\":{";
            let text = unzip(builtin)?;
            let rest = text.strip_prefix(OPENING)?;
            let inner = serde_json::to_vec(&Value::Object(schemas)).ok()?;
            let inner = &inner[1..inner.len() - 1];
            Some(zip(&[OPENING, inner, b",", rest].concat()))
        })
    }
}

impl Documents {
    fn get(&self, name: &str, hash: String, make: impl FnOnce() -> Option<Bytes>) -> Option<Document> {
        if let Some((_, gzip)) = self.0.lock().get(name).filter(|(known, _)| *known == hash) {
            return Some(Document { gzip: gzip.clone(), hash });
        }
        let gzip = make()?;
        self.0.lock().insert(name.to_owned(), (hash.clone(), gzip.clone()));
        Some(Document { gzip, hash })
    }

    /// Forgets what was made: the definitions changed.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

fn hash(of: &[Stored]) -> String {
    let mut digest = Sha256::new();
    for (definition, object) in of {
        digest.update(definition.name.as_bytes());
        digest.update(object.meta.uid.as_bytes());
        digest.update(super::definition::essence(&object.value()).to_string().as_bytes());
    }
    hex::encode_upper(digest.finalize())
}

fn unzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).ok()?;
    Some(out)
}

fn zip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("compressing into memory cannot fail").into()
}

/// `example.com`, `v1`, `Foo` → `com.example.v1.Foo`
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// The schemas of one version: the object's and its list's.
fn schemas_of(definition: &Definition, version: &Version, crd: &Value, dialect: Dialect) -> Map<String, Value> {
    let (group, name) = (&definition.group, &version.name);
    let listed = crd["spec"]["versions"].as_array().into_iter().flatten().find(|v| v["name"] == name.as_str());
    let schema = listed.map(|version| version["schema"]["openAPIV3Schema"].clone()).unwrap_or_default();
    let gvk = |kind: &str| json!([{"group": group, "kind": kind, "version": name}]);
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut object = match dialect {
        Dialect::V2 if open => json!({"type": "object"}),
        _ => {
            let mut schema = schema;
            rewrite(&mut schema, dialect);
            let properties = object_at(&mut schema, "properties");
            properties.insert("apiVersion".into(), json!({"description": API_VERSION, "type": "string"}));
            properties.insert("kind".into(), json!({"description": KIND, "type": "string"}));
            properties.insert("metadata".into(), dialect.described(&format!("{META}.ObjectMeta"), METADATA));
            schema
        }
    };
    object["x-kubernetes-group-version-kind"] = gvk(&definition.kind);
    let own = type_name(group, name, &definition.kind);
    let list = json!({
        "description": format!("{} is a list of {}", definition.list_kind, definition.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "items": {
                "description": format!(
                    "List of {}. More info: \
                     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                    definition.plural
                ),
                "type": "array",
                "items": {"$ref": dialect.reference(&own)},
            },
            "kind": {"description": KIND, "type": "string"},
            "metadata": dialect.described(&format!("{META}.ListMeta"), LIST_METADATA),
        },
        "x-kubernetes-group-version-kind": gvk(&definition.list_kind),
    });
    Map::from_iter([(own, object), (type_name(group, name, &definition.list_kind), list)])
}

fn object_at<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    apimachinery::value::object_entry(value, &[key])
}

/// Brings a definition's schema into the published form.
fn rewrite(schema: &mut Value, dialect: Dialect) {
    let Some(map) = schema.as_object_mut() else { return };
    let flag = |map: &Map<String, Value>, key: &str| map.get(key).is_some_and(|value| *value == true);
    let (open, embedded) =
        (flag(map, "x-kubernetes-preserve-unknown-fields"), flag(map, "x-kubernetes-embedded-resource"));
    let number_or_text = flag(map, "x-kubernetes-int-or-string");
    if dialect == Dialect::V2 {
        for key in ["oneOf", "anyOf", "allOf", "not", "default", "x-kubernetes-validations"] {
            map.remove(key);
        }
        // What may be null, and what is open, has no type that old clients could check it against.
        if map.remove("nullable") == Some(Value::Bool(true)) || open {
            for key in ["type", "items", "properties", "additionalProperties", "required"] {
                map.remove(key);
            }
        }
    } else if number_or_text && !map.contains_key("anyOf") && !map.contains_key("allOf") {
        map.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|value| rewrite(value, dialect));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(value) = map.get_mut(key) {
            rewrite(value, dialect);
        }
    }
    if embedded && !(open && dialect == Dialect::V2) {
        let mut required = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
        map.insert("required".into(), required.into());
        let properties = object_at(schema, "properties");
        properties.insert("apiVersion".into(), json!({"description": EMBEDDED_VERSION, "type": "string"}));
        properties.insert("kind".into(), json!({"description": EMBEDDED_KIND, "type": "string"}));
        properties.insert("metadata".into(), dialect.described(&format!("{META}.ObjectMeta"), METADATA));
    }
}

/// The whole v3 document of a group version.
fn document(template: &Value, of: &[Stored], version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for (definition, object) in of {
        let Some(served) = definition.version(version) else { continue };
        schemas.extend(schemas_of(definition, served, &object.value(), Dialect::V3));
        paths.extend(paths_of(template, definition, served));
    }
    // Everything that is referred to, and what that refers to.
    let mut wanted = BTreeSet::new();
    paths.values().chain(schemas.values()).for_each(|value| references(value, &mut wanted));
    while let Some(name) = wanted.pop_first() {
        if schemas.contains_key(&name) {
            continue;
        }
        if let Some(shared) = template["components"]["schemas"].get(&name) {
            references(shared, &mut wanted);
            schemas.insert(name, shared.clone());
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next()) {
                found.insert(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// `example.com` → `ExampleCom`
fn camel(text: &str) -> String {
    let parts = text.split(['.', '-', '_']).map(|part| {
        let mut chars = part.chars();
        chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
    });
    parts.collect()
}

/// The paths of one version, from those of deployments.
fn paths_of(template: &Value, definition: &Definition, version: &Version) -> Map<String, Value> {
    let namespaced = super::strategy::namespaced(definition);
    let root = format!("/apis/{}/{}/", definition.group, version.name);
    let (upper, own) = (camel(&definition.group), type_name(&definition.group, &version.name, &definition.kind));
    let list = type_name(&definition.group, &version.name, &definition.list_kind);
    let lower: String = upper.chars().take(1).flat_map(char::to_lowercase).chain(upper.chars().skip(1)).collect();
    let rename = |text: &str| {
        let text = text
            .replace("io.k8s.api.apps.v1.DeploymentList", &list)
            .replace("io.k8s.api.apps.v1.Deployment", &own)
            .replace("AppsV1", &format!("{upper}{}", camel(&version.name)))
            .replace("apps_v1", &format!("{lower}_{}", version.name))
            .replace("Deployment", &definition.kind);
        if namespaced { text } else { text.replace("Namespaced", "") }
    };
    let mut out = Map::new();
    for (path, item) in template["paths"].as_object().into_iter().flatten() {
        let Some(rest) = path.strip_prefix("/apis/apps/v1/") else { continue };
        let (spans, rest) = match rest.strip_prefix("namespaces/{namespace}/") {
            Some(rest) => (false, rest),
            None => (true, rest),
        };
        let Some(rest) = rest.strip_prefix("deployments") else { continue };
        let served = match rest {
            "" | "/{name}" => true,
            "/{name}/status" => version.has_status,
            "/{name}/scale" => version.scale.is_some(),
            _ => false,
        };
        if !served || (spans && !namespaced) {
            continue;
        }
        let place = if spans || !namespaced { "" } else { "namespaces/{namespace}/" };
        let mut item = item.clone();
        adapt(&mut item, definition, version, &rename, namespaced);
        out.insert(format!("{root}{place}{}{rest}", definition.plural), item);
    }
    out
}

fn adapt(
    value: &mut Value,
    definition: &Definition,
    version: &Version,
    rename: &dyn Fn(&str) -> String,
    namespaced: bool,
) {
    match value {
        Value::Object(map) => {
            if map.get("group").is_some_and(|group| group == "apps") && map.contains_key("kind") {
                map.insert("group".into(), json!(definition.group));
                map.insert("version".into(), json!(version.name));
                map.insert("kind".into(), json!(definition.kind));
                return;
            }
            map.retain(|key, _| {
                !key.contains("protobuf") && !key.contains("cbor") && key != "application/strategic-merge-patch+json"
            });
            map.values_mut().for_each(|value| adapt(value, definition, version, rename, namespaced));
        }
        Value::Array(items) => {
            items.retain(|item| namespaced || !(item["name"] == "namespace" && item["in"] == "path"));
            items.iter_mut().for_each(|value| adapt(value, definition, version, rename, namespaced));
        }
        Value::String(text) => *text = rename(text),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(type_name("stable.example.com", "v1", "Foo"), "com.example.stable.v1.Foo");
        assert_eq!(camel("cert-manager.io"), "CertManagerIo");
    }

    #[test]
    fn old_clients_see_no_types_that_they_would_misread() {
        let mut schema = json!({"type": "object", "properties": {
            "a": {"type": "string", "nullable": true, "description": "d"},
            "b": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
        rewrite(&mut schema, Dialect::V2);
        assert_eq!(schema["properties"]["a"], json!({"description": "d"}));
        assert_eq!(schema["properties"]["b"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    }
}
