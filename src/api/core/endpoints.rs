//! Endpoints: the addresses behind a service, as old clients read them.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{items, items_mut, opt_text, set_blank, text};
use crate::checks::{dns_label, dns_subdomain, ip, non_special_ip, port_number, protocol, qualified_name};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Endpoints;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.core.v1.Endpoints";
    Kind::builtin("v1", "Endpoints", "endpoints", Scope::Namespaced, DEFINITION, Endpoints)
        .with_short_names(&["ep"])
        .with_storage_key("services/endpoints")
}

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                set_blank(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, subset) in items(object, "subsets").iter().enumerate() {
            let path = Path::new("subsets").index(i);
            let lists = ["addresses", "notReadyAddresses"];
            if lists.iter().all(|list| items(subset, list).is_empty()) {
                errors.required(path.clone(), "must specify `addresses` or `notReadyAddresses`");
            }
            for list in lists {
                for (j, address) in items(subset, list).iter().enumerate() {
                    check_address(&mut errors, path.child(list).index(j), address);
                }
            }
            let ports = items(subset, "ports");
            for (j, port) in ports.iter().enumerate() {
                check_port(&mut errors, path.child("ports").index(j), port, ports.len() > 1);
            }
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn deprecation(&self) -> Option<crate::kind::Str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into())
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/endpoints")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(shown(object)), age_of(object, now)]
    }
}

fn check_address(errors: &mut ErrorList, path: Path, address: &Value) {
    let value = text(address, "ip");
    let valid = ip(errors, &path.child("ip"), value);
    let hostname = text(address, "hostname");
    if !hostname.is_empty() {
        dns_label(errors, path.child("hostname"), hostname);
    }
    if let Some(node) = opt_text(address, "nodeName") {
        dns_subdomain(errors, path.child("nodeName"), node);
    }
    if valid {
        non_special_ip(errors, &path.child("ip"), value);
    }
}

fn check_port(errors: &mut ErrorList, path: Path, port: &Value, name_required: bool) {
    let name = text(port, "name");
    if !name.is_empty() {
        dns_label(errors, path.child("name"), name);
    } else if name_required {
        errors.required(path.child("name"), "");
    }
    port_number(errors, path.child("port"), crate::access::int(port, "port"));
    protocol(errors, path.child("protocol"), text(port, "protocol"));
    if let Some(app) = opt_text(port, "appProtocol") {
        qualified_name(errors, path.child("appProtocol"), app);
    }
}

/// The first three ready addresses, with each port.
fn shown(object: &Value) -> String {
    const MAX: usize = 3;
    let subsets = items(object, "subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = || items(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = items(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = crate::access::int(port, "port");
            all.extend(
                addresses()
                    .map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    let first = all[..all.len().min(MAX)].join(",");
    if all.len() > MAX { format!("{first} + {} more...", all.len() - MAX) } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, cx};

    #[test]
    fn checks_subsets() {
        let got = create_errors(
            &Endpoints,
            json!({"subsets": [{}, {
                "addresses": [{"ip": "x"}, {"ip": "169.254.1.1", "hostname": "H", "nodeName": "N"}],
                "ports": [{"port": 0}, {"name": "b", "port": 1, "protocol": "X"}],
            }]}),
        );
        let heads: Vec<_> = got.iter().map(|e| e.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
        assert_eq!(
            heads,
            [
                "subsets[0]: Required value",
                "subsets[1].addresses[0].ip: Invalid value",
                "subsets[1].addresses[1].hostname: Invalid value",
                "subsets[1].addresses[1].nodeName: Invalid value",
                "subsets[1].addresses[1].ip: Invalid value",
                "subsets[1].ports[0].name: Required value",
                "subsets[1].ports[0].port: Invalid value",
                "subsets[1].ports[1].protocol: Unsupported value",
            ]
        );
    }

    #[test]
    fn prints_three_addresses() {
        let now = cx("").now;
        let with = |subsets: Value| Endpoints.row(&json!({"subsets": subsets}), now)[1].clone();
        assert_eq!(with(json!([])), "<none>");
        assert_eq!(
            with(json!([{"addresses": [{"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]}])),
            "[::1]:1,[::1]:2"
        );
        let four = json!([{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]}, {"addresses": [{"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}]}]);
        assert_eq!(with(four), "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...");
    }
}
