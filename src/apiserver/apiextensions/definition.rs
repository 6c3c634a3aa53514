//! A CustomResourceDefinition as the server works with it: names, versions, columns, compiled schemas.
//!
//! Invariants:
//! - XD-1: made once for each change of a definition's spec, accepted names or Terminating condition, and shared by all
//!   requests: a custom resource holds nothing of its definition.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use api::{Scope, Subresource};
use parking_lot::Mutex;
use serde_json::Value;

use super::conversion::Converter;
use super::jsonpath::JsonPath;
use super::structural::Node;

/// The definition of one custom resource.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `foos.example.com`
    pub name: String,
    pub group: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    /// All versions, served or not.
    pub versions: Vec<Arc<Version>>,
    /// The stored one of [`Self::versions`].
    pub storage: usize,
    pub conversion: Converter,
    /// Objects of other versions than the stored one were read, which a webhook has to convert.
    pub mixed: Arc<AtomicBool>,
    /// Being deleted: no more objects are made.
    pub terminating: bool,
}

/// One version of a custom resource.
#[derive(Debug)]
pub struct Version {
    pub name: String,
    pub served: bool,
    /// The text of the warning on every request.
    pub deprecation: Option<String>,
    pub schema: Node,
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Vec<PrinterColumn>,
    pub selectable: Vec<SelectableField>,
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// `.spec.replicas`, as it is written in messages.
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

#[derive(Debug)]
pub struct PrinterColumn {
    pub column: api::Column,
    pub path: Option<JsonPath>,
}

#[derive(Debug)]
pub struct SelectableField {
    /// `spec.color`
    pub name: &'static str,
    pub path: Option<JsonPath>,
    pub boolean: bool,
}

/// A condition of the definition's status is True.
pub fn condition(crd: &Value, ty: &str) -> bool {
    let conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == ty && condition["status"] == "True")
}

/// What of a stored definition decides how its resource is served: equal parts need no new [`Definition`].
pub fn essence(crd: &Value) -> Value {
    serde_json::json!([crd["spec"], crd["status"]["acceptedNames"], condition(crd, "Established"),])
}

impl Definition {
    /// Reads a stored definition. `None`: its names are not established, nothing is served.
    pub fn read(crd: &Value) -> Option<Self> {
        if !condition(crd, "Established") {
            return None;
        }
        let (spec, names) = (&crd["spec"], &crd["status"]["acceptedNames"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let listed = spec["versions"].as_array()?;
        let group = text(&spec["group"]);
        let kind = text(&names["kind"]);
        let versions: Vec<Arc<Version>> =
            listed.iter().map(|version| Arc::new(Version::read(version, &group, &kind))).collect();
        Some(Self {
            name: text(&crd["metadata"]["name"]),
            plural: text(&names["plural"]),
            singular: text(&names["singular"]),
            list_kind: text(&names["listKind"]),
            short_names: list(&names["shortNames"]),
            categories: list(&names["categories"]),
            scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
            storage: listed.iter().position(|version| version["storage"] == true)?,
            conversion: Converter::read(crd),
            terminating: condition(crd, "Terminating"),
            mixed: Arc::default(),
            group,
            kind,
            versions,
        })
    }

    pub fn storage(&self) -> &Version {
        &self.versions[self.storage]
    }

    pub fn storage_api_version(&self) -> String {
        format!("{}/{}", self.group, self.storage().name)
    }

    /// `<group>/<plural>`
    pub fn storage_key(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    pub fn version(&self, name: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.name == name)
    }

    pub fn subresources(&self, version: &Version) -> Vec<Subresource> {
        let verbs: std::borrow::Cow<'static, [&'static str]> = (&["get", "patch", "update"][..]).into();
        let mut all = Vec::new();
        if version.has_status {
            all.push(Subresource {
                name: "status".into(),
                group: self.group.clone().into(),
                version: version.name.clone().into(),
                kind: self.kind.clone().into(),
                verbs: verbs.clone(),
            });
        }
        if version.scale.is_some() {
            all.push(Subresource {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                verbs,
            });
        }
        all
    }
}

impl Version {
    fn read(version: &Value, group: &str, kind: &str) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&version["name"]);
        let deprecation = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
            Some(warning) => warning.to_owned(),
            None => format!("{group}/{name} {kind} is deprecated"),
        });
        let schema = Node::of_resource(&version["schema"]["openAPIV3Schema"]);
        let subresources = &version["subresources"];
        let scale = subresources.get("scale").filter(|scale| scale.is_object()).map(|scale| ScalePaths {
            spec: text(&scale["specReplicasPath"]),
            status: text(&scale["statusReplicasPath"]),
            selector: scale["labelSelectorPath"].as_str().filter(|path| !path.is_empty()).map(str::to_owned),
        });
        let selectable = version["selectableFields"].as_array().into_iter().flatten().map(|field| {
            let path = text(&field["jsonPath"]);
            let name = path.trim_start_matches('.');
            let node = schema.at(name.split('.'));
            SelectableField {
                name: intern(name),
                path: JsonPath::parse(&path),
                boolean: node.is_some_and(|node| node.ty == super::structural::Ty::Boolean),
            }
        });
        let selectable = selectable.collect();
        Self {
            served: version["served"] == true,
            has_status: subresources.get("status").is_some_and(|status| !status.is_null()),
            columns: columns(&version["additionalPrinterColumns"]),
            name,
            deprecation,
            scale,
            selectable,
            schema,
        }
    }
}

fn columns(listed: &Value) -> Vec<PrinterColumn> {
    const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
        resources may allow a client to request the generation of an appropriate name automatically. Name is \
        primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: \
        https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
    const AGE: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. \
        It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this \
        value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for \
        lists. More info: \
        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
    let mut columns = vec![PrinterColumn {
        column: api::Column {
            name: "Name".into(),
            ty: "string".into(),
            format: "name".into(),
            description: NAME.into(),
            priority: 0,
        },
        path: JsonPath::parse(".metadata.name"),
    }];
    let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    if listed.is_empty() {
        columns.push(PrinterColumn {
            column: api::Column {
                name: "Age".into(),
                ty: "date".into(),
                format: "".into(),
                description: AGE.into(),
                priority: 0,
            },
            path: JsonPath::parse(".metadata.creationTimestamp"),
        });
    }
    for column in listed {
        let text = |field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let path = text("jsonPath");
        let description = match text("description") {
            none if none.is_empty() => format!("Custom resource definition column (in JSONPath format): {path}"),
            description => description,
        };
        columns.push(PrinterColumn {
            column: api::Column {
                name: text("name").into(),
                ty: text("type").into(),
                format: text("format").into(),
                description: description.into(),
                priority: column["priority"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            },
            path: JsonPath::parse(&path),
        });
    }
    columns
}

/// One copy of each name of a selectable field, for the life of the program: the cache keeps names without owning them.
fn intern(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock();
    match names.get(name) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
            names.insert(kept);
            kept
        }
    }
}
