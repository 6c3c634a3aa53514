//! All controllers against an API server over plain HTTP: for trying them out beside apiserver's example `plain`.
//!
//! `cargo run -p controller-manager --example controllers -- http://127.0.0.1:18080 [seconds a node may be silent]`

use std::time::Duration;

use client::Informers;
use component_base::supervisor::BoxError;
use component_base::{Ready, RealClock, Service as _, ServiceContext, TaskGroup};
use controller_manager::{ControllerManager, ControllerManagerConfig};
use kube::{Client, Config};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let argument = |n: usize| std::env::args_os().nth(n).and_then(|argument| argument.into_string().ok());
    let (server, grace) = (argument(1), argument(2).and_then(|seconds| seconds.parse().ok()));
    let client = Client::try_from(Config::new(server.as_deref().unwrap_or("http://127.0.0.1:18080").parse()?))?;
    let (tasks, clock) = (TaskGroup::new(), RealClock::shared());
    let config = ControllerManagerConfig {
        cluster_cidr: "10.42.0.0/16".parse()?,
        node_cidr_prefix: 24,
        root_ca_pem: String::new(),
        node_grace: Duration::from_secs(grace.unwrap_or(50)),
    };
    let informers = Informers::new(client.clone(), tasks.clone(), clock.clone());
    let service = ControllerManager::new(config, client, informers);
    service.run(ServiceContext { shutdown: tasks.token().clone(), clock, ready: Ready::new() }).await
}
