//! The Cluster service: a cluster of one, which it stays.

use tonic::{Request, Response, Status};

use super::Face;
use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::cluster_server::Cluster;

impl Face {
    pub(super) fn member(&self) -> pb::Member {
        pb::Member {
            id: self.identity.member_id,
            name: self.config.name.clone(),
            // It has no peers to talk to; clients that copy the list want one.
            peer_ur_ls: self.config.client_urls.clone(),
            client_ur_ls: self.config.client_urls.clone(),
            is_learner: false,
        }
    }

    fn known(&self, id: u64) -> Result<(), Status> {
        if id == self.identity.member_id { Ok(()) } else { Err(Status::not_found("etcdserver: member not found")) }
    }
}

fn alone() -> Status {
    Status::failed_precondition("etcdserver: re-configuration failed due to not enough started members")
}

fn check_urls(urls: &[String]) -> Result<(), Status> {
    let good = |url: &String| {
        url.split_once("://").is_some_and(|(scheme, rest)| {
            let host = rest.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
            match scheme {
                "http" | "https" => host.is_some() && !rest.contains('/'),
                "unix" | "unixs" => !rest.is_empty(),
                _ => false,
            }
        })
    };
    if !urls.is_empty() && urls.iter().all(good) {
        return Ok(());
    }
    Err(Status::invalid_argument("etcdserver: given member URLs are invalid"))
}

#[tonic::async_trait]
impl Cluster for Face {
    async fn member_list(
        &self,
        _request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        Ok(Response::new(pb::MemberListResponse { header: self.header_at(0), members: vec![self.member()] }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        check_urls(&request.get_ref().peer_ur_ls)?;
        Err(alone())
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.known(request.get_ref().id)?;
        Err(alone())
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        check_urls(&request.get_ref().peer_ur_ls)?;
        self.known(request.get_ref().id)?;
        Err(alone())
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.known(request.get_ref().id)?;
        Err(Status::failed_precondition("etcdserver: can only promote a learner member"))
    }
}
