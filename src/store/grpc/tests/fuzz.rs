//! Nonsense: whatever bytes come, each request is answered and the connection goes on.
//!
//! proptest prints the seed of what fails. `PROPTEST_CASES` makes it longer than CI has time for.

use proptest::prelude::*;
use prost::Message;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;

use super::super::convert;
use super::*;
use crate::KeyRange;

/// Sends bytes as they are and does not look at the answer.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(out, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let rest = bytes::Buf::remaining(buffer);
        bytes::Buf::advance(buffer, rest);
        Ok(Some(()))
    }
}

/// Bytes, or something close to a real message.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::collection::vec(prop_oneof![Just(0_u8), Just(b'k'), Just(0xff), any::<u8>()], 0..4);
    let real = (key.clone(), key, any::<i64>(), any::<i32>()).prop_flat_map(|(key, end, number, order)| {
        let (key, range_end) = (Bytes::from(key), Bytes::from(end));
        let range = pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: number,
            sort_order: order % 4,
            sort_target: order % 7,
            ..Default::default()
        };
        let put =
            pb::PutRequest { key: key.clone(), value: range_end.clone(), lease: number % 2, ..Default::default() };
        let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: true };
        let success = vec![
            op(RequestOp::RequestRange(range.clone())),
            op(RequestOp::RequestPut(put.clone())),
            op(RequestOp::RequestDeleteRange(delete.clone())),
        ];
        let txn = pb::TxnRequest { success, ..Default::default() };
        let messages = vec![range.encode_to_vec(), put.encode_to_vec(), delete.encode_to_vec(), txn.encode_to_vec()];
        (prop::sample::select(messages), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            // Half of them with one byte changed.
            if byte % 2 == 0 && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..64), real]
}

const PATHS: [&str; 14] = [
    RANGE,
    PUT,
    DELETE,
    TXN,
    GRANT,
    REVOKE,
    TTL,
    LEASES,
    HASH_KV,
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/v3electionpb.Election/Resign",
    "/etcdserverpb.KV/Nothing",
];

#[test]
fn nonsense_is_answered_and_the_connection_kept() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, client) = runtime.block_on(async {
        let ours = Ours::start().await;
        let client = ours.client().await;
        (ours, client)
    });
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(path in prop::sample::select(PATHS.to_vec()), bytes in message())| {
        let status: pb::StatusResponse = runtime.block_on(async {
            let mut grpc = tonic::client::Grpc::new(client.0.clone());
            grpc.ready().await.unwrap();
            let answer = grpc.unary(Request::new(bytes), PathAndQuery::from_static(path), Raw).await;
            if let Err(status) = answer {
                assert_ne!(status.code(), Code::Unavailable, "{status}");
            }
            // The same connection: the channel has only one and would say so if it were gone.
            client.unary(STATUS, pb::StatusRequest {}).await.unwrap()
        });
        prop_assert_eq!(status.errors, Vec::<String>::new());
    });
    runtime.block_on(ours.stop());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_never_panics(bytes in message()) {
        if let Ok(txn) = pb::TxnRequest::decode(&bytes[..]) {
            convert::txn(txn, 128).ok();
        }
        if let Ok(range) = pb::RangeRequest::decode(&bytes[..]) {
            if let Ok(range) = convert::range(range.clone()) {
                prop_assert!(!range.range.start.is_empty());
            }
        }
        if let Ok(put) = pb::PutRequest::decode(&bytes[..]) {
            convert::put(&put).ok();
        }
        pb::WatchRequest::decode(&bytes[..]).ok();
    }

    #[test]
    fn own_bytes_are_equal_and_apart(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let message = Bytes::from(bytes);
        let own = convert::own(&message);
        prop_assert_eq!(&own, &message);
        prop_assert!(own.is_empty() || own.as_ptr() != message.as_ptr());
    }

    #[test]
    fn a_range_holds_what_lies_between(
        start in prop::collection::vec(any::<u8>(), 1..4),
        end in prop::collection::vec(any::<u8>(), 0..4),
        key in prop::collection::vec(any::<u8>(), 1..4),
    ) {
        let range = KeyRange { start: start.clone().into(), end: end.clone().into() };
        let expected = match end.as_slice() {
            [] => key == start,
            [0] => key >= start,
            end => key >= start && key.as_slice() < end,
        };
        prop_assert_eq!(range.contains(&key), expected);
    }
}
