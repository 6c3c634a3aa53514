//! Which addresses and node ports a service takes, and the fields that follow from them.
//!
//! Single stack, IPv4. Runs before validation, so its errors come alone.
//!
//! Invariants:
//! - SA-1: what an old object held and the client left out is kept, never taken again.
//! - SA-2: numbers come from the [`Allocator`] only; the caller gives them back when the write fails, and compares
//!   [`claims`] before and after to release what a change gave up.

use std::collections::HashMap;
use std::net::IpAddr;

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use super::validation::cluster_ip_fields;
use super::{
    HEADLESS, is_headless, kind_of, needs_cluster_ip, needs_health_check, needs_node_port, node_ports, wants_node_ports,
};
use crate::access::{ensure_map, has, int, items, items_mut, map, obj, remove, same, set, text, texts};
use crate::checks::spec;
use crate::kind::{AllocationError, Allocator, Claims};

const FAMILY: &str = "IPv4";

pub(super) fn allocate(
    object: &mut Value,
    old: Option<&Value>,
    pool: &mut dyn Allocator,
) -> Result<(), AllocationError> {
    ensure_map(object, "spec");
    if let Some(old) = old {
        keep_allocated(object, old);
    }
    sync_cluster_ips(object, old);
    init_families(object, old)?;
    take_ips(object, old, pool)?;
    match old.filter(|old| needs_node_port(spec(old))) {
        Some(old) => update_node_ports(object, old, pool)?,
        None => take_node_ports(object, pool)?,
    }
    take_health_check_port(object, old, pool)
}

pub(super) fn claims(object: &Value) -> Claims {
    let spec = spec(object);
    let ips = texts(spec, "clusterIPs").iter().filter_map(|ip| ip.parse().ok()).collect();
    let mut ports: Vec<u16> = node_ports(spec).into_iter().filter_map(|p| u16::try_from(p).ok()).collect();
    ports.extend(u16::try_from(int(spec, "healthCheckNodePort")).ok().filter(|p| *p != 0));
    Claims { ips, ports }
}

/// Fills in, on an update, what was allocated and the client did not repeat.
fn keep_allocated(object: &mut Value, old: &Value) {
    let was = spec(old);
    let Some(now) = object.get_mut("spec") else { return };
    if needs_cluster_ip(was) && needs_cluster_ip(now) {
        if text(now, "clusterIP").is_empty() && !text(was, "clusterIP").is_empty() {
            set(now, "clusterIP", text(was, "clusterIP"));
        }
        if items(now, "clusterIPs").is_empty()
            && text(now, "clusterIP") == text(was, "clusterIP")
            && has(was, "clusterIPs")
        {
            set(now, "clusterIPs", obj(was, "clusterIPs").clone());
        }
    }
    if needs_node_port(was) && needs_node_port(now) {
        let mut used: Vec<i64> = node_ports(was).intersection(&node_ports(now)).copied().collect();
        let by_name: HashMap<&str, i64> =
            items(was, "ports").iter().map(|p| (text(p, "name"), int(p, "nodePort"))).collect();
        for port in items_mut(now, "ports") {
            if int(port, "nodePort") == 0 {
                let known = by_name.get(text(port, "name")).copied().unwrap_or(0);
                if known != 0 && !used.contains(&known) {
                    set(port, "nodePort", known);
                    used.push(known);
                }
            }
        }
    }
    if needs_health_check(was) && needs_health_check(now) && int(now, "healthCheckNodePort") == 0 {
        set(now, "healthCheckNodePort", int(was, "healthCheckNodePort"));
    }
}

/// Makes the one address and the list of addresses agree, for clients that know only one of the fields.
fn sync_cluster_ips(object: &mut Value, old: Option<&Value>) {
    let Some(now) = object.get_mut("spec") else { return };
    let one = text(now, "clusterIP").to_owned();
    let unset = items(now, "clusterIPs").is_empty();
    let Some(was) = old.map(spec) else {
        if !one.is_empty() && unset {
            set(now, "clusterIPs", json!([one]));
        }
        return;
    };
    let before = text(was, "clusterIP");
    if one == before {
        if unset && !items(was, "clusterIPs").is_empty() {
            set(now, "clusterIPs", obj(was, "clusterIPs").clone());
        }
    } else if same(obj(now, "clusterIPs"), obj(was, "clusterIPs")) {
        if one.is_empty() {
            remove(now, "clusterIPs");
        } else {
            set(now, "clusterIPs", json!([one]));
        }
    }
}

