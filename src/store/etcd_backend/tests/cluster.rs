//! Debian's etcd in processes of our own, in a folder and on ports of their own.

#![allow(clippy::disallowed_methods)] // A cluster needs processes, and this is a test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use component_base::{Clock as _, RealClock};
use etcd_client as etcd;

/// Certificates, in PEM.
pub(super) struct Security {
    pub(super) ca: Vec<u8>,
    pub(super) client: Vec<u8>,
    pub(super) client_key: Vec<u8>,
    server: String,
    server_key: String,
}

impl Security {
    pub(super) fn make() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let leaf = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            params.extended_key_usages =
                vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let key = rcgen::KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server, server_key) = leaf(&["127.0.0.1", "localhost"]);
        let (client, client_key) = leaf(&["client"]);
        Self { ca: ca.into(), client: client.into(), client_key: client_key.into(), server, server_key }
    }
}

struct Member {
    name: String,
    client: String,
    peer: String,
    child: Option<Child>,
}

/// A cluster; its processes and files are gone when it is dropped.
pub(super) struct Etcd {
    members: Vec<Member>,
    folder: tempfile::TempDir,
    pub(super) security: Option<Security>,
}

impl Etcd {
    pub(super) fn start(size: usize, security: Option<Security>) -> Self {
        // All at once, so that no port is given twice.
        let listeners: Vec<TcpListener> = (0..2 * size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let scheme = if security.is_some() { "https" } else { "http" };
        let members = (0..size)
            .map(|i| Member {
                name: format!("m{i}"),
                client: format!("{scheme}://127.0.0.1:{}", ports[2 * i]),
                peer: format!("http://127.0.0.1:{}", ports[2 * i + 1]),
                child: None,
            })
            .collect();
        let mut this = Self { members, folder: tempfile::tempdir().unwrap(), security };
        for i in 0..size {
            this.restart(i);
        }
        this
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Starts a member that is not running.
    pub(super) fn restart(&mut self, i: usize) {
        let peers: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        let member = &self.members[i];
        let mut command = Command::new("etcd");
        command
            .args(["--name", &member.name, "--log-level", "error", "--initial-cluster-state", "new"])
            .args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client])
            .args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer])
            .args(["--initial-cluster", &peers.join(",")])
            .arg("--data-dir")
            .arg(self.folder.path().join(&member.name));
        if let Some(security) = &self.security {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(self.file("ca.pem", &security.ca));
            command.arg("--cert-file").arg(self.file("server.pem", security.server.as_bytes()));
            command.arg("--key-file").arg(self.file("server.key", security.server_key.as_bytes()));
        }
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{}.log", member.name)))
            .unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("etcd is installed: apt-get install etcd-server");
        self.members[i].child = Some(child);
    }

    /// kill -9.
    pub(super) fn kill(&mut self, i: usize) {
        let mut child = self.members[i].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The member that leads, asked until there is one that runs.
    pub(super) async fn leader(&self) -> usize {
        let deadline = RealClock.instant() + Duration::from_secs(20);
        loop {
            for (i, member) in self.members.iter().enumerate().filter(|(_, member)| member.child.is_some()) {
                let Ok(client) = etcd::Client::connect([&member.client], None).await else { continue };
                let Ok(status) = client.maintenance_client().status().await else { continue };
                if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                    return i;
                }
            }
            assert!(RealClock.instant() < deadline, "no leader");
            RealClock.sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                // It may have ended by itself.
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}
