//! IPAddress objects: they say which Service has an address. The pool decides, they follow it.
//!
//! Invariants:
//! - IP-1: every cluster IP of a Service has an IPAddress of this server's making; one whose Service does not have it any
//!   more goes. Those that somebody else made are left alone.

use std::net::IpAddr;
use std::sync::Arc;

use ::http::Method;
use api::networking::ipaddress;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tracing::debug;

use super::SERVICES;
use crate::ApiServer;
use crate::bootstrap::FrontDoor;
use crate::cache::{Event, Object, ObjectReader as _};

/// The storage key of IPAddresses.
pub const ADDRESSES: &str = "ipaddresses";
const COLLECTION: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// Follows Services and IPAddresses until the server stops.
pub async fn run(server: &ApiServer) {
    let cache = &server.server.cache;
    let (Some(mut services), Some(mut addresses)) = (cache.subscribe(SERVICES), cache.subscribe(ADDRESSES)) else {
        return;
    };
    let keeper = Keeper { server, front: FrontDoor::new(server) };
    loop {
        cache.fresh().await;
        keeper.all().await;
        loop {
            let event = tokio::select! {
                event = services.recv() => event.map(|event| (true, event)),
                event = addresses.recv() => event.map(|event| (false, event)),
            };
            match event {
                Ok((true, event)) => keeper.service_changed(&event).await,
                Ok((false, event)) => keeper.address_changed(&event.object).await,
                // Too much at once: everything is looked at again.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

struct Keeper<'a> {
    server: &'a ApiServer,
    front: FrontDoor<'a>,
}

impl Keeper<'_> {
    async fn all(&self) {
        let cache = &self.server.server.cache;
        for service in cache.peek_all(SERVICES, None) {
            for address in self.addresses_of(&service) {
                self.settle(address, &service.meta.namespace, &service.meta.name).await;
            }
        }
        for address in cache.peek_all(ADDRESSES, None) {
            self.address_changed(&address).await;
        }
    }

    async fn service_changed(&self, event: &Arc<Event>) {
        let mut addresses = self.addresses_of(&event.object);
        addresses.extend(event.prev.iter().flat_map(|prev| self.addresses_of(prev)));
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            self.settle(address, &event.object.meta.namespace, &event.object.meta.name).await;
        }
    }

    async fn address_changed(&self, object: &Object) {
        if let Some((address, service)) = ipaddress::service_of(&object.value()) {
            let (namespace, name) = service.split_once('/').unwrap_or(("", &service));
            self.settle(address, namespace, name).await;
        }
    }

    fn addresses_of(&self, service: &Object) -> Vec<IpAddr> {
        let kind = self.server.server.kinds.storage_kind(SERVICES);
        kind.map(|kind| kind.strategy.claims(&service.value()).ips).unwrap_or_default()
    }

    /// Makes there be an object when the Service has the address now, and none of that Service when it has not.
    async fn settle(&self, address: IpAddr, namespace: &str, name: &str) {
        let cache = &self.server.server.cache;
        let text = address.to_string();
        let service = cache.peek(SERVICES, namespace, name);
        let has = service.is_some_and(|service| self.addresses_of(&service).contains(&address));
        let kept = cache.peek(ADDRESSES, "", &text).map(|object| object.value());
        let outcome = match (has, kept) {
            (true, None) => {
                let object = ipaddress::of_service(address, namespace, name);
                self.front.send(Method::POST, COLLECTION, &object).await
            }
            (false, Some(kept)) => {
                let ours = ipaddress::service_of(&kept).is_some_and(|(_, key)| key == format!("{namespace}/{name}"));
                if !ours {
                    return;
                }
                self.front.send(Method::DELETE, &format!("{COLLECTION}/{text}"), &json!({})).await
            }
            _ => return,
        };
        if let Err(error) = outcome {
            debug!(address = text, error, "IPAddress not settled");
        }
    }
}
