//! Hands a request to the service that its path names.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::pb::etcdserverpb::auth_server::AuthServer;
use super::pb::etcdserverpb::cluster_server::ClusterServer;
use super::pb::etcdserverpb::kv_server::KvServer;
use super::pb::etcdserverpb::lease_server::LeaseServer;
use super::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use super::pb::etcdserverpb::watch_server::WatchServer;
use super::pb::grpc::health::v1::health_server::HealthServer;
use super::pb::v3electionpb::election_server::ElectionServer;
use super::pb::v3lockpb::lock_server::LockServer;
use super::{Face, errors};

impl Face {
    /// Never fails: errors are responses.
    pub(super) async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if !is_grpc(request.headers()) {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            return Ok(self.http(&method, &path).await);
        }
        let limit = self.max_message_bytes();
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let service = service.map_or("", |(service, _)| service);
        macro_rules! to {
            ($server:ident) => {
                $server::from_arc(self).max_decoding_message_size(limit).call(request).await
            };
        }
        let response = match service {
            "etcdserverpb.KV" => to!(KvServer),
            "etcdserverpb.Watch" => to!(WatchServer),
            "etcdserverpb.Lease" => to!(LeaseServer),
            "etcdserverpb.Maintenance" => to!(MaintenanceServer),
            "etcdserverpb.Cluster" => to!(ClusterServer),
            "etcdserverpb.Auth" => to!(AuthServer),
            "v3lockpb.Lock" => to!(LockServer),
            "v3electionpb.Election" => to!(ElectionServer),
            "grpc.health.v1.Health" => to!(HealthServer),
            unknown => Ok(Status::unimplemented(format!("unknown service {unknown}")).into_http()),
        };
        response.map(etcd_words)
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Errors of the library in the words of etcd's.
fn etcd_words(response: Response<Body>) -> Response<Body> {
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => match errors::oversized(&status) {
            Some(status) => status.into_http(),
            None => response,
        },
        _ => response,
    }
}
