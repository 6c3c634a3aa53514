//! The sockets: UDP and TCP on the cluster's DNS address, which every node carries on its loopback device.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informers};
use component_base::supervisor::BoxError;
use component_base::{Metrics, Service, ServiceContext, TaskGroup};
use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service as KubeService;
use kube::Api;
use kube::api::PostParams;
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use sys::netlink::Netlink;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::answer::{Answer, Zone};
use super::forward::{exchange, nameservers};
use super::view::InformerView;

/// Queries that may be waiting for somebody else's answer at once.
const MAX_FORWARDED: usize = 512;
const TCP_IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct ClusterDnsConfig {
    pub address: IpAddr,
    pub domain: String,
    pub resolv_conf: PathBuf,
    /// Create the Service `kube-system/kube-dns`, so that the address is taken and can be seen (on a server only).
    pub publish: bool,
}

/// The service `dns`.
pub struct ClusterDns {
    config: ClusterDnsConfig,
    client: Client,
    informers: Informers,
    queries: Counter,
    forwarded: Counter,
}

impl ClusterDns {
    pub fn new(config: ClusterDnsConfig, client: Client, informers: Informers, metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            config,
            client,
            informers,
            queries: counter("kedge_dns_queries", "DNS queries received"),
            forwarded: counter("kedge_dns_forwarded", "DNS queries passed on"),
        }
    }
}

#[async_trait]
impl Service for ClusterDns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["apiserver"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let config = &self.config;
        let view = InformerView::new(&self.informers);
        carry_address(config.address).await?;
        let at = SocketAddr::new(config.address, 53);
        let bind_failed = |error: io::Error| format!("cannot listen on {at} for DNS: {error}");
        let udp = Arc::new(UdpSocket::bind(at).await.map_err(bind_failed)?);
        let tcp = TcpListener::bind(at).await.map_err(bind_failed)?;
        if config.publish {
            publish(&self.client, config).await;
        }
        view.synced().await;
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let resolver = Arc::new(Resolver {
            zone: Zone::new(&config.domain)?,
            view,
            resolv_conf: config.resolv_conf.clone(),
            own: config.address,
            slots: Semaphore::new(MAX_FORWARDED),
            queries: self.queries.clone(),
            forwarded: self.forwarded.clone(),
        });
        info!(address = %at, domain = config.domain, "answering DNS");
        cx.ready.set();
        let serve_udp = serve_udp(udp, resolver.clone(), tasks.clone());
        let serve_tcp = serve_tcp(tcp, resolver, tasks.clone());
        let result = tokio::select! {
            () = cx.shutdown.cancelled() => Ok(()),
            error = serve_udp => Err(error.into()),
            error = serve_tcp => Err(error.into()),
        };
        tasks.stop().await;
        result
    }
}

/// Puts the DNS address on `lo`: it is this very node's, on every node.
async fn carry_address(ip: IpAddr) -> Result<(), BoxError> {
    let netlink = Netlink::open()?;
    let lo = netlink.link("lo").await?.ok_or("the machine has no loopback device")?;
    netlink.add_address(&lo, IpNet::from(ip)).await?;
    Ok(())
}

/// Removes the DNS address (`kedge killall`).
///
/// # Errors
/// When the kernel refuses.
pub async fn drop_address(ip: IpAddr) -> Result<(), sys::netlink::NetlinkError> {
    let netlink = Netlink::open()?;
    match netlink.link("lo").await? {
        Some(lo) => netlink.delete_address(&lo, IpNet::from(ip)).await,
        None => Ok(()),
    }
}

async fn publish(client: &Client, config: &ClusterDnsConfig) {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": { "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true" },
            "annotations": { "kedge.dev/served-by-every-node": "" },
        },
        "spec": {
            "clusterIP": config.address,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    });
    let service: KubeService = serde_json::from_value(service).expect("the literal above is a Service");
    let api = Api::<KubeService>::namespaced(client.clone(), "kube-system");
    if matches!(api.get_opt("kube-dns").await, Ok(Some(_))) {
        return;
    }
    match api.create(&PostParams::default(), &service).await {
        Ok(_) => info!(service = "kube-system/kube-dns", address = %config.address, "created service"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => warn!(service = "kube-system/kube-dns", %error, "could not create the service"),
    }
}

struct Resolver {
    zone: Zone,
    view: InformerView,
    resolv_conf: PathBuf,
    own: IpAddr,
    slots: Semaphore,
    queries: Counter,
    forwarded: Counter,
}

/// What to do with a query.
enum Step {
    Reply(Vec<u8>),
    /// Pass it on; with our records to put before the answer, and the name to ask for instead.
    Forward(Option<(Message, Name, RecordType)>),
    Ignore,
}

