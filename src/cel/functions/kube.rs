//! Kubernetes' own functions: quantities, addresses, URLs, versions, formats, authorization.

use std::net::IpAddr;
use std::rc::Rc;

use apimachinery::quantity::{Format as QuantityFormat, Quantity};
use apimachinery::validation::names;
use ipnet::IpNet;

use crate::authz::{Check, Handle, Target};
use crate::error::EvalError;
use crate::ext::Ext;
use crate::formats;
use crate::functions::{Func, no_overload};
use crate::semver::Semver;
use crate::url::Url;
use crate::value::{Entries, Result, Value};

pub(super) fn lookup(name: &str) -> Option<Func> {
    Some(match name {
        "quantity" => |args| text(args, "quantity", |s| quantity(s).map(Ext::Quantity).map(Value::Ext)),
        "isQuantity" => |args| text(args, "isQuantity", |s| Ok(Value::Bool(Quantity::parse(s).is_ok()))),
        "sign" | "asApproximateFloat" | "asInteger" | "isInteger" => return quantity_part(name),
        "isGreaterThan" => |args| compared(args, "isGreaterThan", |order| Value::Bool(order > 0)),
        "isLessThan" => |args| compared(args, "isLessThan", |order| Value::Bool(order < 0)),
        "compareTo" => |args| compared(args, "compareTo", Value::Int),
        "add" => |args| arithmetic(args, "add", Quantity::add),
        "sub" => |args| arithmetic(args, "sub", Quantity::sub),
        "ip" => ip,
        "isIP" => |args| text(args, "isIP", |s| Ok(Value::Bool(parse_ip(s).is_ok()))),
        "ip.isCanonical" => |args| {
            text(args, "ip.isCanonical", |s| Ok(Value::Bool(parse_ip(s).map_err(EvalError::new)?.to_string() == s)))
        },
        "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => return ip_part(name),
        "cidr" => |args| text(args, "cidr", |s| parse_cidr(s).map_err(EvalError::new).map(cidr_value)),
        "isCIDR" => |args| text(args, "isCIDR", |s| Ok(Value::Bool(parse_cidr(s).is_ok()))),
        "containsIP" => contains_ip,
        "containsCIDR" => contains_cidr,
        "masked" => |args| match args {
            [Value::Ext(Ext::Cidr(ip, prefix))] => Ok(cidr_value(network(*ip, *prefix))),
            _ => no_overload("masked", args),
        },
        "prefixLength" => |args| match args {
            [Value::Ext(Ext::Cidr(_, prefix))] => Ok(Value::Int(i64::from(*prefix))),
            _ => no_overload("prefixLength", args),
        },
        "url" => |args| {
            text(args, "url", |s| {
                let url = Url::parse(s).map_err(|error| {
                    EvalError::new(format!("URL parse error during conversion from string: {error}"))
                })?;
                Ok(Value::Ext(Ext::Url(Rc::new(url))))
            })
        },
        "isURL" => |args| text(args, "isURL", |s| Ok(Value::Bool(Url::parse(s).is_ok()))),
        "getScheme" => |args| url_part(args, "getScheme", |url| Value::string(url.scheme.as_str())),
        "getHost" => |args| url_part(args, "getHost", |url| Value::string(url.host.as_str())),
        "getHostname" => |args| url_part(args, "getHostname", |url| Value::string(url.hostname())),
        "getPort" => |args| url_part(args, "getPort", |url| Value::string(url.port())),
        "getEscapedPath" => |args| url_part(args, "getEscapedPath", |url| Value::string(url.escaped_path())),
        "getQuery" => |args| url_part(args, "getQuery", query),
        "semver" => |args| Ok(Value::Ext(Ext::Semver(Rc::new(version(args, "semver")?.map_err(EvalError::new)?)))),
        "isSemver" => |args| Ok(Value::Bool(version(args, "isSemver")?.is_ok())),
        "major" => |args| version_part(args, "major", |version| version.major),
        "minor" => |args| version_part(args, "minor", |version| version.minor),
        "patch" => |args| version_part(args, "patch", |version| version.patch),
        "format.named" => |args| {
            text(args, "format.named", |s| {
                Ok(formats::named(s)
                    .map_or(Value::Optional(None), |format| Value::some(Value::Ext(Ext::Format(format)))))
            })
        },
        "validate" => |args| match args {
            [Value::Ext(Ext::Format(format)), Value::String(s)] => {
                let complaints = (format.validate)(s);
                if complaints.is_empty() {
                    return Ok(Value::Optional(None));
                }
                Ok(Value::some(Value::list(complaints.into_iter().map(Value::string).collect())))
            }
            _ => no_overload("validate", args),
        },
        _ => return authz(name),
    })
}

