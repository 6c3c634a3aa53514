//! What decisions cost when there is much policy: `cargo nextest run -p apiserver --run-ignored all --no-capture load`.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use component_base::{Clock as _, RealClock};
use serde_json::{Value, json};

use super::tests::FakeReader;
use super::*;

const BINDINGS: usize = 10_000;
const DECISIONS: u32 = 1000;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// Bindings of users u0… to a role of their namespace.
fn reader(namespaces: usize) -> Arc<FakeReader> {
    let name = |at: usize| format!("n{}", at % namespaces);
    let role = |at: usize| {
        (
            "roles",
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "r", "namespace": name(at)},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
            }),
        )
    };
    let binding = |at: usize| {
        (
            "rolebindings",
            json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("b{at}"), "namespace": name(at)},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("u{at}")}],
            }),
        )
    };
    let all: Vec<(&str, Value)> = (0..namespaces).map(role).chain((0..BINDINGS).map(binding)).collect();
    FakeReader::with(&all)
}

#[tokio::test]
#[ignore = "measures"]
async fn load_of_ten_thousand_bindings() {
    let each = |all: Duration| all.as_secs_f64() * 1e6 / f64::from(DECISIONS);
    for namespaces in [1, 100] {
        let reader = reader(namespaces);
        let before = resident();
        let authorizer = Authorizer::new(reader.clone());
        let ask = |user: &str, verb: &str| {
            Attributes::resource(&User::new(user, &["dev", "ops"]), verb, "", "pods", "n0", "x")
        };
        let (mine, other) = (ask("u0", "get"), ask("u0", "delete"));
        let begun = RealClock.instant();
        assert!(authorizer.authorize(&mine).await.allowed());
        let compiled = begun.elapsed();
        let memory = resident().saturating_sub(before);
        let time = async |asked: &Attributes, want: bool| {
            let begun = RealClock.instant();
            for _ in 0..DECISIONS {
                assert_eq!(authorizer.authorize(asked).await.allowed(), want);
            }
            each(begun.elapsed())
        };
        let (allowed, denied) = (time(&mine, true).await, time(&other, false).await);
        println!(
            "{BINDINGS} bindings in {namespaces} namespaces: compiled in {compiled:?}, {} KB more memory; allowed in {allowed:.1} µs, denied in {denied:.1} µs",
            memory / 1024
        );
    }
}
