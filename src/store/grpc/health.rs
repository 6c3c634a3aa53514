//! The gRPC health-checking service.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Face;
use super::pb::grpc::health::v1::health_check_response::ServingStatus;
use super::pb::grpc::health::v1::health_server::Health;
use super::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use crate::Alarm;

type States = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

impl Face {
    /// Why writes or reads are refused, if they are.
    pub(super) fn unhealthy(&self) -> Option<&'static str> {
        self.store.alarms().first().map(|alarm| match alarm {
            Alarm::NoSpace => "ALARM NOSPACE",
            Alarm::Corrupt => "ALARM CORRUPT",
        })
    }

    fn serving(&self) -> HealthCheckResponse {
        let serving = !self.store.is_on(Alarm::Corrupt);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status as i32 }
    }
}

#[tonic::async_trait]
impl Health for Face {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(self.serving()))
    }

    type WatchStream = States;

    async fn watch(&self, _request: Request<HealthCheckRequest>) -> Result<Response<States>, Status> {
        let now = futures::stream::once(std::future::ready(Ok(self.serving())));
        Ok(Response::new(Box::pin(now.chain(futures::stream::pending()))))
    }
}