fn text<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&str) -> Result<Value<'a>>) -> Result<Value<'a>> {
    match args {
        [Value::String(s)] => run(s),
        _ => no_overload(name, args),
    }
}

fn quantity(text: &str) -> Result<Rc<Quantity>> {
    Quantity::parse(text).map(Rc::new).map_err(|error| EvalError::new(error.to_string()))
}

fn quantity_part(name: &str) -> Option<Func> {
    Some(match name {
        "sign" => |args| of_quantity(args, "sign", |q| Ok(Value::Int(i64::from(q.sign())))),
        "asApproximateFloat" => |args| of_quantity(args, "asApproximateFloat", |q| Ok(Value::Double(q.as_f64()))),
        "asInteger" => |args| {
            of_quantity(args, "asInteger", |q| {
                q.as_i64().map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
            })
        },
        _ => |args| of_quantity(args, "isInteger", |q| Ok(Value::Bool(q.as_i64().is_some()))),
    })
}

fn of_quantity<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&Quantity) -> Result<Value<'a>>) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Quantity(q))] => run(q),
        _ => no_overload(name, args),
    }
}

fn arithmetic<'a>(args: &[Value<'a>], name: &str, run: fn(&mut Quantity, &Quantity)) -> Result<Value<'a>> {
    let (left, right) = match args {
        [Value::Ext(Ext::Quantity(left)), Value::Ext(Ext::Quantity(right))] => (left, (**right).clone()),
        [Value::Ext(Ext::Quantity(left)), Value::Int(right)] => {
            (left, Quantity::new(*right, QuantityFormat::DecimalExponent))
        }
        _ => return no_overload(name, args),
    };
    let mut result = (**left).clone();
    run(&mut result, &right);
    Ok(Value::Ext(Ext::Quantity(Rc::new(result))))
}

fn compared<'a>(args: &[Value<'a>], name: &str, run: impl Fn(i64) -> Value<'a>) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Quantity(a)), Value::Ext(Ext::Quantity(b))] => Ok(run(a.cmp(b) as i64)),
        [Value::Ext(Ext::Semver(a)), Value::Ext(Ext::Semver(b))] => Ok(run(a.compare(b) as i64)),
        _ => no_overload(name, args),
    }
}

/// An address as Kubernetes' library takes it: no zone, no IPv4 in IPv6.
fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )
    })?;
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        ip => Ok(ip),
    }
}

/// A network with the address as written.
fn parse_cidr(text: &str) -> std::result::Result<(IpAddr, u8), String> {
    let fail = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
    };
    let (address, prefix) = text.rsplit_once('/').ok_or_else(|| fail("no '/'"))?;
    let ip: IpAddr = address.parse().map_err(|_| fail(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    let bad = || fail(&format!("bad bits after slash: {prefix:?}"));
    if prefix.is_empty() || !prefix.bytes().all(|c| c.is_ascii_digit()) || (prefix.len() > 1 && prefix.starts_with('0'))
    {
        return Err(bad());
    }
    let bits: u8 = prefix.parse().map_err(|_| bad())?;
    if bits > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(fail("prefix length out of range"));
    }
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        ip => Ok((ip, bits)),
    }
}

fn cidr_value<'a>((ip, prefix): (IpAddr, u8)) -> Value<'a> {
    Value::Ext(Ext::Cidr(ip, prefix))
}

