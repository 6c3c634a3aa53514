//! Cluster IPs and node ports of Services.
//!
//! The registry calls [`ServiceAllocator::assign`] with the new Service before it is validated and stored, and
//! [`Reservation::commit`] once it is; a reservation that is dropped gives back what it took.
//!
//! Invariants:
//! - AL-1: an address or port is taken by one Service at most, also while several are being created at once.
//! - AL-2: what is not asked for by value comes from the upper band first, so that the lower band stays free for those
//!   who choose (KEP-3070, KEP-3668).
//! - AL-3: a dry run takes nothing.

mod pool;
mod service;
mod transaction;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cache::ObjectReader;
use pool::{Pool, Refused};
use service::{addresses, needs_cluster_ip, node_ports, wants_health_port, wants_node_ports};
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

/// What one write has taken and will give up.
#[must_use = "a dropped reservation is given back"]
pub struct Reservation {
    state: Arc<Mutex<State>>,
    taken_ips: Vec<u128>,
    taken_ports: Vec<u128>,
    freed_ips: Vec<u128>,
    freed_ports: Vec<u128>,
}

impl ServiceAllocator {
    /// Knows what the Services in the cache have.
    pub fn load(cidr: IpNet, ports: RangeInclusive<u16>, reader: &dyn ObjectReader) -> Self {
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
        for object in reader.peek_all(SERVICES, None) {
            this.adopt(&object.value());
        }
        this
    }

    /// The address of `default/kubernetes`.
    pub fn first_address(&self) -> IpAddr {
        address(number(self.cidr.network()) + 1, self.cidr.addr().is_ipv4())
    }

    fn adopt(&self, service: &Value) {
        let mut state = self.state.lock();
        for ip in addresses(service) {
            let _ = state.ips.take(number(ip));
        }
        for port in node_ports(service) {
            let _ = state.ports.take(u128::from(port));
        }
    }

    /// Completes a Service that is being created (`old` absent) or updated: IP families, addresses and ports that it
    /// leaves to the server.
    ///
    /// # Errors
    /// 422 for addresses and ports that cannot be had, 500 when there are none left.
    pub fn assign(&self, service: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Reservation, Status> {
        if !service["spec"].is_object() {
            return Ok(self.nothing());
        }
        if let Some(old) = old {
            service::keep_allocated(service, old);
        }
        service::default_families(service, self.cidr.addr().is_ipv4());
        let mut reservation = self.nothing();
        let had_ips: Vec<IpAddr> = old.map(addresses).unwrap_or_default();
        let had_ports: Vec<u16> = old.map(node_ports).unwrap_or_default();
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            let outcome = self
                .assign_address(&mut state.ips, service, &had_ips, &mut reservation)
                .and_then(|()| self.assign_ports(&mut state.ports, service, &had_ports, &mut reservation));
            if outcome.is_err() || dry_run {
                reservation.give_back(state);
                reservation.freed_ips.clear();
                reservation.freed_ports.clear();
                outcome?;
                return Ok(reservation);
            }
        }
        let (has_ips, has_ports) = (addresses(service), node_ports(service));
        reservation.freed_ips = had_ips.iter().filter(|ip| !has_ips.contains(ip)).map(|ip| number(*ip)).collect();
        reservation.freed_ports = had_ports.iter().filter(|p| !has_ports.contains(p)).map(|p| u128::from(*p)).collect();
        Ok(reservation)
    }

    /// Gives back everything of a Service that was deleted.
    pub fn release(&self, service: &Value) {
        let mut state = self.state.lock();
        for ip in addresses(service) {
            state.ips.free(number(ip));
        }
        for port in node_ports(service) {
            state.ports.free(u128::from(port));
        }
    }

    fn nothing(&self) -> Reservation {
        Reservation {
            state: self.state.clone(),
            taken_ips: Vec::new(),
            taken_ports: Vec::new(),
            freed_ips: Vec::new(),
            freed_ports: Vec::new(),
        }
    }

