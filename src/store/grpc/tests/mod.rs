//! Tests of the face: against a real etcd, with etcd's own client, by hand, and with nonsense.

mod checker;
mod differential;
mod etcdctl;
mod fuzz;
mod harness;
mod library;
mod linearizable;
mod streams;
mod transports;

use std::sync::Arc;

use bytes::Bytes;
use component_base::{CancellationToken, RealClock, TaskGroup};
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming};

use self::harness::*;
use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use super::pb::etcdserverpb::request_op::Request as RequestOp;
use super::pb::etcdserverpb::watch_request::RequestUnion;
use super::{Endpoint, Face, FaceConfig, Listener};
use crate::maintenance::Maintenance;
use crate::sqlite::tests::until;
use crate::{SqliteConfig, SqliteStore, Store as _};
