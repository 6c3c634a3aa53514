//! Priority levels: what their configuration means in seats.
//!
//! Invariants:
//! - LV-1: the levels' nominal seats are the server's, shared out by their shares; what a level may not lend is its own
//!   whatever the others do.

use std::sync::atomic::AtomicU64;

use ::http::HeaderValue;
use serde_json::Value;

/// A priority level as requests see it.
pub struct Level {
    /// Of its seats in the dispatcher.
    pub id: u64,
    pub name: String,
    /// For the response's header.
    pub uid: Option<HeaderValue>,
    /// Runs at once, always.
    pub exempt: bool,
    /// Of an exempt level: what runs, and what ever ran.
    pub executing: AtomicU64,
    pub dispatched: AtomicU64,
}

/// Where requests of a level wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    /// Of how many queues a flow may use the shortest.
    pub hand: usize,
    /// Of each queue.
    pub length: usize,
}

/// The seats of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub nominal: i64,
    /// Never lent to others.
    pub own: i64,
    /// Never more than these, borrowed ones included.
    pub most: i64,
    /// `None`: what cannot run is rejected.
    pub queuing: Option<Queuing>,
}

/// The limits of each level (PriorityLevelConfigurations) when all together have `seats`.
pub fn limits(levels: &[Value], seats: i64) -> Vec<Limits> {
    let sum: i64 = levels.iter().map(shares).sum();
    levels.iter().map(|level| limits_of(level, seats, sum)).collect()
}

fn part(level: &Value) -> &Value {
    &level["spec"][if is_exempt(level) { "exempt" } else { "limited" }]
}

pub fn is_exempt(level: &Value) -> bool {
    level["spec"]["type"] == "Exempt"
}

fn shares(level: &Value) -> i64 {
    let default = if is_exempt(level) { 0 } else { 30 };
    part(level)["nominalConcurrencyShares"].as_i64().unwrap_or(default).max(0)
}

fn limits_of(level: &Value, seats: i64, sum: i64) -> Limits {
    let part = part(level);
    let nominal = if sum == 0 { 0 } else { (seats * shares(level) + sum - 1) / sum };
    let percent = |key: &str| part[key].as_i64();
    let of = |percent: i64| (nominal * percent + 50) / 100;
    let queuing = &part["limitResponse"]["queuing"];
    let number = |key: &str, default: usize| {
        queuing[key].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    Limits {
        nominal,
        own: nominal - of(percent("lendablePercent").unwrap_or(0)),
        most: percent("borrowingLimitPercent").map_or(i64::MAX / 2, |limit| nominal + of(limit)),
        queuing: (part["limitResponse"]["type"] == "Queue").then(|| Queuing {
            queues: number("queues", 64),
            hand: number("handSize", 8),
            length: number("queueLengthLimit", 50),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_as_upstream_shares_them_out() {
        let levels = api::flowcontrol::bootstrap::objects("PriorityLevelConfiguration");
        let all = limits(&levels, 600);
        let of = |name: &str| {
            let at = levels.iter().position(|level| level["metadata"]["name"] == name).expect("a level");
            (all[at].nominal, all[at].own)
        };
        // 245 shares.
        assert_eq!(of("exempt"), (0, 0));
        assert_eq!(of("catch-all"), (13, 13));
        assert_eq!(of("workload-low"), (245, 24));
        assert_eq!(of("node-high"), (98, 73));
        assert_eq!(of("leader-election"), (25, 25));
    }
}
