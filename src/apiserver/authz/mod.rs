//! Who may do what: superusers, then the chain of authorizers: by default the node authorizer, then RBAC.
//!
//! Invariants:
//! - AZ-1: everything not allowed is denied; of the authorizers only a webhook can end the chain with a no.
//! - AZ-2: a denial is only given after the policy was read no older than the last write acknowledged before it.

mod abac;
mod chain;
mod node;
mod rbac;
pub mod rules;
mod webhook;

use std::sync::Arc;

use crate::attributes::{RequestInfo, User};
use crate::cache::ObjectReader;
use chain::Mode;

pub use chain::AuthorizationConfig;
pub use node::node_of;
pub use rbac::Rbac;
pub use rules::Rule;
use rules::{Asked, go_quote};
pub use webhook::AuthorizationWebhookConfig;

/// Members may do everything, whatever the policy says.
pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

/// A question to the authorizer.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub user: User,
    pub verb: String,
    pub group: String,
    /// Only webhooks are told.
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// Of a request that is no resource request.
    pub path: String,
    pub is_resource: bool,
    /// `field = value` requirements of the field selector.
    pub fields: Vec<(String, String)>,
}

impl Attributes {
    pub fn of(user: &User, info: &RequestInfo) -> Self {
        let fields = match info.query.get("fieldSelector") {
            Some(selector) if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") => {
                equalities(selector)
            }
            _ => Vec::new(),
        };
        Self {
            user: user.clone(),
            verb: info.verb.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            is_resource: info.is_resource,
            fields,
        }
    }

    /// A question about one resource.
    pub fn resource(user: &User, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            user: user.clone(),
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..Self::default()
        }
    }

    pub(crate) fn asked(&self) -> Asked<'_> {
        if self.is_resource {
            Asked::Resource {
                verb: &self.verb,
                group: &self.group,
                resource: &self.resource,
                subresource: &self.subresource,
                name: &self.name,
            }
        } else {
            Asked::Path { verb: &self.verb, path: &self.path }
        }
    }

    /// The text of a 403: `User "u" cannot list resource "pods" in API group "" in the namespace "ns"`.
    pub fn forbidden_text(&self, reason: &str) -> String {
        let user = go_quote(&self.user.name);
        let mut text = if self.is_resource {
            let resource = if self.subresource.is_empty() {
                self.resource.clone()
            } else {
                format!("{}/{}", self.resource, self.subresource)
            };
            let place = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", go_quote(&self.namespace))
            };
            format!(
                "User {user} cannot {} resource {} in API group {} {place}",
                self.verb,
                go_quote(&resource),
                go_quote(&self.group)
            )
        } else {
            format!("User {user} cannot {} path {}", self.verb, go_quote(&self.path))
        };
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }
}

/// `a=b`, `a==b` terms of a field selector.
pub(crate) fn equalities(selector: &str) -> Vec<(String, String)> {
    selector
        .split(',')
        .filter(|term| !term.contains("!="))
        .filter_map(|term| {
            let (field, value) = term.split_once('=')?;
            Some((field.to_owned(), value.strip_prefix('=').unwrap_or(value).to_owned()))
        })
        .collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// With upstream's reason, often empty.
    Allow(String),
    /// Nobody allows it.
    Deny(String),
    /// Somebody denies it, whatever others would say.
    Refuse(String),
}

impl Decision {
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    pub fn reason(&self) -> &str {
        let (Self::Allow(reason) | Self::Deny(reason) | Self::Refuse(reason)) = self;
        reason
    }
}

/// The server's authorizer.
pub struct Authorizer {
    reader: Arc<dyn ObjectReader>,
    rbac: Rbac,
    chain: Vec<Mode>,
}

impl Authorizer {
    /// The default chain.
    pub fn new(reader: Arc<dyn ObjectReader>) -> Self {
        Self::with_chain(reader, vec![Mode::Node, Mode::Rbac])
    }

    fn with_chain(reader: Arc<dyn ObjectReader>, chain: Vec<Mode>) -> Self {
        Self { rbac: Rbac::new(reader.clone()), reader, chain }
    }

    pub async fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.groups.iter().any(|g| g == MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        let mut rest = self.chain.as_slice();
        while let Some(first) = rest.first() {
            // AZ-2: those that read the cache are asked together, again when it is fresh.
            let (decision, left) = match first.reads_cache() {
                true => {
                    let (cached, left) = rest.split_at(rest.iter().take_while(|mode| mode.reads_cache()).count());
                    let early = self.decide(cached, attributes);
                    if early.allowed() {
                        return early;
                    }
                    self.reader.fresh().await;
                    (self.decide(cached, attributes), left)
                }
                false => (first.ask(attributes).await, &rest[1..]),
            };
            match decision {
                Decision::Deny(reason) => reasons.push(reason),
                Decision::Refuse(reason) => {
                    reasons.push(reason);
                    return Decision::Refuse(joined(reasons));
                }
                allowed @ Decision::Allow(_) => return allowed,
            }
            rest = left;
        }
        Decision::Deny(joined(reasons))
    }

    fn decide(&self, modes: &[Mode], attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for mode in modes {
            let decision = match mode {
                Mode::Node => node::authorize(self.reader.as_ref(), attributes),
                _ => self.rbac.authorize(attributes),
            };
            match decision {
                Decision::Deny(reason) => reasons.push(reason),
                other => return other,
            }
        }
        Decision::Deny(joined(reasons))
    }

    /// What self-reviews show: the rules of every authorizer that has some, with the errors met.
    pub async fn all_rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = self.rules_for(user, namespace).await;
        for mode in &self.chain {
            mode.add_rules(user, namespace, &mut rules, &mut errors);
        }
        (rules, errors)
    }

    /// Every RBAC rule that applies to the user in a namespace ("" for cluster-wide rules only), with the errors met.
    pub async fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.reader.fresh().await;
        self.rbac.rules_for(user, namespace)
    }

    /// The rules a binding would hand out; `None` when the role does not exist.
    pub async fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.reader.fresh().await;
        self.rbac.role_rules(kind, namespace, name)
    }
}

fn joined(mut reasons: Vec<String>) -> String {
    reasons.retain(|reason| !reason.is_empty());
    reasons.join("\n")
}

#[cfg(test)]
mod load_tests;
#[cfg(test)]
pub(crate) mod tests;
