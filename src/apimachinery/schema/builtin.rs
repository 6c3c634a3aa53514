//! The built-in types: `data/schema.txt` read into one [`Table`], once, on first use.
//!
//! Invariants:
//! - SB-1: names and defaults borrow from the embedded text; the table itself is well under a megabyte.
//! - SB-2: objects are sorted by definition name, fields by name.

use super::{Field, ListOf, ListType, MapOf, MapType, Object, ObjectId, PatchStrategy, Schema, Str, Table, Type};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// See scripts/gen-schema.py for the format.
const TEXT: &str = include_str!("../data/schema.txt");

struct Builtin {
    table: Arc<Table>,
    /// Group, version, kind; DeleteOptions and its like under `*`.
    kinds: BTreeMap<(&'static str, &'static str, &'static str), ObjectId>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| parse(TEXT));

/// All built-in types.
pub fn builtin() -> &'static Arc<Table> {
    &BUILTIN.table
}

/// The type with this OpenAPI definition name (`io.k8s.api.core.v1.Pod`).
pub fn builtin_schema(definition: &str) -> Option<Schema> {
    let table = builtin();
    let root = table.objects.binary_search_by(|o| o.name.as_ref().cmp(definition)).ok()?;
    Some(Schema { table: table.clone(), root: root as ObjectId })
}

/// The type of this group, version and kind.
pub fn builtin_schema_for(group: &str, version: &str, kind: &str) -> Option<Schema> {
    let kinds = &BUILTIN.kinds;
    let root = kinds.get(&(group, version, kind)).or_else(|| kinds.get(&("*", "*", kind)))?;
    Some(Schema { table: builtin().clone(), root: *root })
}

fn parse(text: &'static str) -> Builtin {
    let heads = || text.lines().filter_map(|l| l.strip_prefix('@'));
    let names: Vec<&str> = heads().map(|h| h.split(' ').next().unwrap_or_default()).collect();
    let mut objects = Vec::with_capacity(names.len());
    let mut kinds = BTreeMap::new();
    let mut head = "";
    let mut fields = Vec::new();
    for line in text.lines().chain(["@"]) {
        if let Some(next) = line.strip_prefix('@') {
            if !head.is_empty() {
                objects.push(object(head, objects.len() as ObjectId, std::mem::take(&mut fields), &mut kinds));
            }
            head = next;
        } else if !line.starts_with('#') {
            fields.push(field(line, &names));
        }
    }
    Builtin { table: Arc::new(Table { objects: objects.into() }), kinds }
}

fn object(
    head: &'static str,
    id: ObjectId,
    fields: Vec<Field>,
    kinds: &mut BTreeMap<(&'static str, &'static str, &'static str), ObjectId>,
) -> Object {
    let mut words = head.split(' ');
    let mut object = Object::new(words.next().unwrap_or_default(), fields);
    for word in words {
        match word {
            "a" => object.map_type = MapType::Atomic,
            "any" => object.or_any = true,
            _ => {
                let mut parts = word.trim_start_matches("g=").split('/');
                let mut next = || parts.next().unwrap_or_default();
                kinds.insert((next(), next(), next()), id);
            }
        }
    }
    object
}

fn field(line: &'static str, names: &[&str]) -> Field {
    let mut columns = line.splitn(3, '\t');
    let mut column = || columns.next().unwrap_or_default();
    let (name, ty, attributes) = (column(), column(), column());
    // the default comes last and may hold spaces
    let (attributes, default) = match attributes.find("d=") {
        Some(at) if at == 0 || attributes.as_bytes()[at - 1] == b' ' => {
            (&attributes[..at], Some(Cow::Borrowed(&attributes[at + 2..])))
        }
        _ => (attributes, None),
    };
    let mut shape = Shape::default();
    let mut field = Field { default, pointer: false, ..Field::new(name, Type::Any) };
    for attribute in attributes.split_ascii_whitespace() {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match key {
            "p" => field.pointer = true,
            "!" => field.always = true,
            "r" => field.required = true,
            "k" => field.patch_merge_key = Some(value.into()),
            "t" => field.go_type = Some(value.into()),
            "m" => shape.map_type = MapType::Atomic,
            "s" => {
                field.patch_strategy = PatchStrategy {
                    merge: value.split(',').any(|s| s == "merge"),
                    retain_keys: value.split(',').any(|s| s == "retain"),
                };
            }
            "l" if value == "set" => shape.list_type = ListType::Set,
            "l" => {
                shape.list_type = ListType::Map;
                shape.keys = value.trim_start_matches("map:").split(',').map(Str::from).collect();
            }
            _ => field.order = attribute.trim_start_matches('o').parse().unwrap_or_default(),
        }
    }
    field.ty = type_of(ty, shape, names);
    field
}

/// Attributes that belong to the outermost list or map of a field.
#[derive(Default)]
struct Shape {
    list_type: ListType,
    keys: Vec<Str>,
    map_type: MapType,
}

fn type_of(text: &str, shape: Shape, names: &[&str]) -> Type {
    if let Some(item) = text.strip_prefix("[]") {
        let item = type_of(item, Shape::default(), names);
        return Type::list(ListOf { item, list_type: shape.list_type, keys: shape.keys.into() });
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Type::map(MapOf { value: type_of(value, Shape::default(), names), map_type: shape.map_type });
    }
    if let Some(name) = text.strip_prefix('#') {
        let id = names.binary_search(&name).expect("schema.txt defines every type it names, in name order");
        return Type::Object(id as ObjectId);
    }
    match text {
        "s" => Type::String,
        "y" => Type::Bytes,
        "b" => Type::Bool,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "f" => Type::Float,
        "q" => Type::Quantity,
        "n" => Type::IntOrString,
        "t" => Type::Time,
        "T" => Type::MicroTime,
        "d" => Type::Duration,
        "F" => Type::FieldsV1,
        _ => Type::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let table = builtin();
        assert!(table.objects.len() > 500);
        assert!(table.objects.is_sorted_by(|a, b| a.name < b.name));
        for object in table.objects.iter() {
            assert!(object.fields.is_sorted_by(|a, b| a.name < b.name), "{}", object.name);
            for field in object.fields.iter() {
                if let Some(default) = &field.default {
                    assert!(
                        serde_json::from_str::<serde_json::Value>(default).is_ok(),
                        "{}.{}",
                        object.name,
                        field.name
                    );
                }
            }
        }
    }

    #[test]
    fn the_table_is_small() {
        let fields: usize = builtin().objects.iter().map(|o| o.fields.len()).sum();
        let bytes = fields * size_of::<Field>() + builtin().objects.len() * size_of::<Object>();
        assert!(bytes < 600_000, "{bytes} bytes");
    }

    #[test]
    fn lookups() {
        let pod = builtin_schema_for("", "v1", "Pod").unwrap();
        assert_eq!(pod.root_object().name, "io.k8s.api.core.v1.Pod");
        let spec = pod.root().child("spec").unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
        assert!(containers.patch_strategy.merge && containers.required && containers.always);
        let list = spec.child("containers").unwrap();
        assert_eq!(list.list().unwrap().list_type, ListType::Map);
        assert_eq!(list.list().unwrap().keys.as_ref(), ["name"]);
        let container = list.item().unwrap();
        assert!(container.field("restartPolicy").unwrap().pointer);
        assert_eq!(container.field("imagePullPolicy").unwrap().go_type.as_deref(), Some("v1.PullPolicy"));
        let port = container.child("ports").unwrap();
        assert_eq!(port.list().unwrap().keys.as_ref(), ["containerPort", "protocol"]);
        assert_eq!(port.item().unwrap().field("protocol").unwrap().default.as_deref(), Some("\"TCP\""));
        assert!(spec.field("volumes").unwrap().patch_strategy.retain_keys);
        assert_eq!(spec.child("nodeSelector").unwrap().map().unwrap().map_type, MapType::Atomic);
        assert!(builtin_schema("io.k8s.api.core.v1.Nope").is_none());
        assert!(builtin_schema_for("apps", "v1", "DeleteOptions").is_some());
        assert!(builtin_schema_for("apps", "v9", "Deployment").is_none());
        assert!(builtin_schema_for("autoscaling", "v1", "Scale").is_some());
    }
}
