//! Cluster IPs and node ports, as pools. Which of them an object needs, its kind's strategy knows (`Strategy::allocate`);
//! what one write takes is a [`Transaction`].
//!
//! Invariants:
//! - AL-1: an address or port is taken by one object at most, also while several are being created at once.
//! - AL-2: what is not asked for by value comes from the upper band first, so that the lower band stays free for those
//!   who choose (KEP-3070, KEP-3668).
//! - AL-3: a dry run keeps nothing.

pub mod addresses;
mod pool;
mod transaction;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::cache::ObjectReader;
use crate::kinds::Kinds;
use pool::Pool;
pub use transaction::Transaction;

/// The storage key of Services.
pub const SERVICES: &str = "services/specs";

pub struct ServiceAllocator {
    cidr: IpNet,
    ports_range: RangeInclusive<u16>,
    state: Arc<Mutex<State>>,
}

struct State {
    ips: Pool,
    ports: Pool,
}

impl ServiceAllocator {
    /// Knows what the Services in the cache have, and the addresses that somebody else put aside.
    pub fn load(cidr: IpNet, ports: RangeInclusive<u16>, kinds: &Kinds, reader: &dyn ObjectReader) -> Self {
        let first = number(cidr.network());
        let size = 1u128.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len())).unwrap_or(u128::MAX);
        // The network's own address is nobody's, and neither is IPv4's broadcast address.
        let last = first.saturating_add(size - 1).saturating_sub(u128::from(cidr.addr().is_ipv4() && size > 2));
        let port_size = u128::from(*ports.end() - *ports.start()) + 1;
        let this = Self {
            state: Arc::new(Mutex::new(State {
                ips: Pool::new(first + 1, last, pool::address_band(last - first)),
                ports: Pool::new(u128::from(*ports.start()), u128::from(*ports.end()), pool::port_band(port_size)),
            })),
            cidr,
            ports_range: ports,
        };
        for key in [SERVICES, addresses::ADDRESSES] {
            let Some(kind) = kinds.storage_kind(key) else { continue };
            let mut state = this.state.lock();
            for object in reader.peek_all(key, None) {
                let claims = kind.strategy.claims(&object.value());
                // One that is outside of the ranges of today keeps what it has.
                for ip in claims.ips {
                    let _ = state.ips.take(number(ip));
                }
                for port in claims.ports {
                    let _ = state.ports.take(u128::from(port));
                }
            }
        }
        this
    }

    /// The address of `default/kubernetes`.
    pub fn first_address(&self) -> IpAddr {
        address(number(self.cidr.network()) + 1, self.cidr.addr().is_ipv4())
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).expect("the pool was made of IPv4 addresses")))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests;