fn init_families(object: &mut Value, old: Option<&Value>) -> Result<(), AllocationError> {
    if kind_of(object) == "ExternalName" {
        return Ok(());
    }
    if old.is_some_and(|old| keeps_prefer_dual_stack(spec(object), spec(old))) {
        return Ok(());
    }
    let selectorless = map(spec(object), "selector").is_none_or(serde_json::Map::is_empty);
    let Some(spec_now) = object.get_mut("spec") else { return Ok(()) };
    if !has(spec_now, "ipFamilyPolicy") {
        let kept = old.map(|old| text(spec(old), "ipFamilyPolicy").to_owned()).filter(|p| !p.is_empty());
        let headless = text(spec_now, "clusterIP") == HEADLESS;
        let default = if headless && selectorless { "RequireDualStack" } else { "SingleStack" };
        set(spec_now, "ipFamilyPolicy", kept.unwrap_or_else(|| default.to_owned()));
    }
    let errors = cluster_ip_fields(object);
    if !errors.is_empty() {
        return Err(AllocationError::Invalid(errors));
    }
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let now = spec(object);
    let policy = text(now, "ipFamilyPolicy").to_owned();
    let ips = texts(now, "clusterIPs");
    let mut families: Vec<String> = texts(now, "ipFamilies").iter().map(|f| (*f).to_owned()).collect();
    if policy == "SingleStack" {
        for (list, count) in [("clusterIPs", ips.len()), ("ipFamilies", families.len())] {
            if count == 2 {
                let detail = format!("must be RequireDualStack or PreferDualStack when multiple {list} are specified");
                errors.invalid(path.child("ipFamilyPolicy"), policy.clone(), &detail);
            }
        }
    }
    for ip in ips.iter().skip(families.len()).take_while(|ip| **ip != HEADLESS) {
        families.push(if ip.contains(':') { "IPv6" } else { FAMILY }.to_owned());
    }
    if ips.first() == Some(&HEADLESS) && selectorless {
        // endpoints are the user's own, of whatever family
        if families.is_empty() {
            families.push(FAMILY.to_owned());
        }
        if families.len() < 2 && policy != "SingleStack" {
            families.push(if families[0] == FAMILY { "IPv6" } else { FAMILY }.to_owned());
        }
    } else {
        if policy == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(path.child("ipFamilyPolicy"), policy, detail);
        }
        for (i, family) in families.iter().enumerate().filter(|(_, f)| *f != FAMILY) {
            errors.invalid(path.child("ipFamilies").index(i), family.clone(), "not configured on this cluster");
        }
        if !errors.is_empty() {
            return Err(AllocationError::Invalid(errors));
        }
        if families.is_empty() {
            families.push(FAMILY.to_owned());
        }
    }
    if let Some(spec_now) = object.get_mut("spec") {
        set(spec_now, "ipFamilies", json!(families));
    }
    Ok(())
}

/// A `PreferDualStack` service whose fields did not change stays as it was made.
fn keeps_prefer_dual_stack(now: &Value, was: &Value) -> bool {
    const PREFER: &str = "PreferDualStack";
    let policy = |spec: &Value| text(spec, "ipFamilyPolicy") == PREFER;
    if text(was, "type") == "ExternalName" || !policy(now) || !policy(was) {
        return false;
    }
    ["clusterIPs", "ipFamilies"].iter().all(|list| same(obj(now, list), obj(was, list)))
}

fn take_ips(object: &mut Value, old: Option<&Value>, pool: &mut dyn Allocator) -> Result<(), AllocationError> {
    let was_without = old.is_none_or(|old| kind_of(old) == "ExternalName");
    if !was_without || kind_of(object) == "ExternalName" || is_headless(spec(object)) {
        return Ok(());
    }
    let asked: Vec<String> = texts(spec(object), "clusterIPs").iter().map(|ip| (*ip).to_owned()).collect();
    let mut taken = asked.clone();
    for (i, _) in texts(spec(object), "ipFamilies").iter().enumerate() {
        match asked.get(i).filter(|ip| !ip.is_empty()) {
            None => {
                let ip = pool
                    .next_ip()
                    .map_err(|e| AllocationError::Internal(format!("failed to allocate a serviceIP: {e}")))?;
                taken.truncate(i);
                taken.push(ip.to_string());
            }
            Some(wanted) => {
                let ip: IpAddr = wanted
                    .parse()
                    .map_err(|_| AllocationError::Internal(format!("failed to parse service IP {wanted:?}")))?;
                pool.take_ip(ip).map_err(|e| {
                    let detail = format!("failed to allocate IP {wanted}: {e}");
                    invalid(Path::new("spec").child("clusterIPs"), json!(asked), &detail)
                })?;
            }
        }
    }
    if let (Some(spec), Some(first)) = (object.get_mut("spec"), taken.first()) {
        set(spec, "clusterIP", first.clone());
        set(spec, "clusterIPs", json!(taken));
    }
    Ok(())
}

