//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had.
//!
//! Invariants:
//! - RV-1: one revision per template; going back to an old template makes its revision the newest again.
//! - RV-2: a revision that pods still run, or that is the newest, is never cleaned up.

use std::collections::HashSet;
use std::sync::Arc;

use client::{Client, Informer, ObjectKey};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::controllers::template_hash;
use crate::error::{Error, exists_is_fine, gone_is_fine};
use crate::owners::{controller_reference, is_controlled_by};
use crate::podcontrol::Owner;

/// On revisions of StatefulSets and on pods of both kinds.
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// What the next revision of an owner should be.
#[derive(Debug, PartialEq)]
enum Next {
    Keep(Arc<ControllerRevision>),
    Renumber(Arc<ControllerRevision>, i64),
    Create(i64),
}

fn data(template: &PodTemplateSpec) -> RawExtension {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    RawExtension(json!({ "spec": { "template": template } }))
}

fn next(known: &[Arc<ControllerRevision>], wanted: &RawExtension) -> Next {
    let newest = known.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let same = known.iter().filter(|revision| revision.data.as_ref().is_some_and(|data| data.0 == wanted.0));
    match same.max_by_key(|revision| revision.revision) {
        Some(revision) if revision.revision == newest => Next::Keep(revision.clone()),
        Some(revision) => Next::Renumber(revision.clone(), newest + 1),
        None => Next::Create(newest + 1),
    }
}

/// The template that a revision remembers.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.get("spec")?.get("template")?;
    let mut template = template.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

pub fn owned(revisions: &Informer<ControllerRevision>, owner: &ObjectMeta) -> Vec<Arc<ControllerRevision>> {
    let mut all = revisions.list_in(owner.namespace.as_deref().unwrap_or_default());
    all.retain(|revision| is_controlled_by(&revision.metadata, owner.uid.as_ref()));
    all.sort_by_key(|revision| (revision.revision, revision.metadata.name.clone()));
    all
}

/// The hash that names a revision.
pub fn hash_of(revision: &ControllerRevision, label: &str) -> String {
    revision.metadata.labels.as_ref().and_then(|all| all.get(label)).cloned().unwrap_or_default()
}

/// Finds, renumbers or creates the revision of `template`. `label`: where the revision says its hash.
///
/// # Errors
/// When the server refuses it; 409: a name is taken, and `collisions` should be raised.
pub async fn ensure<K: Owner>(
    client: &Client,
    known: &[Arc<ControllerRevision>],
    owner: &K,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    label: &str,
) -> Result<Arc<ControllerRevision>, Error> {
    let key = ObjectKey::of(owner);
    let api = Api::<ControllerRevision>::namespaced(client.clone(), &key.namespace);
    let data = data(template);
    let params = PostParams::default();
    match next(known, &data) {
        Next::Keep(revision) => Ok(revision),
        Next::Renumber(revision, number) => {
            let changed = ControllerRevision { revision: number, ..ControllerRevision::clone(&revision) };
            let name = revision.metadata.name.clone().unwrap_or_default();
            let written = api.replace(&name, &params, &changed).await;
            written.map(Arc::new).map_err(Error::api(format!("renumber revision {}/{name}", key.namespace)))
        }
        Next::Create(number) => {
            let mut collisions = collisions.filter(|collisions| *collisions > 0);
            loop {
                let hash = template_hash(template, collisions);
                let name = format!("{}-{hash}", key.name.get(..223).unwrap_or(&key.name));
                let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
                labels.insert(label.to_owned(), hash);
                let revision = ControllerRevision {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        labels: Some(labels),
                        annotations: owner.meta().annotations.clone(),
                        owner_references: Some(vec![controller_reference(owner)]),
                        ..ObjectMeta::default()
                    },
                    data: Some(data.clone()),
                    revision: number,
                };
                let created = exists_is_fine(api.create(&params, &revision).await);
                if let Some(created) =
                    created.map_err(Error::api(format!("create revision {}/{name}", key.namespace)))?
                {
                    return Ok(Arc::new(created));
                }
                let there = api.get_opt(&name).await.map_err(Error::api(format!("get revision {name}")))?;
                // Ours, and the cache is behind; or the name of another template's.
                match there {
                    Some(there)
                        if is_controlled_by(&there.metadata, owner.meta().uid.as_ref())
                            && there.data.as_ref().is_some_and(|there| there.0 == data.0) =>
                    {
                        return Ok(Arc::new(there));
                    }
                    _ => collisions = Some(collisions.unwrap_or(0) + 1),
                }
            }
        }
    }
}

/// Deletes the oldest revisions beyond `limit` that are not `live` (names).
///
/// # Errors
/// When the server refuses it.
pub async fn clean_up(
    client: &Client,
    known: &[Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: i32,
) -> Result<(), Error> {
    for revision in surplus(known, live, limit) {
        let key = ObjectKey::of(revision.as_ref());
        let api = Api::<ControllerRevision>::namespaced(client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::default()).await.map(|_| ());
        gone_is_fine(deleted).map_err(Error::api(format!("delete revision {key}")))?;
    }
    Ok(())
}

fn surplus(known: &[Arc<ControllerRevision>], live: &HashSet<String>, limit: i32) -> Vec<Arc<ControllerRevision>> {
    let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
    let mut idle: Vec<_> = known.iter().filter(|revision| !live.contains(&name(revision))).cloned().collect();
    idle.sort_by_key(|revision| revision.revision);
    let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.truncate(excess);
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "c", "image": image }] } }))
            .expect("a template")
    }

    fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        Arc::new(ControllerRevision { metadata, data: Some(data(&template(image))), revision: number })
    }

    #[test]
    fn a_template_leads_back_to_its_revision() {
        let known = [revision("a", 1, "x"), revision("b", 2, "y")];
        assert_eq!(next(&known, &data(&template("y"))), Next::Keep(known[1].clone()));
        assert_eq!(next(&known, &data(&template("x"))), Next::Renumber(known[0].clone(), 3));
        assert_eq!(next(&known, &data(&template("z"))), Next::Create(3));
        assert_eq!(template_of(&known[0]), Some(template("x")));
    }

    #[test]
    fn old_revisions_go_unless_they_live() {
        let known = [revision("a", 1, "x"), revision("b", 2, "y"), revision("c", 3, "z")];
        let live = HashSet::from(["c".to_owned(), "a".to_owned()]);
        let names =
            |limit| surplus(&known, &live, limit).iter().filter_map(|r| r.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(0), ["b"]);
        assert!(names(1).is_empty());
    }
}
