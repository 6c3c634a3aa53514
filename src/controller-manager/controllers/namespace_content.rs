//! What every namespace must have: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
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
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
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

struct RootCa {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
    pem: String,
}

pub fn root_ca(cx: &Context) -> Arc<dyn Controller> {
    let this = RootCa {
        client: cx.client.clone(),
        queue: cx.queue(),
        namespaces: cx.informers.of(),
        config_maps: cx.informers.of(),
        pem: cx.config.root_ca_pem.clone(),
    };
    watch_namespaces(&this.namespaces, &this.queue);
    watch_object(&this.config_maps, &this.queue, ROOT_CA);
    Arc::new(this)
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
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
        let annotation = ("kubernetes.io/description".to_owned(), ROOT_CA_DESCRIPTION.to_owned());
        let data = Some(BTreeMap::from([(ROOT_CA_KEY.to_owned(), self.pem.clone())]));
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let doing = |verb: &str| format!("{verb} config map {namespace}/{ROOT_CA}");
        match self.config_maps.get(&ObjectKey::new(namespace, ROOT_CA)) {
            Some(known) if known.data == data => {}
            Some(known) => {
                let changed = ConfigMap { data, ..ConfigMap::clone(&known) };
                api.replace(ROOT_CA, &PostParams::default(), &changed).await.map_err(Error::api(doing("update")))?;
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(ROOT_CA.into()),
                    annotations: Some(BTreeMap::from([annotation])),
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
