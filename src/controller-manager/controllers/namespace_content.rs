//! What every namespace must have: the ServiceAccount `default` and the ConfigMaps that the token volume of every pod
//! refers to.
//!
//! Watches namespaces and the two kinds. Writes the two objects.
//!
//! Invariants:
//! - NC-1: both are there in every active namespace, and come back when deleted or changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::error::{Error, exists_is_fine};
use crate::manager::{Context, Controller};

const DEFAULT: &str = "default";
/// Name, key and description of a ConfigMap with the certificate authority.
struct Published {
    controller: &'static str,
    config_map: &'static str,
    key: &'static str,
    annotation: (&'static str, &'static str),
}

static ROOT_CA: Published = Published {
    controller: "root-ca-certificate-publisher",
    config_map: "kube-root-ca.crt",
    key: "ca.crt",
    annotation: ("kubernetes.io/description", ROOT_CA_DESCRIPTION),
};

/// The recorded API server's ServiceAccount admission mounts this one too, so pods cannot start without it.
static SERVICE_CA: Published = Published {
    controller: "service-ca-certificate-publisher",
    config_map: "openshift-service-ca.crt",
    key: "service-ca.crt",
    annotation: ("service.beta.openshift.io/inject-cabundle", "true"),
};

const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

/// An active namespace, by its name.
fn active(namespaces: &Informer<Namespace>, name: &str) -> bool {
    let namespace = namespaces.get(&ObjectKey::cluster(name));
    namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none())
}

fn watch_namespaces(namespaces: &Informer<Namespace>, queue: &WorkQueue<ObjectKey>) {
    let queue = queue.clone();
    namespaces.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
}

/// Looks at the namespace again when `name` in it changes.
fn watch_object<K>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>, name: &'static str)
where
    K: kube::Resource + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change| {
        let key = ObjectKey::of(change.object().as_ref());
        if key.name == name {
            queue.add(ObjectKey::cluster(key.namespace));
        }
    });
}

struct ServiceAccounts {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

pub fn service_accounts(cx: &Context) -> Arc<dyn Controller> {
    let this = ServiceAccounts {
        client: cx.client.clone(),
        queue: cx.queue(),
        namespaces: cx.informers.of(),
        accounts: cx.informers.of(),
    };
    watch_namespaces(&this.namespaces, &this.queue);
    watch_object(&this.accounts, &this.queue, DEFAULT);
    Arc::new(this)
}

#[async_trait]
impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.namespaces.synced().await;
        self.accounts.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let namespace = &key.name;
        if !active(&self.namespaces, namespace) || self.accounts.get(&ObjectKey::new(namespace, DEFAULT)).is_some() {
            return Ok(None);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(DEFAULT.into()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        exists_is_fine(api.create(&PostParams::default(), &account).await)
            .map_err(Error::api(format!("create service account {namespace}/{DEFAULT}")))?;
        Ok(None)
    }
}

struct Publisher {
    what: &'static Published,
    client: Client,
    queue: WorkQueue<ObjectKey>,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
    pem: String,
}

pub fn root_ca(cx: &Context) -> Arc<dyn Controller> {
    publisher(cx, &ROOT_CA)
}

pub fn service_ca(cx: &Context) -> Arc<dyn Controller> {
    publisher(cx, &SERVICE_CA)
}

fn publisher(cx: &Context, what: &'static Published) -> Arc<dyn Controller> {
    let this = Publisher {
        what,
        client: cx.client.clone(),
        queue: cx.queue(),
        namespaces: cx.informers.of(),
        config_maps: cx.informers.of(),
        pem: cx.config.root_ca_pem.clone(),
    };
    watch_namespaces(&this.namespaces, &this.queue);
    watch_object(&this.config_maps, &this.queue, what.config_map);
    Arc::new(this)
}

#[async_trait]
impl Controller for Publisher {
    fn name(&self) -> &'static str {
        self.what.controller
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.namespaces.synced().await;
        self.config_maps.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let namespace = &key.name;
        if !active(&self.namespaces, namespace) {
            return Ok(None);
        }
        let Published { config_map: name, key: entry, annotation, .. } = self.what;
        let data = Some(BTreeMap::from([((*entry).to_owned(), self.pem.clone())]));
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let doing = |verb: &str| format!("{verb} config map {namespace}/{name}");
        match self.config_maps.get(&ObjectKey::new(namespace, *name)) {
            Some(known) if known.data == data => {}
            Some(known) => {
                let changed = ConfigMap { data, ..ConfigMap::clone(&known) };
                api.replace(name, &PostParams::default(), &changed).await.map_err(Error::api(doing("update")))?;
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some((*name).to_owned()),
                    annotations: Some(BTreeMap::from([(annotation.0.to_owned(), annotation.1.to_owned())])),
                    ..ObjectMeta::default()
                };
                let config_map = ConfigMap { metadata, data, ..ConfigMap::default() };
                exists_is_fine(api.create(&PostParams::default(), &config_map).await)
                    .map_err(Error::api(doing("create")))?;
            }
        }
        Ok(None)
    }
}
