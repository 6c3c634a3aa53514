//! The chain of authorizers, as the configuration orders it.
//!
//! Invariants:
//! - AC-2: authorizers are asked in the order in which they are named; the first that allows, or refuses, decides.

use std::sync::Arc;

use component_base::{SharedClock, TaskGroup};

use super::abac::Abac;
use super::webhook::Webhook;
use super::{Attributes, AuthorizationWebhookConfig, Authorizer, Decision, Rule};
use crate::attributes::User;
use crate::cache::ObjectReader;
use crate::error::Error;
use crate::outbound::Remote;

#[derive(Debug, Clone)]
pub struct AuthorizationConfig {
    /// `Node`, `RBAC`, `ABAC`, `Webhook`, `AlwaysAllow`, `AlwaysDeny`, in the order in which they are asked.
    pub modes: Vec<String>,
    /// Content of the file of ABAC policies.
    pub abac_policies: Option<String>,
    pub webhook: Option<AuthorizationWebhookConfig>,
}

impl Default for AuthorizationConfig {
    fn default() -> Self {
        Self { modes: vec!["Node".to_owned(), "RBAC".to_owned()], abac_policies: None, webhook: None }
    }
}

pub(super) enum Mode {
    Node,
    Rbac,
    Abac(Abac),
    Webhook(Box<Webhook>),
    AlwaysAllow,
    AlwaysDeny,
}

impl Mode {
    /// Decides by objects of the cluster.
    pub(super) fn reads_cache(&self) -> bool {
        matches!(self, Self::Node | Self::Rbac)
    }

    /// What one that does not read the cache says.
    pub(super) async fn ask(&self, attributes: &Attributes) -> Decision {
        match self {
            Self::Abac(abac) if abac.allows(attributes) => Decision::Allow(String::new()),
            Self::Abac(_) => Decision::Deny("No policy matched.".to_owned()),
            Self::Webhook(webhook) => webhook.authorize(attributes).await,
            Self::AlwaysAllow => Decision::Allow(String::new()),
            Self::AlwaysDeny => Decision::Deny("Everything is forbidden.".to_owned()),
            Self::Node | Self::Rbac => Decision::Deny(String::new()),
        }
    }

    pub(super) fn add_rules(&self, user: &User, namespace: &str, rules: &mut Vec<Rule>, errors: &mut Vec<String>) {
        match self {
            Self::Abac(abac) => rules.extend(abac.rules_of(user, namespace)),
            Self::Webhook(_) => errors.push("webhook authorizer does not support user rule resolution".to_owned()),
            Self::AlwaysAllow => {
                let star = || vec!["*".to_owned()];
                rules.push(Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() });
                rules.push(Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() });
            }
            Self::Node | Self::Rbac | Self::AlwaysDeny => {}
        }
    }
}

impl Authorizer {
    /// The chain of the configuration; `read` gives the content of files that it refers to.
    ///
    /// # Errors
    /// [`Error::Config`] that says what is wrong.
    pub fn configured(
        config: &AuthorizationConfig,
        reader: Arc<dyn ObjectReader>,
        clock: &SharedClock,
        tasks: &TaskGroup,
    ) -> Result<Self, Error> {
        let wrong = |detail: String| Error::Config { what: "authorization", detail };
        let mut chain = Vec::new();
        for (at, mode) in config.modes.iter().enumerate() {
            if config.modes[..at].contains(mode) {
                return Err(wrong(format!("authorization-mode {mode:?} is named twice")));
            }
            chain.push(match mode.as_str() {
                "Node" => Mode::Node,
                "RBAC" => Mode::Rbac,
                "AlwaysAllow" => Mode::AlwaysAllow,
                "AlwaysDeny" => Mode::AlwaysDeny,
                "ABAC" => {
                    let file = config.abac_policies.as_deref();
                    let missing = || wrong("authorization-mode ABAC's authorization policy file not passed".to_owned());
                    Mode::Abac(Abac::parse(file.ok_or_else(missing)?).map_err(wrong)?)
                }
                "Webhook" => {
                    let missing =
                        || wrong("authorization-mode Webhook's authorization config file not passed".to_owned());
                    let webhook = config.webhook.clone().ok_or_else(missing)?;
                    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
                    let remote = Remote::from_kubeconfig(&webhook.kubeconfig, &read, tasks).map_err(wrong)?;
                    Mode::Webhook(Box::new(Webhook::new(remote, webhook, clock.clone())))
                }
                other => return Err(wrong(format!("authorization-mode {other:?} is not a valid mode"))),
            });
        }
        if chain.is_empty() {
            return Err(wrong("at least one authorization-mode must be passed".to_owned()));
        }
        for (mode, given, what) in [
            ("ABAC", config.abac_policies.is_some(), "authorization-policy-file"),
            ("Webhook", config.webhook.is_some(), "authorization-webhook-config-file"),
        ] {
            if given && !config.modes.iter().any(|known| known == mode) {
                return Err(wrong(format!("cannot specify --{what} without mode {mode}")));
            }
        }
        Ok(Self::with_chain(reader, chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::tests::FakeReader;
    use component_base::RealClock;

    fn authorizer(modes: &[&str], policies: Option<&str>) -> Result<Authorizer, Error> {
        let config = AuthorizationConfig {
            modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
            abac_policies: policies.map(str::to_owned),
            webhook: None,
        };
        Authorizer::configured(&config, FakeReader::with(&[]), &RealClock::shared(), &TaskGroup::new())
    }

    #[tokio::test]
    async fn the_first_that_allows_decides() {
        let policies = r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"u","namespace":"*","resource":"pods"}}"#;
        let chain = authorizer(&["Node", "RBAC", "ABAC"], Some(policies)).expect("configured");
        let user = User::new("u", &[]);
        let ask = |resource: &str| Attributes::resource(&user, "get", "", resource, "a", "");
        assert!(chain.authorize(&ask("pods")).await.allowed());
        assert_eq!(chain.authorize(&ask("secrets")).await, Decision::Deny("No policy matched.".to_owned()));
        let (rules, errors) = chain.all_rules_for(&user, "a").await;
        assert_eq!((rules.len(), errors.len()), (1, 0));
        let none = authorizer(&["AlwaysDeny"], None).expect("configured");
        assert_eq!(none.authorize(&ask("pods")).await, Decision::Deny("Everything is forbidden.".to_owned()));
    }

    #[test]
    fn mistakes_are_named() {
        for (modes, policies) in [
            (&["Odd"][..], None),
            (&["RBAC", "RBAC"], None),
            (&[], None),
            (&["ABAC"], None),
            (&["Webhook"], None),
            (&["RBAC"], Some("")),
        ] {
            assert!(authorizer(modes, policies).is_err(), "{modes:?}");
        }
    }
}
