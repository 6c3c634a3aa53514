//! Links, addresses, routes and neighbours by rtnetlink. Every operation is idempotent: what is there already is no error.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    #[error("{doing}: {source}")]
    Request { doing: String, source: rtnetlink::Error },
    #[error("network device {0} does not exist")]
    NoDevice(String),
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A netlink connection in the network namespace in which it was opened.
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Vec<u8>,
    /// Index of the bridge it is a port of.
    pub controller: Option<u32>,
}

impl Netlink {
    /// Opens a connection. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    #[allow(clippy::disallowed_methods)] // Owned: aborted on drop.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.map(|message| link_of(&message))),
            Err(rtnetlink::Error::NetlinkError(error)) if is(&error, nix::libc::ENODEV) => Ok(None),
            Err(source) => Err(request(format!("look up device {name}"))(source)),
        }
    }

    pub async fn links(&self) -> Result<Vec<Link>> {
        let all = self.handle.link().get().execute();
        all.map_ok(|message| link_of(&message)).try_collect().await.map_err(request("list devices"))
    }

    async fn existing(&self, name: &str) -> Result<Link> {
        self.link(name).await?.ok_or_else(|| NetlinkError::NoDevice(name.to_owned()))
    }

    /// A bridge, up, that does not learn its address from its ports.
    pub async fn ensure_bridge(&self, name: &str, mtu: u32, mac: [u8; 6]) -> Result<Link> {
        let message = LinkBridge::new(name).mtu(mtu).address(mac.to_vec()).build();
        allow(self.handle.link().add(message).execute().await, nix::libc::EEXIST)
            .map_err(request(format!("create bridge {name}")))?;
        let link = self.existing(name).await?;
        if link.mtu != mtu {
            self.set(LinkUnspec::new_with_index(link.index).mtu(mtu).build(), || format!("set the MTU of {name}"))
                .await?;
        }
        self.up(&link).await?;
        Ok(link)
    }

    /// A veth pair: `name` here, as a port of `bridge`; `peer_name` in `namespace`. Both are still down.
    pub async fn create_veth(
        &self,
        name: &str,
        mtu: u32,
        bridge: u32,
        namespace: BorrowedFd<'_>,
        peer_name: &str,
    ) -> Result<Link> {
        // Names of both ends share this namespace for a moment, so the peer starts under a name of its own.
        let temporary = format!("p{}", name.trim_start_matches("veth"));
        let message = LinkVeth::new(name, &temporary).mtu(mtu).build();
        self.handle.link().add(message).execute().await.map_err(request(format!("create veth {name}")))?;
        let peer = self.existing(&temporary).await?;
        let moved =
            LinkUnspec::new_with_index(peer.index).name(peer_name).mtu(mtu).setns_by_fd(namespace.as_raw_fd()).build();
        self.set(moved, || format!("move the peer of {name} into the pod")).await?;
        let link = self.existing(name).await?;
        self.set(LinkUnspec::new_with_index(link.index).controller(bridge).up().build(), || {
            format!("add {name} to the bridge")
        })
        .await?;
        // Where br_netfilter is on, a pod that reaches itself through a service is bridged back out of its own port.
        let port = LinkBridgePort::new(link.index).hairpin(true).build();
        self.handle.link().set_port(port).execute().await.map_err(request(format!("set hairpin mode of {name}")))?;
        Ok(link)
    }

    pub async fn up(&self, link: &Link) -> Result<()> {
        self.set(LinkUnspec::new_with_index(link.index).up().build(), || format!("set {} up", link.name)).await
    }

    async fn set(&self, message: LinkMessage, doing: impl FnOnce() -> String) -> Result<()> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|source| NetlinkError::Request { doing: doing(), source })
    }

    /// Removes a device; a missing one is fine.
    pub async fn delete_link(&self, name: &str) -> Result<()> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        allow(self.handle.link().del(link.index).execute().await, nix::libc::ENODEV)
            .map_err(request(format!("delete device {name}")))
    }

    pub async fn add_address(&self, link: &Link, address: IpNet) -> Result<()> {
        let added = self.handle.address().add(link.index, address.addr(), address.prefix_len()).execute().await;
        allow(added, nix::libc::EEXIST).map_err(request(format!("add {address} to {}", link.name)))
    }

    /// Removes one address; a missing one is fine.
    pub async fn delete_address(&self, link: &Link, address: IpNet) -> Result<()> {
        let all = self.handle.address().get().set_link_index_filter(link.index).execute();
        let all: Vec<_> = all.try_collect().await.map_err(request(format!("list addresses of {}", link.name)))?;
        let is_it = |message: &AddressMessage| {
            message.attributes.contains(&AddressAttribute::Local(address.addr()))
                && message.header.prefix_len == address.prefix_len()
        };
        for message in all.into_iter().filter(is_it) {
            let removed = self.handle.address().del(message).execute().await;
            removed.map_err(request(format!("remove {address} from {}", link.name)))?;
        }
        Ok(())
    }

    pub async fn addresses(&self, link: &Link) -> Result<Vec<IpNet>> {
        let all = self.handle.address().get().set_link_index_filter(link.index).execute();
        let all: Vec<_> = all.try_collect().await.map_err(request(format!("list addresses of {}", link.name)))?;
        let of = |message: &AddressMessage| {
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let ip = ip.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
            });
            IpNet::new(ip?, message.header.prefix_len).ok()
        };
        Ok(all.iter().filter_map(of).collect())
    }

    /// Removes every IPv4 address of `link` but `keep`.
    pub async fn keep_only_address(&self, link: &Link, keep: IpNet) -> Result<()> {
        let all = self.handle.address().get().set_link_index_filter(link.index).execute();
        let all: Vec<_> = all.try_collect().await.map_err(request(format!("list addresses of {}", link.name)))?;
        for message in all.into_iter().filter(|message| message.header.family == AddressFamily::Inet) {
            let is_kept = message.attributes.contains(&AddressAttribute::Local(keep.addr()))
                && message.header.prefix_len == keep.prefix_len();
            if !is_kept {
                let removed = self.handle.address().del(message).execute().await;
                removed.map_err(request(format!("remove an address of {}", link.name)))?;
            }
        }
        Ok(())
    }

    /// A route to `destination` (0.0.0.0/0: the default route).
    pub async fn add_route(&self, link: &Link, destination: IpNet, gateway: Option<Ipv4Addr>) -> Result<()> {
        let IpAddr::V4(network) = destination.network() else { return Ok(()) };
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, destination.prefix_len())
            .output_interface(link.index);
        route = match gateway {
            Some(gateway) => route.gateway(gateway),
            None => route.scope(RouteScope::Link),
        };
        allow(self.handle.route().add(route.build()).execute().await, nix::libc::EEXIST)
            .map_err(request(format!("add a route to {destination} on {}", link.name)))
    }

    /// Device of the IPv4 default route and its preferred source, if it names one.
    pub async fn default_route(&self) -> Result<Option<(u32, Option<IpAddr>)>> {
        let routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let routes: Vec<_> = routes.try_collect().await.map_err(request("list routes"))?;
        let best = routes.iter().filter(|route| route.header.destination_prefix_length == 0).min_by_key(|route| {
            route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Priority(priority) => Some(*priority),
                _ => None,
            })
        });
        let Some(route) = best else { return Ok(None) };
        let device = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let source = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            _ => None,
        });
        Ok(device.map(|device| (device, source)))
    }

    /// The machine's own address: the default route's source, else the first global IPv4 address.
    pub async fn node_address(&self) -> Result<Option<IpAddr>> {
        let mut links: Vec<Link> = self.links().await?.into_iter().filter(|link| link.name != "lo").collect();
        if let Some((device, source)) = self.default_route().await? {
            if source.is_some() {
                return Ok(source);
            }
            links.sort_by_key(|link| link.index != device);
        }
        for link in links {
            let found = self.addresses(&link).await?.into_iter().map(|net| net.addr());
            let usable = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if !v4.is_link_local() && !v4.is_loopback());
            if let Some(ip) = found.into_iter().find(usable) {
                return Ok(Some(ip));
            }
        }
        Ok(None)
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), mtu: 0, mac: Vec::new(), controller: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            _ => {}
        }
    }
    link
}

fn request(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let doing = doing.into();
    move |source| NetlinkError::Request { doing, source }
}

fn is(error: &rtnetlink::packet_core::ErrorMessage, errno: i32) -> bool {
    error.raw_code() == -errno
}

/// Turns the error `errno` into success.
fn allow(result: std::result::Result<(), rtnetlink::Error>, errno: i32) -> std::result::Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if is(&error, errno) => Ok(()),
        other => other,
    }
}

/// A sysctl below /proc/sys, written only when it differs.
///
/// # Errors
/// Names the setting.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let describe = |error: io::Error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}"));
    if std::fs::read_to_string(&path).map_err(describe)?.trim() != value {
        std::fs::write(&path, value).map_err(describe)?;
    }
    Ok(())
}
