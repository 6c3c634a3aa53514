//! Tests of `checks`.

use serde_json::json;

use super::*;

fn at(level: Level, minor: u32) -> LevelVersion {
    LevelVersion { level, version: Version::Minor(minor) }
}

fn latest(level: Level) -> LevelVersion {
    LevelVersion { level, version: Version::Latest }
}

fn said(policy: LevelVersion, spec: Value) -> String {
    describe(&evaluate(policy, &Value::Null, &spec))
}

/// A pod that the restricted level lets through.
fn good() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
    })
}

#[test]
fn good_pods_pass_everywhere() {
    for minor in 0..40 {
        assert_eq!(said(at(Level::Restricted, minor), good()), "");
    }
    assert_eq!(said(latest(Level::Restricted), good()), "");
}

#[test]
fn baseline_texts() {
    let base = |extra: Value| {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        spec.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
        spec
    };
    let two = |field: &str, value: Value| {
        base(json!({"containers": [
            {"name": "a", "securityContext": {field: value}}, {"name": "b", "securityContext": {field: value}},
        ]}))
    };
    let cases = [
        (base(json!({"hostIPC": true, "hostPID": true})), "host namespaces (hostPID=true, hostIPC=true)"),
        (
            two("privileged", json!(true)),
            r#"privileged (containers "a", "b" must not set securityContext.privileged=true)"#,
        ),
        (
            two("capabilities", json!({"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]})),
            r#"non-default capabilities (containers "a", "b" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            base(json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "hostPath": {}}]})),
            r#"hostPath volumes (volumes "v", "w")"#,
        ),
        (
            base(json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]})),
            r#"hostPort (container "a" uses hostPorts 443, 80)"#,
        ),
        (
            two("procMount", json!("Unmasked")),
            r#"procMount (containers "a", "b" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            base(json!({"securityContext": {"seLinuxOptions": {"type": "x", "role": "r"}}})),
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "x"; role may not be set)"#,
        ),
        (
            two("seccompProfile", json!({"type": "Unconfined"})),
            r#"seccompProfile (containers "a", "b" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            base(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})),
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            base(json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            base(json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]})),
            r#"probe or lifecycle host (container "a" uses probe or lifecycle host "1.2.3.4")"#,
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(said(latest(Level::Baseline), spec), want);
    }
}

#[test]
fn annotations_count() {
    let metadata = json!({"annotations": {
        "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
    }});
    let spec = json!({"containers": [{"name": "c"}]});
    let found = describe(&evaluate(at(Level::Baseline, 18), &metadata, &spec));
    assert_eq!(
        found,
        r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/c="unconfined""), seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#
    );
}

#[test]
fn restricted_texts() {
    let mut spec = good();
    spec["securityContext"] = json!({"runAsNonRoot": false, "runAsUser": 0});
    spec["volumes"] = json!([{"name": "a", "nfs": {}}, {"name": "b", "image": {}}, {"name": "c", "secret": {}}]);
    spec["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["A", "B"]}});
    assert_eq!(
        said(latest(Level::Restricted), spec),
        r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]; container "c" must not include "A", "B" in securityContext.capabilities.add), restricted volume types (volumes "a", "b" use restricted volume types "nfs", "unknown"), runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
    );
}

#[test]
fn versions_change_checks() {
    let table = [
        // Sysctls became safe one after the other.
        (json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}}), Level::Baseline, 27),
        (json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_fin_timeout"}]}}), Level::Baseline, 29),
        (json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), Level::Baseline, 32),
        (json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}), Level::Baseline, 31),
        (
            json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}),
            Level::Baseline,
            35,
        ),
    ];
    for (spec, level, since) in table {
        assert_ne!(said(at(level, since - 1), spec.clone()), "", "{spec}");
        assert_eq!(said(at(level, since), spec.clone()), "", "{spec}");
    }
    // The reverse: what was not asked for before.
    let mut windows = good();
    windows["os"] = json!({"name": "windows"});
    windows["containers"][0]["securityContext"] = json!({});
    windows["securityContext"] = json!({"runAsNonRoot": true});
    assert_eq!(said(at(Level::Restricted, 25), windows.clone()), "");
    assert_eq!(
        reasons(&evaluate(at(Level::Restricted, 24), &Value::Null, &windows)),
        "allowPrivilegeEscalation != false, unrestricted capabilities, seccompProfile"
    );
    assert_eq!(
        reasons(&evaluate(at(Level::Restricted, 18), &Value::Null, &windows)),
        "allowPrivilegeEscalation != false"
    );
    let mut root = good();
    root["securityContext"]["runAsUser"] = json!(0);
    assert_eq!(said(at(Level::Restricted, 22), root.clone()), "");
    assert_ne!(said(at(Level::Restricted, 23), root.clone()), "");
    root["hostUsers"] = json!(false);
    root["securityContext"]["runAsNonRoot"] = Value::Null;
    assert_eq!(said(at(Level::Restricted, 35), root), "");
}