    fn assign_address(
        &self,
        pool: &mut Pool,
        service: &mut Value,
        had: &[IpAddr],
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        if !needs_cluster_ip(service) {
            return Ok(());
        }
        let given = service["spec"]["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        if given == "None" {
            return Ok(());
        }
        if given.is_empty() {
            let Some(free) = pool.take_any() else {
                return Err(Status::internal("failed to allocate a serviceIP: range is full"));
            };
            reservation.taken_ips.push(free);
            let text = address(free, self.cidr.addr().is_ipv4()).to_string();
            service["spec"]["clusterIP"] = text.clone().into();
            service["spec"]["clusterIPs"] = vec![text].into();
            return Ok(());
        }
        // What is no address at all is for validation to say.
        let Ok(ip) = given.parse::<IpAddr>() else { return Ok(()) };
        if had.contains(&ip) {
            return Ok(());
        }
        let taken = if self.cidr.contains(&ip) { pool.take(number(ip)) } else { Err(Refused::OutOfRange) };
        match taken {
            Ok(()) => {
                reservation.taken_ips.push(number(ip));
                Ok(())
            }
            Err(refused) => {
                let why = match refused {
                    Refused::Taken => "provided IP is already allocated",
                    Refused::OutOfRange => "the provided network does not match the current range",
                };
                let value = service["spec"]["clusterIPs"].clone();
                let detail = format!("failed to allocate IP {given}: {why}");
                Err(invalid(service, |errors| {
                    errors.invalid(Path::new("spec").child("clusterIPs"), value, &detail);
                }))
            }
        }
    }

    fn assign_ports(
        &self,
        pool: &mut Pool,
        service: &mut Value,
        had: &[u16],
        reservation: &mut Reservation,
    ) -> Result<(), Status> {
        let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut own: Vec<u16> = Vec::new();
        if wants_node_ports(service) {
            let mut by_port: Vec<(i64, u16)> = Vec::new();
            // Those that are asked for by number first, so that none of them is given away below.
            for (index, port) in service["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
                let Some(asked) = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
                else {
                    continue;
                };
                by_port.push((port["port"].as_i64().unwrap_or(0), asked));
                if own.contains(&asked) {
                    continue;
                }
                own.push(asked);
                if had.contains(&asked) {
                    continue;
                }
                self.take_port(
                    pool,
                    &name,
                    asked,
                    reservation,
                    &Path::new("spec").child("ports").index(index).child("nodePort"),
                )?;
            }
            for port in service::ports_mut(service) {
                if port["nodePort"].as_u64().unwrap_or(0) != 0 {
                    continue;
                }
                let number = port["port"].as_i64().unwrap_or(0);
                // The same port over TCP and UDP shares one node port.
                let shared = by_port.iter().find(|(p, _)| *p == number).map(|(_, shared)| *shared);
                let chosen = match shared {
                    Some(shared) => shared,
                    None => {
                        let free = pool
                            .take_any()
                            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
                        reservation.taken_ports.push(free);
                        u16::try_from(free).expect("the pool was made of ports")
                    }
                };
                by_port.push((number, chosen));
                port["nodePort"] = chosen.into();
            }
        }
        if wants_health_port(service) {
            let path = Path::new("spec").child("healthCheckNodePort");
            match service["spec"]["healthCheckNodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0) {
                0 => {
                    let free = pool
                        .take_any()
                        .ok_or_else(|| Status::internal("failed to allocate a HealthCheck NodePort: range is full"))?;
                    reservation.taken_ports.push(free);
                    service["spec"]["healthCheckNodePort"] = u16::try_from(free).expect("a port").into();
                }
                asked if !had.contains(&asked) => self.take_port(pool, &name, asked, reservation, &path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn take_port(
        &self,
        pool: &mut Pool,
        name: &str,
        port: u16,
        reservation: &mut Reservation,
        path: &Path,
    ) -> Result<(), Status> {
        let detail = match pool.take(u128::from(port)) {
            Ok(()) => {
                reservation.taken_ports.push(u128::from(port));
                return Ok(());
            }
            Err(Refused::Taken) => "provided port is already allocated".to_owned(),
            Err(Refused::OutOfRange) => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports_range.start(),
                self.ports_range.end()
            ),
        };
        let mut errors = ErrorList::new();
        errors.invalid(path.clone(), port, &detail);
        Err(Status::invalid(&GroupKind::new("", "Service"), name, &errors))
    }
}

fn invalid(service: &Value, fill: impl FnOnce(&mut ErrorList)) -> Status {
    let mut errors = ErrorList::new();
    fill(&mut errors);
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    Status::invalid(&GroupKind::new("", "Service"), name, &errors)
}

impl Reservation {
    /// The Service is stored: keep what was taken, give up what it no longer has.
    pub fn commit(mut self) {
        let state = self.state.clone();
        let mut state = state.lock();
        self.taken_ips.clear();
        self.taken_ports.clear();
        for ip in std::mem::take(&mut self.freed_ips) {
            state.ips.free(ip);
        }
        for port in std::mem::take(&mut self.freed_ports) {
            state.ports.free(port);
        }
    }

    fn give_back(&mut self, state: &mut State) {
        for ip in self.taken_ips.drain(..) {
            state.ips.free(ip);
        }
        for port in self.taken_ports.drain(..) {
            state.ports.free(port);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.taken_ips.is_empty() && self.taken_ports.is_empty() {
            return;
        }
        let state = self.state.clone();
        self.give_back(&mut state.lock());
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
