//! The messages and services of the protocol, as generated from `proto/`.

#![allow(clippy::all, clippy::unwrap_used, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/etcd_protos.rs"));

impl From<crate::KeyValue> for mvccpb::KeyValue {
    fn from(kv: crate::KeyValue) -> Self {
        Self {
            key: kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: kv.value,
            lease: kv.lease,
        }
    }
}
