//! Names to addresses by /etc/hosts and /etc/resolv.conf: a static C library's resolver would want files that an image
//! from scratch does not have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// The IPv4 address of `host`, with the search list and ndots of resolv.conf.
pub fn resolve(host: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        if let Some(Ok(ip @ IpAddr::V4(_))) = words.next().map(str::parse) {
            if words.any(|name| name == host) {
                return Ok(ip);
            }
        }
    }
    let config = Config::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut last = format!("no nameserver for {host}");
    for name in config.candidates(host) {
        for server in &config.servers {
            match query(*server, &name) {
                Ok(Some(ip)) => return Ok(ip),
                Ok(None) => last = format!("{host}: no such host"),
                Err(error) => last = format!("{host}: nameserver {server}: {error}"),
            }
        }
    }
    Err(last)
}

struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["nameserver", server, ..] => config.servers.extend(server.parse::<IpAddr>()),
                ["search", domains @ ..] => config.search = domains.iter().map(|d| (*d).to_owned()).collect(),
                ["options", options @ ..] => {
                    let ndots = options.iter().filter_map(|o| o.strip_prefix("ndots:")?.parse().ok()).next_back();
                    config.ndots = ndots.unwrap_or(config.ndots);
                }
                _ => {}
            }
        }
        config
    }

    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let at = if host.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }
}

fn query(server: IpAddr, name: &str) -> std::io::Result<Option<IpAddr>> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect((server, 53))?;
    let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
    for _ in 0..2 {
        socket.send(&question(name))?;
        let mut answer = [0; 1500];
        match socket.recv(&mut answer) {
            Ok(n) => return Ok(first_address(&answer[..n])),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x6b, 0x65, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len().min(63) as u8);
        packet.extend(label.bytes().take(63));
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// The first A record of a DNS answer.
fn first_address(packet: &[u8]) -> Option<IpAddr> {
    let count = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
    let mut at = skip_name(packet, 12)? + 4;
    for _ in 0..count {
        at = skip_name(packet, at)?;
        let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
        let len = usize::from(u16::from_be_bytes([*packet.get(at + 8)?, *packet.get(at + 9)?]));
        let data = packet.get(at + 10..at + 10 + len)?;
        if let (1, &[a, b, c, d]) = (kind, data) {
            return Some(Ipv4Addr::new(a, b, c, d).into());
        }
        at += 10 + len;
    }
    None
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            label => at += usize::from(label) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_list_comes_first_below_ndots() {
        let config = Config::parse("search a.svc b\nnameserver 10.43.0.10\noptions ndots:5\n");
        assert_eq!(config.candidates("web"), ["web.a.svc", "web.b", "web"]);
        assert_eq!(config.candidates("web."), ["web"]);
        assert_eq!(Config::parse("search a").candidates("x.y"), ["x.y", "x.y.a"]);
    }

    #[test]
    fn reads_the_address_behind_a_cname() {
        let mut packet = vec![0x6b, 0x65, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0, 1, b'w', 0, 0, 1, 0, 1];
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 3, 1, b'v', 0]);
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 43, 0, 7]);
        assert_eq!(first_address(&packet), Some(Ipv4Addr::new(10, 43, 0, 7).into()));
        for end in 0..packet.len() {
            first_address(&packet[..end]);
        }
    }
}
