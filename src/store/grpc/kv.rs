//! The KV service.

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::kv_server::Kv;
use super::{Face, convert, errors};
use crate::{Error, Op, OpResponse, TxnRequest};

#[tonic::async_trait]
impl Kv for Face {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = convert::range(request.into_inner())?;
        let response = self.store.range(request).await.map_err(errors::status)?;
        let header = self.header_at(response.revision);
        Ok(Response::new(convert::range_response(response, header)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let request = request.into_inner();
        let put = convert::put(&request)?;
        self.check_corrupt()?;
        self.check_space()?;
        self.check_size(request.encoded_len())?;
        drop(request);
        let lease = put.lease;
        let mut response = match self.store.txn(TxnRequest::ops(vec![Op::Put(put)])).await {
            Ok(response) => response,
            // Outside a transaction etcd looks for the lease before the key.
            Err(Error::KeyNotFound) if lease != 0 && !self.store.leases().await.is_ok_and(|l| l.contains(&lease)) => {
                return Err(errors::status(Error::LeaseNotFound(lease)));
            }
            Err(error) => return Err(errors::status(error)),
        };
        let prev_kv = match response.responses.pop() {
            Some(OpResponse::Put { prev_kv }) => prev_kv.map(Into::into),
            _ => None,
        };
        Ok(Response::new(pb::PutResponse { header: self.header_at(response.revision), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        let size = request.encoded_len();
        let delete = convert::delete(request)?;
        self.check_corrupt()?;
        self.check_size(size)?;
        let mut response = self.store.txn(TxnRequest::ops(vec![delete])).await.map_err(errors::status)?;
        let (deleted, prev_kvs) = match response.responses.pop() {
            Some(OpResponse::Delete { deleted, prev_kvs }) => (deleted, prev_kvs),
            _ => (0, Vec::new()),
        };
        let header = self.header_at(response.revision);
        Ok(Response::new(convert::delete_response(header, deleted, prev_kvs)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let request = request.into_inner();
        let size = request.encoded_len();
        let txn = convert::txn(request, self.config.max_txn_ops)?;
        if !convert::is_read_only(&txn) {
            self.check_corrupt()?;
            if convert::needs_space(&txn) {
                self.check_space()?;
            }
            self.check_size(size)?;
        }
        let response = self.store.txn(txn).await.map_err(errors::status)?;
        let header = self.header_at(response.revision);
        Ok(Response::new(convert::txn_response(response, header)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let request = request.into_inner();
        self.check_corrupt()?;
        match self.store.compact(request.revision).await {
            Ok(()) => {}
            // To etcd a new store has been compacted at -1: revision 0 is nothing to do, but no error.
            Err(Error::Compacted { compacted: 0 }) if request.revision == 0 => {}
            Err(error) => return Err(errors::status(error)),
        }
        if request.physical {
            self.store.wait_swept().await.map_err(errors::status)?;
        }
        Ok(Response::new(pb::CompactionResponse { header: self.header() }))
    }
}