fn network(ip: IpAddr, prefix: u8) -> (IpAddr, u8) {
    (IpNet::new(ip, prefix).map_or(ip, |net| net.network()), prefix)
}

fn ip<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(s)] => parse_ip(s).map(Ext::Ip).map(Value::Ext).map_err(EvalError::new),
        [Value::Ext(Ext::Cidr(ip, _))] => Ok(Value::Ext(Ext::Ip(*ip))),
        _ => no_overload("ip", args),
    }
}

fn ip_part(name: &str) -> Option<Func> {
    Some(match name {
        "family" => |args| of_ip(args, "family", |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args| of_ip(args, "isUnspecified", |ip| Value::Bool(ip.is_unspecified())),
        "isLoopback" => |args| of_ip(args, "isLoopback", |ip| Value::Bool(ip.is_loopback())),
        "isLinkLocalMulticast" => |args| of_ip(args, "isLinkLocalMulticast", |ip| Value::Bool(local_multicast(ip))),
        "isLinkLocalUnicast" => |args| of_ip(args, "isLinkLocalUnicast", |ip| Value::Bool(local_unicast(ip))),
        _ => |args| {
            of_ip(args, "isGlobalUnicast", |ip| {
                let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
                let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || local_unicast(ip);
                Value::Bool(!broadcast && !special)
            })
        },
    })
}

fn local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn of_ip<'a>(args: &[Value<'a>], name: &str, run: impl Fn(IpAddr) -> Value<'a>) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Ip(ip))] => Ok(run(*ip)),
        _ => no_overload(name, args),
    }
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (net, ip) = match args {
        [Value::Ext(Ext::Cidr(ip, prefix)), Value::Ext(Ext::Ip(other))] => ((*ip, *prefix), *other),
        [Value::Ext(Ext::Cidr(ip, prefix)), Value::String(s)] => ((*ip, *prefix), parse_ip(s).map_err(EvalError::new)?),
        _ => return no_overload("containsIP", args),
    };
    Ok(Value::Bool(IpNet::new(net.0, net.1).is_ok_and(|net| net.contains(&ip))))
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let (net, other) = match args {
        [Value::Ext(Ext::Cidr(ip, prefix)), Value::Ext(Ext::Cidr(other, bits))] => ((*ip, *prefix), (*other, *bits)),
        [Value::Ext(Ext::Cidr(ip, prefix)), Value::String(s)] => {
            ((*ip, *prefix), parse_cidr(s).map_err(EvalError::new)?)
        }
        _ => return no_overload("containsCIDR", args),
    };
    let holds = IpNet::new(net.0, net.1).is_ok_and(|net| net.contains(&other.0)) && net.1 <= other.1;
    Ok(Value::Bool(holds))
}

fn url_part<'a>(args: &[Value<'a>], name: &str, run: impl Fn(&Url) -> Value<'a>) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Url(url))] => Ok(run(url)),
        _ => no_overload(name, args),
    }
}

fn query<'a>(url: &Url) -> Value<'a> {
    let mut entries = Entries::default();
    for (key, values) in url.query_values() {
        // A string is always a key, and the keys are those of a map.
        let _ = entries.insert(Value::string(key), Value::list(values.into_iter().map(Value::string).collect()));
    }
    Value::map(entries)
}

fn version(args: &[Value<'_>], name: &str) -> Result<std::result::Result<Semver, String>> {
    match args {
        [Value::String(s)] | [Value::String(s), Value::Bool(false)] => Ok(Semver::parse(s)),
        [Value::String(s), Value::Bool(true)] => Ok(Semver::parse_normalized(s)),
        _ => no_overload(name, args).map(|_| Err(String::new())),
    }
}

fn version_part<'a>(args: &[Value<'a>], name: &str, run: fn(&Semver) -> u64) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Semver(version))] => Ok(Value::Int(run(version) as i64)),
        _ => no_overload(name, args),
    }
}

