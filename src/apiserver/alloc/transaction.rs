//! The pools as a kind's strategy sees them: what one write takes of them is kept or given back as a whole.

use std::net::IpAddr;
use std::sync::Arc;

use api::{Allocator, Claims};
use ipnet::IpNet;
use parking_lot::Mutex;

use super::pool::Refused;
use super::{ServiceAllocator, State, address, number};

/// What a dry run answers for a port the server would choose (upstream's number, then the next ones).
const DRY_RUN_PORT: u16 = 32769;

/// What one write takes. Dropped without [`Self::commit`], it is given back.
#[must_use = "a dropped transaction is given back"]
pub struct Transaction {
    state: Arc<Mutex<State>>,
    cidr: IpNet,
    ports: (u16, u16),
    dry_run: bool,
    next_dry_port: u16,
    taken_ips: Vec<u128>,
    taken_ports: Vec<u128>,
}

impl ServiceAllocator {
    /// Begins a write.
    pub fn begin(&self, dry_run: bool) -> Transaction {
        Transaction {
            state: self.state.clone(),
            cidr: self.cidr,
            ports: (*self.ports_range.start(), *self.ports_range.end()),
            dry_run,
            next_dry_port: DRY_RUN_PORT,
            taken_ips: Vec::new(),
            taken_ports: Vec::new(),
        }
    }

    /// Frees what `gone` holds and `kept` does not.
    pub fn free(&self, gone: &Claims, kept: &Claims) {
        let mut state = self.state.lock();
        for ip in gone.ips.iter().filter(|ip| !kept.ips.contains(ip)) {
            state.ips.free(number(*ip));
        }
        for port in gone.ports.iter().filter(|port| !kept.ports.contains(port)) {
            state.ports.free(u128::from(*port));
        }
    }
}

impl Transaction {
    /// The object is stored: what was taken stays taken.
    pub fn commit(mut self) {
        if !self.dry_run {
            self.taken_ips.clear();
            self.taken_ports.clear();
        }
    }

    fn out_of_ports(&self) -> String {
        format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            self.ports.0, self.ports.1
        )
    }
}

impl Allocator for Transaction {
    fn take_ip(&mut self, ip: IpAddr) -> Result<(), String> {
        let outside = || "the provided network does not match the current range".to_owned();
        if !self.cidr.contains(&ip) {
            return Err(outside());
        }
        self.state.lock().ips.take(number(ip)).map_err(|refused| match refused {
            Refused::Taken => "provided IP is already allocated".to_owned(),
            Refused::OutOfRange => outside(),
        })?;
        self.taken_ips.push(number(ip));
        Ok(())
    }

    fn next_ip(&mut self) -> Result<IpAddr, String> {
        let free = self.state.lock().ips.take_any().ok_or_else(|| "range is full".to_owned())?;
        self.taken_ips.push(free);
        Ok(address(free, self.cidr.addr().is_ipv4()))
    }

    fn take_port(&mut self, port: u16) -> Result<(), String> {
        self.state.lock().ports.take(u128::from(port)).map_err(|refused| match refused {
            Refused::Taken => "provided port is already allocated".to_owned(),
            Refused::OutOfRange => self.out_of_ports(),
        })?;
        self.taken_ports.push(u128::from(port));
        Ok(())
    }

    fn next_port(&mut self) -> Result<u16, String> {
        if self.dry_run {
            let port = self.next_dry_port;
            self.next_dry_port = port.saturating_add(1);
            return Ok(port);
        }
        let free = self.state.lock().ports.take_any().ok_or_else(|| "range is full".to_owned())?;
        self.taken_ports.push(free);
        u16::try_from(free).map_err(|_| "range is full".to_owned())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        for ip in self.taken_ips.drain(..) {
            state.ips.free(ip);
        }
        for port in self.taken_ports.drain(..) {
            state.ports.free(port);
        }
    }
}
