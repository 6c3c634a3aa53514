//! What every component stands on: an injected clock, owned tasks, the supervisor, metrics.
//!
//! Invariants:
//! - CB-1: no task outlives the [`TaskGroup`] that spawned it.
//! - CB-2: time is read only through a [`Clock`].

pub mod backoff;
pub mod clock;
pub mod metrics;
pub mod supervisor;
pub mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, FakeClock, RealClock, SharedClock};
pub use metrics::Metrics;
pub use supervisor::{Ready, Service, ServiceContext, Supervisor, SupervisorError};
pub use tasks::TaskGroup;
pub use tokio_util::sync::CancellationToken;
