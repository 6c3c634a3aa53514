//! ComponentStatuses: asked of the components at the time of the request, never stored.

use ::http::Response;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::options::ListOptions;
use super::output::{ListMeta, partial_value};
use super::{Cx, tables};
use crate::Body;
use crate::cache::{Meta, Object, encode};
use crate::wire::negotiate::Target;
use crate::wire::respond;

pub const RESOURCE: &str = "componentstatuses";

/// Answers a GET or a LIST.
///
/// # Errors
/// 404 for an unknown component; 400 for bad options.
pub async fn handle(cx: &Cx) -> Result<Response<Body>, Status> {
    let all = cx.server.health.components(&cx.server).await;
    match cx.info.verb.as_str() {
        "get" => {
            let name = cx.info.name.as_str();
            let found = all.iter().find(|component| component["metadata"]["name"] == name);
            let component = found.ok_or_else(|| Status::not_found(&GroupResource::new("", "componentstatus"), name))?;
            cx.show_value(200, component)
        }
        "list" => list(cx, all),
        _ => Err(Status::method_not_allowed()),
    }
}

fn list(cx: &Cx, mut all: Vec<Value>) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(cx, false)?;
    all.retain(|component| object(component).is_some_and(|object| options.matches(&object)));
    let content = match &cx.accepted.transform {
        None => {
            let items: Vec<Value> = all.into_iter().map(untyped).collect();
            let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
            respond::encode(&list)
        }
        Some(transform) => match transform.target {
            Target::Table => tables::table(cx, transform.version, &ListMeta::default(), &all, true)?,
            _ => {
                let partial = |component: &Value| partial_value(&cx.kind, transform.version, component);
                respond::encode(&json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": format!("meta.k8s.io/{}", transform.version),
                    "metadata": {},
                    "items": all.iter().map(partial).collect::<Vec<_>>(),
                }))
            }
        },
    };
    Ok(respond::json(200, content, &cx.accepted, &cx.headers))
}

fn untyped(mut component: Value) -> Value {
    if let Some(fields) = component.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    component
}

/// The component as selectors see objects.
fn object(component: &Value) -> Option<Object> {
    let meta = Meta::of(component, &|_| Vec::new());
    Object::with_meta(bytes::Bytes::new(), encode::encode(component)?, 0, meta)
}