impl Resolver {
    /// Everything that needs no waiting.
    fn decide(&self, packet: &[u8], tcp: bool) -> Step {
        self.queries.inc();
        let Ok(query) = Message::from_vec(packet) else {
            return match packet {
                [a, b, ..] => {
                    let mut reply =
                        Message::error_msg(u16::from_be_bytes([*a, *b]), OpCode::Query, ResponseCode::FormErr);
                    reply.metadata.message_type = MessageType::Response;
                    encode(&reply, &reply, tcp)
                }
                _ => Step::Ignore,
            };
        };
        if query.metadata.message_type != MessageType::Query {
            return Step::Ignore;
        }
        let mut reply = reply_to(&query);
        let (OpCode::Query, [question]) = (query.metadata.op_code, query.queries.as_slice()) else {
            reply.metadata.response_code = ResponseCode::NotImp;
            return encode(&query, &reply, tcp);
        };
        match self.zone.answer(question.name(), question.query_type(), &self.view) {
            None => Step::Forward(None),
            Some(answer) => {
                let follow = answer.follow.clone();
                fill(&mut reply, answer);
                match follow {
                    None => encode(&query, &reply, tcp),
                    Some(target) => Step::Forward(Some((reply, target, question.query_type()))),
                }
            }
        }
    }

    /// Asks the machine's nameservers.
    async fn forward(&self, packet: &[u8], chased: Option<(Message, Name, RecordType)>, tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(packet).ok()?;
        let _slot = self.slots.acquire().await.ok()?;
        self.forwarded.inc();
        // Read each time: the file changes with the network, and it is small.
        let servers = nameservers(&self.resolv_conf, self.own);
        let fail = |error: io::Error| {
            debug!(%error, name = %query.queries.first().map(|q| q.name().to_string()).unwrap_or_default(), "DNS query not answered");
            let mut reply = reply_to(&query);
            reply.metadata.response_code = ResponseCode::ServFail;
            reply.to_vec().ok()
        };
        let Some((mut reply, target, kind)) = chased else {
            return exchange(&servers, packet, tcp).await.map_or_else(fail, Some);
        };
        let target_answer = match self.zone.answer(&target, kind, &self.view) {
            Some(answer) => Ok(answer.answers),
            None => {
                let mut asked = query.clone();
                asked.queries = vec![hickory_proto::op::Query::query(target, kind)];
                match asked.to_vec() {
                    Ok(bytes) => exchange(&servers, &bytes, tcp)
                        .await
                        .map(|bytes| Message::from_vec(&bytes).map(|message| message.answers).unwrap_or_default()),
                    Err(error) => Err(io::Error::other(error.to_string())),
                }
            }
        };
        match target_answer {
            Ok(records) => reply.answers.extend(records),
            // The alias itself is still a good answer.
            Err(error) => debug!(%error, "alias target not resolved"),
        }
        match encode(&query, &reply, tcp) {
            Step::Reply(bytes) => Some(bytes),
            Step::Forward(_) | Step::Ignore => None,
        }
    }
}

fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232);
        reply.edns = Some(edns);
    }
    reply
}

fn fill(reply: &mut Message, answer: Answer) {
    reply.metadata.authoritative = true;
    reply.metadata.response_code = answer.code;
    reply.answers = answer.answers;
    reply.authorities = answer.authorities;
    reply.additionals = answer.additionals;
}

/// Bytes that fit the client: over UDP a longer reply is cut and marked, so that the client asks again over TCP.
fn encode(query: &Message, reply: &Message, tcp: bool) -> Step {
    let Ok(bytes) = reply.to_vec() else { return Step::Ignore };
    let limit = if tcp { usize::from(u16::MAX) } else { usize::from(query.max_payload().clamp(512, 4096)) };
    if bytes.len() <= limit {
        return Step::Reply(bytes);
    }
    match reply.truncate().to_vec() {
        Ok(bytes) => Step::Reply(bytes),
        Err(_) => Step::Ignore,
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, tasks: TaskGroup) -> io::Error {
    let mut packet = vec![0; 4096];
    loop {
        let (len, peer) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            // An earlier reply could not be delivered (ICMP): not this socket's end.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        match resolver.decide(&packet[..len], false) {
            Step::Ignore => {}
            Step::Reply(bytes) => {
                let _ = socket.send_to(&bytes, peer).await;
            }
            Step::Forward(chased) => {
                let (socket, resolver, packet) = (socket.clone(), resolver.clone(), packet[..len].to_vec());
                tasks.spawn(async move {
                    if let Some(bytes) = resolver.forward(&packet, chased, false).await {
                        let _ = socket.send_to(&bytes, peer).await;
                    }
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, tasks: TaskGroup) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let resolver = resolver.clone();
                tasks.spawn(async move {
                    // The client's end of the connection, by whatever name, is no news.
                    let _ = serve_connection(stream, &resolver).await;
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return error,
        }
    }
}

async fn serve_connection(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    loop {
        let len = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut packet = vec![0; len.into()];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
        let reply = match resolver.decide(&packet, true) {
            Step::Ignore => return Ok(()),
            Step::Reply(bytes) => bytes,
            Step::Forward(chased) => match resolver.forward(&packet, chased, true).await {
                Some(bytes) => bytes,
                None => return Ok(()),
            },
        };
        stream.write_u16(u16::try_from(reply.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&reply).await?;
    }
}
