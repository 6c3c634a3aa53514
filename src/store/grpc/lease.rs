//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::lease_server::Lease;
use super::{Face, errors};
use crate::{Error, LeaseStatus, Maintenance};

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for Face {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        self.check_corrupt()?;
        self.check_space()?;
        let lease = self.store.lease_grant(request.id, request.ttl).await.map_err(errors::status)?;
        let (id, ttl) = (lease.id, lease.ttl_seconds);
        Ok(Response::new(pb::LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.check_corrupt()?;
        let revision = self.store.lease_revoke(request.into_inner().id).await.map_err(errors::status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header_at(revision) }))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let requests = request.into_inner();
        let store: Arc<dyn Maintenance> = Arc::clone(&self.store);
        let header = self.header();
        let answers = futures::stream::try_unfold(requests, move |mut requests| {
            let store = Arc::clone(&store);
            let mut header = header;
            async move {
                let Some(request) = requests.message().await? else { return Ok(None) };
                // A lease that is not there is no error here: it has no time left.
                let ttl = match store.lease_keep_alive(request.id).await {
                    Ok(lease) => lease.ttl_seconds,
                    Err(Error::LeaseNotFound(_)) => 0,
                    Err(error) => return Err(errors::status(error)),
                };
                if let Some(header) = &mut header {
                    header.revision = store.revision();
                }
                Ok(Some((pb::LeaseKeepAliveResponse { header, id: request.id, ttl }, requests)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let status = self.store.lease_time_to_live(request.id).await.map_err(errors::status)?;
        let LeaseStatus { lease, remaining_seconds, keys } = status;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: self.header(),
            id: lease.id,
            ttl: remaining_seconds,
            granted_ttl: lease.ttl_seconds,
            keys: if request.keys { keys } else { Vec::new() },
        }))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().await.map_err(errors::status)?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header(), leases }))
    }
}
