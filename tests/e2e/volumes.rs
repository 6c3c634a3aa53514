//! Volumes: what is in them, and that edits arrive in place.

use crate::scene::{LONG, Scene, contains, shell_pod};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "volume_config_map_and_secret_edits_arrive", run: Run::Shared(edits) },
    Scenario { name: "volume_kinds", run: Run::Shared(kinds) },
    Scenario { name: "volume_that_does_not_exist", run: Run::Shared(absent) },
];

fn edits(s: &Scene<'_>) {
    s.k("create configmap live --from-literal=a=before");
    s.k("create secret generic live --from-literal=s=before");
    let yaml = shell_pod("reader").replace(
        "spec:\n",
        "spec:\n  volumes: [{name: c, configMap: {name: live}}, {name: s, secret: {secretName: live, defaultMode: 0400}}]\n",
    ) + "    volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}]\n";
    s.create(&yaml);
    s.pod_ready("reader");
    assert_eq!(s.sh("reader", "cat /c/a /s/s").ok(), "beforebefore");
    assert_eq!(s.sh("reader", "stat -L -c %a /s/s").ok().trim(), "400");
    s.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"a":"after","b":"new"}}"#]).ok();
    s.kubectl(&["patch", "secret", "live", "-p", r#"{"stringData":{"s":"after"}}"#]).ok();
    s.until("the edits in the mounted files", LONG, || {
        (s.sh("reader", "cat /c/a /c/b /s/s").stdout == "afternewafter").then_some(())
    });
    s.kubectl(&["patch", "configmap", "live", "--type=json", "-p", r#"[{"op":"remove","path":"/data/b"}]"#]).ok();
    s.until("the removed key is gone", LONG, || s.sh("reader", "test ! -e /c/b").success().then_some(()));
}

fn kinds(s: &Scene<'_>) {
    s.k("create configmap some --from-literal=a=1 --from-literal=b=2");
    let host = s.cluster.root.join(format!("{}-host", s.ns));
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: kinds, labels: {{tier: top}}, annotations: {{note: 'hi'}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  securityContext: {{fsGroup: 2000}}\n  volumes:\n  - {{name: empty, emptyDir: {{}}}}\n  \
         - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}\n  - {{name: host, hostPath: {{path: {}, type: DirectoryOrCreate}}}}\n  \
         - {{name: items, configMap: {{name: some, items: [{{key: b, path: deep/er/b.txt}}]}}}}\n  \
         - {{name: maybe, configMap: {{name: absent, optional: true}}}}\n  \
         - name: down\n    downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}, {{path: name, fieldRef: {{fieldPath: metadata.name}}}}, {{path: memory, resourceFieldRef: {{containerName: main, resource: limits.memory}}}}]}}\n  \
         - name: all\n    projected: {{sources: [{{configMap: {{name: some}}}}, {{downwardAPI: {{items: [{{path: ns, fieldRef: {{fieldPath: metadata.namespace}}}}]}}}}, {{serviceAccountToken: {{path: token, audience: me, expirationSeconds: 600}}}}]}}\n  \
         containers:\n  - name: main\n    image: busybox:test\n    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 100000 & wait']\n    resources: {{limits: {{memory: 64Mi}}}}\n    \
         volumeMounts:\n    - {{name: empty, mountPath: /empty}}\n    - {{name: memory, mountPath: /memory}}\n    - {{name: host, mountPath: /host}}\n    \
         - {{name: items, mountPath: /items, readOnly: true}}\n    - {{name: maybe, mountPath: /maybe}}\n    - {{name: down, mountPath: /down}}\n    \
         - {{name: all, mountPath: /all}}\n    - {{name: items, mountPath: /one.txt, subPath: deep/er/b.txt}}\n",
        host.display()
    );
    s.create(&yaml);
    s.pod_ready("kinds");
    let sh = |script: &str| s.sh("kinds", script).ok();
    assert_eq!(sh("echo x > /empty/f && stat -c %g /empty/f").trim(), "2000", "fsGroup");
    contains(&sh("grep ' /memory ' /proc/mounts"), "tmpfs");
    sh("echo from the pod > /host/f");
    assert_eq!(std::fs::read_to_string(host.join("f")).unwrap_or_default(), "from the pod\n");
    assert_eq!(sh("cat /items/deep/er/b.txt /one.txt"), "22");
    assert_eq!(sh("ls /maybe").trim(), "");
    contains(&sh("cat /down/labels"), "tier=\"top\"");
    assert_eq!(sh("cat /down/name"), "kinds");
    assert_eq!(sh("cat /down/memory"), "67108864");
    assert_eq!(sh("cat /all/a /all/ns"), format!("1{}", s.ns));
    assert_eq!(sh("cat /all/token").split('.').count(), 3, "a JWT");
    assert!(!s.sh("kinds", "echo x > /items/new").success(), "read only");
    s.k("label pod kinds tier=bottom --overwrite");
    s.until("the label in the file", LONG, || {
        s.sh("kinds", "cat /down/labels").stdout.contains("bottom").then_some(())
    });
    let uid = s.json("pod kinds")["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    s.k("delete pod kinds --timeout=60s");
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    s.until("no mount of the pod is left", LONG, || (!mounts().contains(&uid)).then_some(()));
    assert!(host.join("f").exists(), "a hostPath is not ours to empty");
}

fn absent(s: &Scene<'_>) {
    let yaml = shell_pod("waits").replace("spec:\n", "spec:\n  volumes: [{name: c, configMap: {name: late}}]\n")
        + "    volumeMounts: [{name: c, mountPath: /c}]\n";
    s.create(&yaml);
    let message = s.event("waits", "FailedMount", LONG);
    contains(&message, "MountVolume.SetUp failed for volume \"c\" : configmap \"late\" not found");
    contains(&s.k("get pod waits"), "ContainerCreating");
    s.k("create configmap late --from-literal=a=1");
    s.k("wait --for=condition=Ready pod/waits --timeout=150s");
}
