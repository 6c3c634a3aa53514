//! The parameters of a binding: objects of the policy's `paramKind`.

use std::sync::Arc;

use api::Kind;
use apimachinery::labels::Selector;
use serde_json::{Value, json};

use super::super::text;
use super::compile::{ParamKind, Policy};
use crate::Object;
use crate::cache::ObjectReader;
use crate::kinds::Kinds;

/// The resource of a kind of parameters.
pub fn find(kinds: &Kinds, wanted: &ParamKind) -> Option<Arc<Kind>> {
    let all = kinds.all();
    all.iter().find(|kind| kind.kind == wanted.kind && kind.api_version() == wanted.api_version).cloned()
}

/// The parameters that a binding names; one null where there are none to name. Err: upstream's text.
pub async fn collect(
    kinds: &Kinds,
    reader: &dyn ObjectReader,
    policy: &Policy,
    reference: &Value,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some(wanted), true) = (&policy.param_kind, reference.is_object()) else { return Ok(vec![Value::Null]) };
    let Some(kind) = find(kinds, wanted) else {
        let ParamKind { api_version, kind } = wanted;
        return Err(format!("paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known"));
    };
    let given = text(reference, "namespace");
    let namespace = match (kind.namespaced(), given) {
        (true, "") if namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
        (true, "") => namespace,
        (true, given) => given,
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
    };
    let name = text(reference, "name");
    let found: Vec<Arc<Object>> = if name.is_empty() {
        let selector = Selector::from_label_selector(&reference["selector"])?;
        let within = (!namespace.is_empty()).then_some(namespace);
        let all = reader.peek_all(&kind.storage_key, within);
        all.into_iter().filter(|object| selector.matches(&object.meta.labels)).collect()
    } else {
        reader.peek(&kind.storage_key, namespace, name).into_iter().collect()
    };
    if found.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    let shown = |object: Arc<Object>| {
        let mut value = object.value();
        if value["apiVersion"] != kind.api_version().as_str() {
            kind.strategy.from_storage(&mut value);
            value["apiVersion"] = json!(kind.api_version());
        }
        value
    };
    Ok(found.into_iter().map(shown).collect())
}
