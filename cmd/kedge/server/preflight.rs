//! What must be true before anything is touched. Each refusal is one line that says what to do.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sys::netlink::Netlink;

use crate::commands::check_config;
use crate::config::ServerOptions;

/// What the checks took hold of, so that nobody else gets it in between.
pub struct Held {
    pub listener: TcpListener,
    pub node_name: String,
    pub node_ip: IpAddr,
    /// Keeps a second server off the data folder as long as this process lives.
    _lock: File,
}

/// Checks the machine and takes the port and the data folder.
///
/// # Errors
/// One line: what is in the way, and what to do about it.
pub async fn check(options: &ServerOptions) -> Result<Held> {
    if !options.disable_agent {
        check_config::require(options.agent.container_runtime_endpoint.is_none())?;
        sys::nft::check().await?;
    }
    if let Some(socket) = &options.agent.container_runtime_endpoint {
        if !socket.exists() {
            bail!(
                "--container-runtime-endpoint {}: no such socket: start containerd, or leave the flag out to let kedge start its own",
                socket.display()
            );
        }
    }
    let node_name = node_name(options)?;
    let node_ip = node_ip(options).await?;
    let lock = lock(&options.agent.data_dir)?;
    let at = SocketAddr::new(options.bind_address, options.https_listen_port);
    let listener = TcpListener::bind(at).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "port {} is taken by another program: stop it, or choose another with --https-listen-port",
                at.port()
            )
        }
        io::ErrorKind::PermissionDenied => anyhow::anyhow!("cannot listen on {at}: ports below 1024 need root"),
        _ => anyhow::anyhow!("cannot listen on {at}: {error} (see --bind-address)"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(Held { listener, node_name, node_ip, _lock: lock })
}

fn lock(data_dir: &Path) -> Result<File> {
    let folder = data_dir.join("server");
    let create = || -> io::Result<File> {
        std::fs::create_dir_all(&folder)?;
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(folder.join("lock"))
    };
    let mut file = create().map_err(|error| {
        anyhow::anyhow!(
            "cannot write to {}: {error}: run kedge as root, or choose another folder with --data-dir",
            data_dir.display()
        )
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = Some(pid.trim())
                .filter(|pid| !pid.is_empty())
                .map(|pid| format!(" (process {pid})"))
                .unwrap_or_default();
            bail!(
                "another kedge server{pid} is using {}: stop it, or choose another folder with --data-dir",
                data_dir.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", folder.display()));
        }
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

fn node_name(options: &ServerOptions) -> Result<String> {
    if let Some(name) = &options.agent.node_name {
        return Ok(name.clone());
    }
    let name = nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().to_lowercase();
    let problems = apimachinery::validation::names::dns1123_subdomain(&name, false);
    if !problems.is_empty() {
        bail!("the host name {name:?} cannot name a node ({}): give one with --node-name", problems.join("; "));
    }
    Ok(name)
}

async fn node_ip(options: &ServerOptions) -> Result<IpAddr> {
    if let Some(ip) = options.agent.node_ip {
        return Ok(ip);
    }
    let found = Netlink::open()?.node_address().await?;
    found.context("this machine has no address besides loopback: give one with --node-ip")
}
