//! The hosts file that every container of a pod sees.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::HostAlias;

/// The file of a pod with its own network.
pub fn managed(ips: &[String], hostname: &str, domain: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _ = match domain.filter(|d| !d.is_empty()) {
            Some(domain) => writeln!(out, "{ip}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(out, "{ip}\t{hostname}"),
        };
    }
    add_aliases(&mut out, aliases);
    out
}

/// The file of a pod in the host's network: the host's own, and the aliases.
pub fn of_host(host_file: &str, aliases: &[HostAlias]) -> String {
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{host_file}");
    add_aliases(&mut out, aliases);
    out
}

fn add_aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        let _ = writeln!(out, "{}\t{names}", alias.ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_upstream_writes_it() {
        let aliases = [HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) }];
        let text = managed(&["10.0.0.5".into()], "web-0", Some("web.ns.svc.cluster.local"), &aliases);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.0.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
        let plain = managed(&["10.0.0.5".into()], "p", None, &[]);
        assert!(plain.ends_with("fe00::2\tip6-allrouters\n10.0.0.5\tp\n"));
        assert_eq!(of_host("127.0.0.1 x\n", &[]), "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n");
    }
}
