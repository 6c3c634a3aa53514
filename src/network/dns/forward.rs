//! Everything that is not the cluster's goes to the machine's own nameservers, as it came.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

const TIMEOUT: Duration = Duration::from_secs(2);

/// The nameservers of a resolv.conf, without `except` (ourselves: a loop).
pub fn nameservers(path: &Path, except: IpAddr) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.filter(|ip| *ip != except).take(3).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// Asks the servers in turn; the first answer wins.
///
/// # Errors
/// When none answers in time.
pub async fn exchange(servers: &[SocketAddr], query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no nameserver is configured");
    for server in servers {
        let asked = async { if tcp { over_tcp(*server, query).await } else { over_udp(*server, query).await } };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("nameserver {server} does not answer")),
        }
    }
    Err(last)
}

/// A socket of its own per query: the random source port guards against forged answers, and the id need not change.
async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; 4096];
    loop {
        let len = socket.recv(&mut answer).await?;
        if len >= 12 && query.len() >= 2 && answer[..2] == query[..2] {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(|_| io::Error::other("query too long"))?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; len.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