fn invalid(path: Path, value: Value, detail: &str) -> AllocationError {
    let mut errors = ErrorList::new();
    errors.invalid(path, value, detail);
    AllocationError::Invalid(errors)
}

fn node_port_path(index: usize) -> Path {
    Path::new("spec").child("ports").index(index).child("nodePort")
}

fn take_port(pool: &mut dyn Allocator, index: usize, wanted: i64) -> Result<(), AllocationError> {
    let refused = |detail: &str| invalid(node_port_path(index), json!(wanted), detail);
    let port = u16::try_from(wanted)
        .map_err(|_| refused("provided port is not in the valid range. The range of valid ports is 30000-32767"))?;
    pool.take_port(port).map_err(|e| refused(&e))
}

fn next_port(pool: &mut dyn Allocator) -> Result<i64, AllocationError> {
    let port = pool.next_port();
    port.map(i64::from).map_err(|e| AllocationError::Internal(format!("failed to allocate a nodePort: {e}")))
}

/// Node ports of a service that had none: ports of one number share a node port over their protocols.
fn take_node_ports(object: &mut Value, pool: &mut dyn Allocator) -> Result<(), AllocationError> {
    if !needs_node_port(spec(object)) {
        return Ok(());
    }
    let wants = wants_node_ports(spec(object));
    let mut shared: HashMap<i64, i64> = HashMap::new();
    let asked: Vec<(i64, i64)> =
        items(spec(object), "ports").iter().map(|p| (int(p, "port"), int(p, "nodePort"))).collect();
    let Some(spec) = object.get_mut("spec") else { return Ok(()) };
    for (i, port) in items_mut(spec, "ports").iter_mut().enumerate() {
        let (number, own) = asked[i];
        if own == 0 && !wants {
            continue;
        }
        let node = match shared.get(&number) {
            Some(known) if own == 0 || own == *known => *known,
            Some(_) => {
                take_port(pool, i, own)?;
                own
            }
            None => {
                let requested = asked.iter().find(|(n, node)| *n == number && *node != 0).map(|(_, node)| *node);
                let node = match requested {
                    Some(wanted) => {
                        take_port(pool, i, wanted)?;
                        wanted
                    }
                    None => next_port(pool)?,
                };
                shared.insert(number, node);
                node
            }
        };
        set(port, "nodePort", node);
    }
    Ok(())
}

/// Node ports of a service that had some: the known ones stay, new ones are taken.
fn update_node_ports(object: &mut Value, old: &Value, pool: &mut dyn Allocator) -> Result<(), AllocationError> {
    if !needs_node_port(spec(object)) {
        return Ok(());
    }
    let known = node_ports(spec(old));
    let wants = wants_node_ports(spec(object));
    let mut taken: Vec<i64> = Vec::new();
    let mut seen: Vec<(String, i64)> = Vec::new();
    let Some(spec) = object.get_mut("spec") else { return Ok(()) };
    for (i, port) in items_mut(spec, "ports").iter_mut().enumerate() {
        let mut node = int(port, "nodePort");
        if node == 0 && !wants {
            continue;
        }
        if node == 0 {
            node = next_port(pool)?;
            set(port, "nodePort", node);
        } else if !known.contains(&node) && !taken.contains(&node) {
            take_port(pool, i, node)?;
            taken.push(node);
        }
        let pair = (text(port, "protocol").to_owned(), node);
        if seen.contains(&pair) {
            return Err(AllocationError::Internal(format!("duplicate nodePort: {{{} {}}}", pair.0, pair.1)));
        }
        seen.push(pair);
    }
    Ok(())
}

fn take_health_check_port(
    object: &mut Value,
    old: Option<&Value>,
    pool: &mut dyn Allocator,
) -> Result<(), AllocationError> {
    let wanted = int(spec(object), "healthCheckNodePort");
    let had = old.is_some_and(|old| needs_health_check(spec(old)));
    if !needs_health_check(spec(object)) {
        return Ok(());
    }
    if had {
        let was = old.map_or(0, |old| int(spec(old), "healthCheckNodePort"));
        if was != wanted {
            let path = Path::new("spec").child("healthCheckNodePort");
            return Err(invalid(path, json!(wanted), "field is immutable"));
        }
        return Ok(());
    }
    if wanted > 0 {
        let port = u16::try_from(wanted).map_err(|_| "provided port is not in the valid range".to_owned());
        port.and_then(|port| pool.take_port(port)).map_err(|e| {
            AllocationError::Internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {e}"))
        })?;
        return Ok(());
    }
    let port = pool
        .next_port()
        .map_err(|e| AllocationError::Internal(format!("failed to allocate a HealthCheck NodePort {wanted}: {e}")))?;
    if let Some(spec) = object.get_mut("spec") {
        set(spec, "healthCheckNodePort", port);
    }
    Ok(())
}
