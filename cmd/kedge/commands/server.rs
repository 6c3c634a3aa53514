//! `kedge server`: a whole cluster in this process.
//!
//! Everything that can be refused is refused in [`crate::server::preflight`], before anything is touched.

use std::time::Duration;

use anyhow::{Context as _, Result};
use component_base::{CancellationToken, RealClock, TaskGroup};
use tracing::{info, warn};

use crate::config::ServerOptions;
use crate::config::datastore::snapshot_dir;
use crate::server::admin::{self, Control, Reply};
use crate::server::preflight::Held;
use crate::server::{cluster, preflight};
use crate::snapshots;

/// A clean stop takes no longer.
const GRACE: Duration = Duration::from_secs(5);

pub fn run(options: ServerOptions) -> Result<()> {
    sys::memory::prefer_small();
    options.validate().map_err(anyhow::Error::msg)?;
    crate::logging::init(&options.log);
    // Loaded machines have few cores to spare, and our work is short: more workers would only cost memory.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(serve(options));
    // What is left are blocking reads that nobody waits for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(options: ServerOptions) -> Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = signal(tokio::signal::unix::SignalKind::interrupt())?;
    let stop = shutdown.clone();
    let signals = async move {
        let name = tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        info!(signal = name, "stopping; pods keep running");
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let life = async {
        let held = preflight::check(&options).await?;
        info!(version = crate::version::GIT_VERSION, commit = crate::version::GIT_COMMIT, "starting kedge server");
        live(&options, &held, &shutdown).await
    };
    tokio::select! { result = life => result, () = signals => Ok(()) }
}

/// Runs the cluster until `shutdown`, and again after every restore.
async fn live(options: &ServerOptions, held: &Held, shutdown: &CancellationToken) -> Result<()> {
    let data_dir = &options.agent.data_dir;
    let clock = RealClock::shared();
    let snapshot_dir = snapshot_dir(options.snapshots.etcd_snapshot_dir.as_deref(), data_dir);
    let (control, mut restores) =
        Control::new(held.node_name.clone(), snapshot_dir, options.datastore.external(), clock.clone());
    let tasks = TaskGroup::new();
    if let Err(error) = admin::listen(data_dir, &control, &tasks) {
        warn!("{error:#}: 'kedge etcd-snapshot' cannot reach this server");
    }
    let result = loop {
        let round = shutdown.child_token();
        let mut life = std::pin::pin!(cluster::run(options, held, &control, round.clone(), GRACE));
        let restore = tokio::select! {
            result = &mut life => break result,
            Some(restore) = restores.recv() => restore,
        };
        round.cancel();
        if let Err(error) = life.await {
            break Err(error);
        }
        let (file, folder, now) = (restore.file, data_dir.clone(), clock.now());
        let done = tokio::task::spawn_blocking(move || snapshots::restore(&file, &folder, now)).await?;
        let reply = match done {
            Ok(done) => Reply::Restored { revision: done.revision, keys: done.keys, kept: done.kept },
            Err(error) => Reply::Failed(format!("{error:#}")),
        };
        // Whoever asked may have gone.
        restore.reply.send(reply).ok();
        if shutdown.is_cancelled() {
            break Ok(());
        }
    };
    tasks.stop().await;
    result
}

pub(super) fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(kind).context("cannot listen for signals")
}
