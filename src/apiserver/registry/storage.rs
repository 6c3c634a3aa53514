//! Reading and writing one object in the store.

use std::sync::Arc;

use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::Value;
use store::{KeyRange, Op, OpResponse, PutRequest, TxnRequest};

use super::Cx;
use crate::cache::{Meta, Object, ObjectReader as _, encode};
use crate::wire::errors;

/// An object as it is stored now, or its absence.
pub type Current = Option<Arc<Object>>;

/// The outcome of a guarded write.
pub enum Written {
    /// It is stored like this.
    Done(Arc<Object>),
    /// Somebody was faster: this is what is there.
    Lost(Current),
}

impl Cx {
    /// The object as of the last acknowledged write.
    pub async fn current(&self, key: &[u8]) -> Current {
        self.server.cache.fresh().await;
        self.resource.get(key)
    }

    /// Stores `value` (in the storage version) if the key is still as in `current`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put(&self, key: &Bytes, value: &Value, current: Option<&Object>) -> Result<Written, Status> {
        let bytes = encode::encode(value).ok_or_else(|| Status::internal("the object to store is no object"))?;
        if let Some(current) = current {
            if current.stored() == &bytes && !current.rewritten {
                return Ok(Written::Done(Arc::new(current.clone())));
            }
        }
        let put = Op::Put(PutRequest::new(key.clone(), bytes.clone()));
        let request = TxnRequest::guarded(key.clone(), current.map_or(0, |object| object.revision), put);
        let response = self.server.store.txn(request).await.map_err(|error| errors::store(&error))?;
        if !response.succeeded {
            return Ok(Written::Lost(self.found(response.responses)));
        }
        let meta = Meta::of(value, &|value| self.resource.fields_of(value));
        let object = Object::with_meta(key.clone(), bytes, response.revision, meta)
            .ok_or_else(|| Status::internal("the encoded object is malformed"))?;
        Ok(Written::Done(Arc::new(object)))
    }

    /// Deletes the key if it is still as in `current`. The object of the outcome is the last state, at the revision of
    /// the deletion.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove(&self, current: &Object) -> Result<Written, Status> {
        let delete = Op::Delete { range: KeyRange::key(current.key.clone()), prev_kv: false };
        let request = TxnRequest::guarded(current.key.clone(), current.revision, delete);
        let response = self.server.store.txn(request).await.map_err(|error| errors::store(&error))?;
        if !response.succeeded {
            return Ok(Written::Lost(self.found(response.responses)));
        }
        Ok(Written::Done(Arc::new(current.at_revision(response.revision))))
    }

    fn found(&self, responses: Vec<OpResponse>) -> Current {
        let kv = responses.into_iter().find_map(|response| match response {
            OpResponse::Range(range) => range.kvs.into_iter().next(),
            _ => None,
        })?;
        self.resource.object(&kv).map(Arc::new)
    }

    /// An object is gone: what it had of the cluster's shared numbers is free.
    pub fn released(&self, object: &Value) {
        self.server.services.free(&self.kind.strategy.claims(object), &api::Claims::default());
    }
}