fn authz(name: &str) -> Option<Func> {
    Some(match name {
        "path" => |args| match args {
            [Value::Ext(Ext::Authorizer(handle)), Value::String(path)] if path.trim().is_empty() => {
                let _ = handle;
                Err(EvalError::new("path must not be empty"))
            }
            [Value::Ext(Ext::Authorizer(handle)), Value::String(path)] => {
                Ok(Value::Ext(Ext::PathCheck(Rc::new(((**handle).clone(), path.to_string())))))
            }
            _ => no_overload("path", args),
        },
        "group" => |args| match args {
            [Value::Ext(Ext::Authorizer(handle)), Value::String(group)] => {
                Ok(Value::Ext(Ext::GroupCheck(Rc::new(((**handle).clone(), group.to_string())))))
            }
            _ => no_overload("group", args),
        },
        "serviceAccount" => service_account,
        "resource" => |args| match args {
            [Value::Ext(Ext::GroupCheck(_)), Value::String(resource)] if resource.trim().is_empty() => {
                Err(EvalError::new("resource must not be empty"))
            }
            [Value::Ext(Ext::GroupCheck(group)), Value::String(resource)] => {
                let (handle, group) = &**group;
                let check = Check { group: group.clone(), resource: resource.to_string(), ..Check::default() };
                Ok(Value::Ext(Ext::ResourceCheck(Rc::new((handle.clone(), check)))))
            }
            _ => no_overload("resource", args),
        },
        "subresource" => |args| refine(args, "subresource", |check, text| check.subresource = text),
        "namespace" => |args| refine(args, "namespace", |check, text| check.namespace = text),
        "name" => |args| refine(args, "name", |check, text| check.name = text),
        "fieldSelector" => |args| refine(args, "fieldSelector", |check, text| check.field_selector = Some(text)),
        "labelSelector" => |args| refine(args, "labelSelector", |check, text| check.label_selector = Some(text)),
        "check" => |args| match args {
            [Value::Ext(Ext::PathCheck(path)), Value::String(verb)] => {
                Ok(Value::Ext(Ext::Decision(Rc::new(path.0.ask(verb, Target::Path(&path.1))))))
            }
            [Value::Ext(Ext::ResourceCheck(check)), Value::String(verb)] => {
                Ok(Value::Ext(Ext::Decision(Rc::new(check.0.ask(verb, Target::Resource(&check.1))))))
            }
            _ => no_overload("check", args),
        },
        "allowed" => |args| decided(args, "allowed", |decision| Value::Bool(decision.allowed)),
        "errored" => |args| decided(args, "errored", |decision| Value::Bool(decision.error.is_some())),
        "reason" => |args| decided(args, "reason", |decision| Value::string(decision.reason.as_str())),
        "error" => {
            |args| decided(args, "error", |decision| Value::string(decision.error.as_deref().unwrap_or_default()))
        }
        _ => return None,
    })
}

fn service_account<'a>(args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::Ext(Ext::Authorizer(handle)), Value::String(namespace), Value::String(name)] = args else {
        return no_overload("serviceAccount", args);
    };
    if !names::dns1123_subdomain(name, false).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !names::dns1123_label(namespace, false).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let service_account = Some((namespace.to_string(), name.to_string()));
    Ok(Value::Ext(Ext::Authorizer(Rc::new(Handle { host: handle.host.clone(), service_account }))))
}

fn refine<'a>(args: &[Value<'a>], name: &str, set: fn(&mut Check, String)) -> Result<Value<'a>> {
    let [Value::Ext(Ext::ResourceCheck(check)), Value::String(text)] = args else {
        return no_overload(name, args);
    };
    let mut check = (**check).clone();
    set(&mut check.1, text.to_string());
    Ok(Value::Ext(Ext::ResourceCheck(Rc::new(check))))
}

fn decided<'a>(
    args: &[Value<'a>],
    name: &str,
    run: impl Fn(&crate::authz::Decision) -> Value<'a>,
) -> Result<Value<'a>> {
    match args {
        [Value::Ext(Ext::Decision(decision))] => Ok(run(decision)),
        _ => no_overload(name, args),
    }
}
