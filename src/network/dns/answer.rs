//! From a question to an answer, by the Kubernetes DNS specification 1.1.0. Pure.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Seconds that an answer may be kept: short, since endpoints come and go.
const TTL: u32 = 5;
const SPECIFICATION: &str = "1.1.0";

/// Port name, protocol in lower case, number.
pub type Port = (String, String, u16);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    /// Its own, or its address with dashes.
    pub hostname: String,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    ClusterIp(Vec<Ipv4Addr>),
    Headless(Vec<Endpoint>),
    External(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    pub namespace: String,
    pub name: String,
    pub kind: Kind,
    pub ports: Vec<Port>,
}

/// What the cluster knows.
pub trait View: Send + Sync {
    fn namespace_exists(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<ServiceRecord>;
    /// Services at an address, and named endpoints with their host names.
    fn by_address(&self, ip: IpAddr) -> Vec<(ServiceRecord, Option<String>)>;
}

/// An answer of our own.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    /// A name outside of the cluster that the client needs resolved too (ExternalName).
    pub follow: Option<Name>,
}

/// The cluster's zone.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    text: String,
}

impl Zone {
    /// `domain` without a trailing dot, lower case.
    ///
    /// # Errors
    /// When it is no domain name.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        Ok(Self { domain: Name::from_ascii(format!("{domain}."))?, text: format!("{domain}.") })
    }

    /// Our answer, or `None` when the question is for somebody else.
    pub fn answer(&self, name: &Name, kind: RecordType, view: &dyn View) -> Option<Answer> {
        let lower = name.to_lowercase();
        if let Some(ip) = reverse(&lower) {
            let names: Vec<Name> =
                view.by_address(ip).iter().filter_map(|(s, host)| self.name_of(s, host.as_deref())).collect();
            // An address that is none of ours may be somebody else's.
            if names.is_empty() {
                return None;
            }
            let records = names.into_iter().map(|target| record(name, RData::PTR(PTR(target))));
            return Some(self.of_type(Some(records.collect()), kind, RecordType::PTR));
        }
        if !self.domain.zone_of(&lower) {
            return None;
        }
        let labels: Vec<String> = lower.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        let own = labels.len() - usize::from(self.domain.num_labels());
        let words: Vec<&str> = labels[..own].iter().map(String::as_str).collect();
        Some(self.in_zone(name, &words, kind, view))
    }

    fn in_zone(&self, name: &Name, words: &[&str], kind: RecordType, view: &dyn View) -> Answer {
        match words {
            [] if kind == RecordType::SOA => self.found(vec![self.soa()]),
            [] | ["svc"] | ["pod"] => self.no_data(),
            ["dns-version"] => {
                let text = record(name, RData::TXT(TXT::new(vec![SPECIFICATION.into()])));
                self.of_type(Some(vec![text]), kind, RecordType::TXT)
            }
            [namespace, "svc" | "pod"] => {
                if view.namespace_exists(namespace) {
                    self.no_data()
                } else {
                    self.no_such_name()
                }
            }
            [dashed, namespace, "pod"] => {
                let ip = dashed.replace('-', ".").parse::<Ipv4Addr>().ok().filter(|_| view.namespace_exists(namespace));
                self.of_type(ip.map(|ip| vec![record(name, RData::A(A(ip)))]), kind, RecordType::A)
            }
            [service, namespace, "svc"] => match view.service(namespace, service) {
                Some(service) => self.service(name, &service, kind),
                None => self.no_such_name(),
            },
            [host, service, namespace, "svc"] => match view.service(namespace, service) {
                Some(ServiceRecord { kind: Kind::Headless(endpoints), .. }) => {
                    let ips = endpoints.iter().filter(|endpoint| endpoint.hostname == *host);
                    let records: Vec<Record> = ips.map(|endpoint| record(name, RData::A(A(endpoint.ip)))).collect();
                    self.of_type((!records.is_empty()).then_some(records), kind, RecordType::A)
                }
                _ => self.no_such_name(),
            },
            [port, protocol, service, namespace, "svc"] => {
                match (view.service(namespace, service), srv_words(port, protocol)) {
                    (Some(service), Some((port, protocol))) => self.srv(name, &service, Some((port, protocol)), kind),
                    _ => self.no_such_name(),
                }
            }
            _ => self.no_such_name(),
        }
    }

    fn service(&self, name: &Name, service: &ServiceRecord, kind: RecordType) -> Answer {
        if kind == RecordType::SRV {
            return self.srv(name, service, None, kind);
        }
        let address = |ip: &Ipv4Addr| record(name, RData::A(A(*ip)));
        match &service.kind {
            Kind::ClusterIp(ips) => self.of_type(Some(ips.iter().map(address).collect()), kind, RecordType::A),
            Kind::Headless(endpoints) if endpoints.is_empty() => self.no_such_name(),
            Kind::Headless(endpoints) => {
                let mut ips: Vec<Ipv4Addr> = endpoints.iter().map(|endpoint| endpoint.ip).collect();
                ips.dedup();
                self.of_type(Some(ips.iter().map(address).collect()), kind, RecordType::A)
            }
            Kind::External(target) => match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
                Ok(target) => {
                    let mut answer = self.found(vec![record(name, RData::CNAME(CNAME(target.clone())))]);
                    answer.follow = (kind != RecordType::CNAME).then_some(target);
                    answer
                }
                Err(_) => self.no_such_name(),
            },
        }
    }

    /// SRV of one named port, or of all.
    fn srv(&self, name: &Name, service: &ServiceRecord, only: Option<(&str, &str)>, kind: RecordType) -> Answer {
        let wanted = |port: &&Port| only.is_none_or(|(name, protocol)| port.0 == name && port.1 == protocol);
        let mut records = Vec::new();
        let mut additionals = Vec::new();
        let mut add = |target: Option<Name>, ips: &[Ipv4Addr], ports: &[Port]| {
            let Some(target) = target else { return };
            for port in ports.iter().filter(wanted) {
                records.push(record(name, RData::SRV(SRV::new(0, 100, port.2, target.clone()))));
            }
            additionals.extend(ips.iter().map(|ip| record(&target, RData::A(A(*ip)))));
        };
        match &service.kind {
            Kind::ClusterIp(ips) => add(self.name_of(service, None), ips, &service.ports),
            Kind::Headless(endpoints) => {
                for endpoint in endpoints {
                    add(self.name_of(service, Some(&endpoint.hostname)), &[endpoint.ip], &endpoint.ports);
                }
            }
            Kind::External(_) => {}
        }
        if records.is_empty() {
            return self.no_such_name();
        }
        let mut answer = self.of_type(Some(records), kind, RecordType::SRV);
        if !answer.answers.is_empty() {
            answer.additionals = additionals;
        }
        answer
    }

    fn name_of(&self, service: &ServiceRecord, host: Option<&str>) -> Option<Name> {
        let host = host.map(|host| format!("{host}.")).unwrap_or_default();
        Name::from_ascii(format!("{host}{}.{}.svc.{}", service.name, service.namespace, self.text)).ok()
    }

    /// The records if the question was for their type; none, but a name that exists, if it was for another.
    fn of_type(&self, records: Option<Vec<Record>>, asked: RecordType, is: RecordType) -> Answer {
        match records {
            None => self.no_such_name(),
            Some(records) if asked == is || asked == RecordType::ANY => self.found(records),
            Some(_) => self.no_data(),
        }
    }

    fn found(&self, answers: Vec<Record>) -> Answer {
        Answer { code: ResponseCode::NoError, answers, authorities: Vec::new(), additionals: Vec::new(), follow: None }
    }

    fn no_data(&self) -> Answer {
        Answer { authorities: vec![self.soa()], ..self.found(Vec::new()) }
    }

    fn no_such_name(&self) -> Answer {
        Answer { code: ResponseCode::NXDomain, ..self.no_data() }
    }

    fn soa(&self) -> Record {
        let at = |host: &str| Name::from_ascii(format!("{host}.{}", self.text)).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(at("ns.dns"), at("hostmaster"), 1, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn srv_words<'a>(port: &'a str, protocol: &'a str) -> Option<(&'a str, &'a str)> {
    Some((port.strip_prefix('_')?, protocol.strip_prefix('_')?))
}

fn reverse(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cluster(Vec<ServiceRecord>);

    impl View for Cluster {
        fn namespace_exists(&self, name: &str) -> bool {
            name == "prod"
        }
        fn service(&self, namespace: &str, name: &str) -> Option<ServiceRecord> {
            self.0.iter().find(|s| s.namespace == namespace && s.name == name).cloned()
        }
        fn by_address(&self, ip: IpAddr) -> Vec<(ServiceRecord, Option<String>)> {
            let at = |s: &&ServiceRecord| matches!(&s.kind, Kind::ClusterIp(ips) if ips.iter().any(|i| IpAddr::V4(*i) == ip));
            self.0.iter().filter(at).map(|s| (s.clone(), None)).collect()
        }
    }

    fn cluster() -> Cluster {
        let port: Port = ("web".into(), "tcp".into(), 80);
        let of = |name: &str, kind| ServiceRecord {
            namespace: "prod".into(),
            name: name.into(),
            kind,
            ports: vec![port.clone()],
        };
        let endpoint = |n: u8, host: &str| Endpoint {
            ip: [10, 42, 0, n].into(),
            hostname: host.into(),
            ports: vec![("web".into(), "tcp".into(), 8080)],
        };
        Cluster(vec![
            of("api", Kind::ClusterIp(vec![[10, 43, 0, 9].into()])),
            of("db", Kind::Headless(vec![endpoint(2, "db-0"), endpoint(3, "10-42-0-3")])),
            of("empty", Kind::Headless(Vec::new())),
            of("out", Kind::External("example.com".into())),
        ])
    }

    /// `code record record…`, or `-` for a question that is not ours.
    fn ask(name: &str, kind: RecordType) -> String {
        let zone = Zone::new("cluster.local").expect("a domain");
        let Some(answer) = zone.answer(&Name::from_ascii(name).expect("a name"), kind, &cluster()) else {
            return "-".into();
        };
        let mut words = vec![format!("{:?}", answer.code)];
        words.extend(answer.answers.iter().map(|record| record.data.to_string()));
        words.join(" ")
    }

    #[test]
    fn the_specification_as_a_table() {
        use RecordType as T;
        let cases = [
            ("api.prod.svc.cluster.local.", T::A, "NoError 10.43.0.9"),
            ("API.Prod.SVC.cluster.local.", T::A, "NoError 10.43.0.9"),
            ("api.prod.svc.cluster.local.", T::AAAA, "NoError"),
            ("api.prod.svc.cluster.local.", T::SRV, "NoError 0 100 80 api.prod.svc.cluster.local."),
            ("_web._tcp.api.prod.svc.cluster.local.", T::SRV, "NoError 0 100 80 api.prod.svc.cluster.local."),
            ("_web._udp.api.prod.svc.cluster.local.", T::SRV, "NXDomain"),
            ("nope.prod.svc.cluster.local.", T::A, "NXDomain"),
            ("db.prod.svc.cluster.local.", T::A, "NoError 10.42.0.2 10.42.0.3"),
            ("db-0.db.prod.svc.cluster.local.", T::A, "NoError 10.42.0.2"),
            ("10-42-0-3.db.prod.svc.cluster.local.", T::A, "NoError 10.42.0.3"),
            ("db-9.db.prod.svc.cluster.local.", T::A, "NXDomain"),
            (
                "_web._tcp.db.prod.svc.cluster.local.",
                T::SRV,
                "NoError 0 100 8080 db-0.db.prod.svc.cluster.local. 0 100 8080 10-42-0-3.db.prod.svc.cluster.local.",
            ),
            ("empty.prod.svc.cluster.local.", T::A, "NXDomain"),
            ("out.prod.svc.cluster.local.", T::A, "NoError example.com."),
            ("10-42-0-7.prod.pod.cluster.local.", T::A, "NoError 10.42.0.7"),
            ("10-42-0-7.nowhere.pod.cluster.local.", T::A, "NXDomain"),
            ("prod.svc.cluster.local.", T::A, "NoError"),
            ("nowhere.svc.cluster.local.", T::A, "NXDomain"),
            ("dns-version.cluster.local.", T::TXT, "NoError 1.1.0"),
            ("9.0.43.10.in-addr.arpa.", T::PTR, "NoError api.prod.svc.cluster.local."),
            ("1.1.168.192.in-addr.arpa.", T::PTR, "-"),
            ("example.com.", T::A, "-"),
        ];
        for (name, kind, want) in cases {
            assert_eq!(ask(name, kind), want, "{name} {kind}");
        }
    }
}
