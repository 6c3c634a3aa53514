//! The values of Kubernetes' own CEL types.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use apimachinery::quantity::Quantity;

use crate::authz::{Check, Decision, Handle};
use crate::formats::Format;
use crate::semver::Semver;
use crate::url::Url;

pub const QUANTITY: &str = "kubernetes.Quantity";
pub const IP: &str = "net.IP";
pub const CIDR: &str = "net.CIDR";
pub const URL: &str = "kubernetes.URL";
pub const SEMVER: &str = "kubernetes.Semver";
pub const FORMAT: &str = "kubernetes.NamedFormat";
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub const DECISION: &str = "kubernetes.authorization.Decision";

#[derive(Clone)]
pub enum Ext<'a> {
    Quantity(Rc<Quantity>),
    Ip(IpAddr),
    /// The address as written, and the length of the prefix.
    Cidr(IpAddr, u8),
    Url(Rc<Url>),
    Semver(Rc<Semver>),
    Format(&'static Format),
    Authorizer(Rc<Handle<'a>>),
    PathCheck(Rc<(Handle<'a>, String)>),
    GroupCheck(Rc<(Handle<'a>, String)>),
    ResourceCheck(Rc<(Handle<'a>, Check)>),
    Decision(Rc<Decision>),
}

impl Ext<'_> {
    pub fn type_name(&self) -> &'static str {
        match self {
            Ext::Quantity(_) => QUANTITY,
            Ext::Ip(_) => IP,
            Ext::Cidr(..) => CIDR,
            Ext::Url(_) => URL,
            Ext::Semver(_) => SEMVER,
            Ext::Format(_) => FORMAT,
            Ext::Authorizer(_) => AUTHORIZER,
            Ext::PathCheck(_) => PATH_CHECK,
            Ext::GroupCheck(_) => GROUP_CHECK,
            Ext::ResourceCheck(_) => RESOURCE_CHECK,
            Ext::Decision(_) => DECISION,
        }
    }

    /// The size that costs count with: bytes of an address, or of a network's prefix.
    pub fn size(&self) -> Option<u64> {
        match self {
            Ext::Ip(ip) => Some(if ip.is_ipv4() { 4 } else { 16 }),
            Ext::Cidr(_, prefix) => Some(u64::from(prefix.div_ceil(8))),
            _ => None,
        }
    }

    pub fn equals(&self, other: &Ext<'_>) -> bool {
        match (self, other) {
            (Ext::Quantity(a), Ext::Quantity(b)) => a == b,
            (Ext::Ip(a), Ext::Ip(b)) => a == b,
            (Ext::Cidr(a, n), Ext::Cidr(b, m)) => a == b && n == m,
            (Ext::Url(a), Ext::Url(b)) => a.to_string() == b.to_string(),
            (Ext::Semver(a), Ext::Semver(b)) => a.compare(b).is_eq(),
            (Ext::Format(a), Ext::Format(b)) => a.name == b.name,
            (Ext::Decision(a), Ext::Decision(b)) => a == b,
            (Ext::PathCheck(a), Ext::PathCheck(b)) | (Ext::GroupCheck(a), Ext::GroupCheck(b)) => a.1 == b.1,
            (Ext::ResourceCheck(a), Ext::ResourceCheck(b)) => a.1 == b.1,
            _ => false,
        }
    }
}

impl fmt::Display for Ext<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ext::Quantity(quantity) => write!(out, "{quantity}"),
            Ext::Ip(ip) => write!(out, "{ip}"),
            Ext::Cidr(ip, prefix) => write!(out, "{ip}/{prefix}"),
            Ext::Url(url) => write!(out, "{url}"),
            Ext::Semver(version) => write!(out, "{version}"),
            Ext::Format(format) => out.write_str(format.name),
            other => out.write_str(other.type_name()),
        }
    }
}
