//! `kedge server`: a whole cluster in this process.
//!
//! Everything that can be refused is refused in [`crate::server::preflight`], before anything is touched.

use std::time::Duration;

use anyhow::{Context as _, Result};
use component_base::CancellationToken;
use tracing::info;

use crate::config::ServerOptions;
use crate::server::{cluster, preflight};

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
        cluster::run(&options, held, shutdown.clone(), GRACE).await
    };
    tokio::select! { result = life => result, () = signals => Ok(()) }
}

fn signal(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(kind).context("cannot listen for signals")
}
