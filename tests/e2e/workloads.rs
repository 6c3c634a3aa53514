//! Point 2: kubectl steers workloads; controllers keep what was asked for.

use std::time::Duration;

use crate::scene::{LONG, SHORT, Scene, contains, name, shell_pod, text, web};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "workload_scale", run: Run::Shared(scale) },
    Scenario { name: "workload_deleted_pod_is_replaced", run: Run::Shared(replaced) },
    Scenario { name: "workload_cascading_deletion", run: Run::Shared(cascade) },
    Scenario { name: "workload_label_annotate_patch", run: Run::Shared(edits) },
    Scenario { name: "workload_expose_and_run", run: Run::Shared(expose_and_run) },
    Scenario { name: "workload_namespace_takes_all_along", run: Run::Shared(namespace) },
    Scenario { name: "workload_crash_loop_back_off", run: Run::Shared(crash_loop) },
    Scenario { name: "workload_restart_policies", run: Run::Shared(restart_policies) },
    Scenario { name: "workload_init_containers_and_sidecars_in_order", run: Run::Shared(init_containers) },
    Scenario { name: "workload_lifecycle_hooks_and_grace", run: Run::Shared(hooks) },
];

fn scale(s: &Scene<'_>) {
    s.create(&web("web", 1));
    s.rolled_out("web");
    contains(&s.k("scale deployment web --replicas=4"), "deployment.apps/web scaled");
    s.rolled_out("web");
    assert_eq!(s.pods("app=web").len(), 4);
    s.k("scale deployment web --replicas=1");
    s.until("one pod left", LONG, || (s.json("pods -l app=web")["items"].as_array()?.len() == 1).then_some(()));
    contains(&s.refused("scale deployment web --current-replicas=7 --replicas=2"), "Expected replicas to be 7, was 1");
    let raw = s.k(&format!("get --raw /apis/apps/v1/namespaces/{}/deployments/web/scale", s.ns));
    contains(&raw, "\"kind\":\"Scale\"");
}

fn replaced(s: &Scene<'_>) {
    s.create(&web("web", 2));
    s.rolled_out("web");
    let gone = name(&s.pods("app=web")[0]);
    s.k(&format!("delete pod {gone}"));
    s.until("two other pods Ready", LONG, || {
        let pods = s.pods("app=web");
        let ready = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).count();
        (ready == 2 && pods.iter().all(|pod| name(pod) != gone)).then_some(())
    });
    contains(&s.k("describe replicaset -l app=web"), "SuccessfulCreate");
}

fn cascade(s: &Scene<'_>) {
    for deployment in ["background", "foreground", "orphan"] {
        s.create(&web(deployment, 1));
    }
    for deployment in ["background", "foreground", "orphan"] {
        s.rolled_out(deployment);
        s.k(&format!("delete deployment {deployment} --cascade={deployment} --timeout=60s"));
    }
    let left = |app: &str| {
        let list = s.json(&format!("replicasets,pods -l app={app}"));
        list["items"].as_array().cloned().unwrap_or_default()
    };
    // Foreground: nothing is left by the time that kubectl returns.
    assert!(left("foreground").iter().all(|object| object["kind"] != "ReplicaSet"), "replica set outlived its owner");
    for app in ["background", "foreground"] {
        s.until(&format!("nothing of {app}"), LONG, || left(app).is_empty().then_some(()));
    }
    let orphans = left("orphan");
    assert_eq!(orphans.len(), 2, "a replica set and its pod stay");
    let set = orphans.iter().find(|object| object["kind"] == "ReplicaSet").expect("the replica set stays");
    assert!(set["metadata"]["ownerReferences"].is_null(), "{}", set["metadata"]);
    // The same deployment adopts what it left.
    let uid = text(set, "/metadata/uid");
    s.create(&web("orphan", 1));
    s.rolled_out("orphan");
    let sets = s.json("replicasets -l app=orphan");
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(text(&sets["items"][0], "/metadata/uid"), uid);
}

fn edits(s: &Scene<'_>) {
    s.create(&web("web", 1));
    contains(&s.k("label deployment web tier=front"), "labeled");
    contains(&s.refused("label deployment web tier=back"), "already has a value (front), and --overwrite is false");
    s.k("label deployment web tier=back --overwrite");
    assert_eq!(s.k("get deployments -l tier=back -o name").trim(), "deployment.apps/web");
    contains(&s.k("annotate deployment web example.com/note=hello"), "annotated");
    s.k("annotate deployment web example.com/note-");
    assert!(s.json("deployment web").pointer("/metadata/annotations/example.com~1note").is_none());

    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}"#;
    s.kubectl(&["patch", "deployment", "web", "-p", strategic]).ok();
    let container = s.json("deployment web").pointer("/spec/template/spec/containers/0").cloned().expect("a container");
    assert_eq!(container["env"][0]["value"], "1");
    assert_eq!(container["image"], "docker.io/kedge/pause:1", "merged, not replaced");
    s.kubectl(&["patch", "deployment", "web", "--type=merge", "-p", r#"{"spec":{"replicas":2}}"#]).ok();
    s.kubectl(&[
        "patch",
        "deployment",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"test","path":"/spec/replicas","value":2}]"#,
    ])
    .ok();

    // kubectl edit: what the editor leaves is sent as a patch.
    let mut edit = s.cluster.kubectl.command();
    edit.args(["-n", &s.ns, "edit", "deployment", "web"]).env("KUBE_EDITOR", "sed -i s/replicas:.2/replicas:\\ 3/");
    contains(&kedge_tests::command::run(&mut edit, None, SHORT).ok(), "edited");
    s.until_value("deployment web", "/spec/replicas", SHORT, |n| n == 3);

    // Server-side apply: another manager's field is a conflict, until forced.
    let mine = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1}\n";
    let refused = s.with_input(&["apply", "--server-side", "-f", "-"], Some(mine)).refused();
    contains(&refused, "conflict");
    contains(&refused, ".spec.replicas");
    s.with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(mine)).ok();
    s.until_value("deployment web", "/spec/replicas", SHORT, |n| n == 1);
    let diff = s.with_input(&["diff", "-f", "-"], Some(&web("web", 5)));
    assert_eq!(diff.code, Some(1), "{}", diff.text());
    contains(&diff.stdout, "+  replicas: 5");
}

fn expose_and_run(s: &Scene<'_>) {
    s.create(&web("web", 1));
    contains(&s.k("expose deployment web --port=80 --target-port=8080 --name=exposed"), "service/exposed exposed");
    s.rolled_out("web");
    contains(&s.get_ok(&s.cluster_ip("exposed"), 80, "/"), "Hello from web-");
    contains(
        &s.k("run one --image=docker.io/kedge/pause:1 --port=8080 --expose -- serve --port 8080"),
        "pod/one created",
    );
    s.pod_ready("one");
    contains(&s.get_ok(&s.cluster_ip("one"), 8080, "/"), "Hello from one");
    let output = s.kubectl(&[
        "run",
        "once",
        "--image=busybox:test",
        "--restart=Never",
        "--attach",
        "--rm",
        "-q",
        "--",
        "sh",
        "-c",
        "sleep 1; echo done it",
    ]);
    contains(&output.ok(), "done it");
    contains(&s.k("create deployment made --image=docker.io/kedge/pause:1 --replicas=1"), "created");
    s.rolled_out("made");
    contains(&s.k("create configmap literal --from-literal=a=b"), "created");
    contains(&s.k("create secret generic literal --from-literal=a=b"), "created");
    contains(&s.k("create deployment dry --image=x --dry-run=server"), "(server dry run)");
    assert!(s.find("deployment dry").is_none());
}

fn namespace(s: &Scene<'_>) {
    let inner = format!("{}-inner", s.ns);
    s.k(&format!("create namespace {inner}"));
    let within =
        |args: &[&str], input: Option<&str>| s.cluster.kubectl.run(&[&["-n", inner.as_str()], args].concat(), input);
    s.until("the service account there", SHORT, || {
        within(&["get", "serviceaccount", "default"], None).success().then_some(())
    });
    contains(
        &within(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}"], None).ok(),
        "BEGIN CERTIFICATE",
    );
    within(&["create", "-f", "-"], Some(&web("web", 1))).ok();
    within(&["rollout", "status", "deployment/web", "--timeout=60s"], None).ok();
    within(&["create", "configmap", "a"], None).ok();
    s.k(&format!("delete namespace {inner} --timeout=60s"));
    let refused = within(&["create", "configmap", "late"], None).refused();
    contains(&refused, &format!("namespaces \"{inner}\" not found"));
}

fn crash_loop(s: &Scene<'_>) {
    s.create(&shell_pod("crash").replace("trap \"exit 0\" TERM; sleep 100000 & wait", "echo bye; exit 3"));
    let pod = s.until_value("pod crash", "/status/containerStatuses/0/restartCount", LONG, |n| n.as_u64() >= Some(2));
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error", "{status}");
    let pod = s.until_value("pod crash", "/status/containerStatuses/0/state/waiting/reason", LONG, |r| {
        r == "CrashLoopBackOff"
    });
    let message = text(&pod, "/status/containerStatuses/0/state/waiting/message");
    contains(&message, "restarting failed container=main pod=crash_");
    contains(&s.event("crash", "BackOff", LONG), "Back-off restarting failed container main in pod crash_");
    contains(&s.k("get pod crash"), "CrashLoopBackOff");
    contains(&s.k("logs crash --previous"), "bye");
}

fn restart_policies(s: &Scene<'_>) {
    let pod = |name: &str, policy: &str, code: u32| {
        shell_pod(name)
            .replace("trap \"exit 0\" TERM; sleep 100000 & wait", &format!("exit {code}"))
            .replace("spec:\n", &format!("spec:\n  restartPolicy: {policy}\n"))
    };
    s.create(&pod("good", "Never", 0));
    s.create(&pod("bad", "Never", 4));
    s.create(&pod("fine", "OnFailure", 0));
    s.create(&pod("again", "OnFailure", 1));
    for (name, phase) in [("good", "Succeeded"), ("bad", "Failed"), ("fine", "Succeeded")] {
        s.until_value(&format!("pod {name}"), "/status/phase", LONG, |p| p == phase);
    }
    contains(&s.k("get pods"), "Completed");
    assert_eq!(s.json("pod bad")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    s.until_value("pod again", "/status/containerStatuses/0/restartCount", LONG, |n| n.as_u64() >= Some(1));
    assert_eq!(s.json("pod good")["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn init_containers(s: &Scene<'_>) {
    s.create(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: ordered}\nspec:\n  terminationGracePeriodSeconds: 1\n  volumes: [{name: shared, emptyDir: {}}]\n  \
         initContainers:\n  - {name: first, image: 'busybox:test', command: [sh, -c, 'sleep 1; echo first >> /s/log'], volumeMounts: [{name: shared, mountPath: /s}]}\n  \
         - {name: side, image: 'busybox:test', restartPolicy: Always, command: [sh, -c, 'echo side >> /s/log; sleep 10000'], volumeMounts: [{name: shared, mountPath: /s}], startupProbe: {exec: {command: [grep, side, /s/log]}, periodSeconds: 1}}\n  \
         - {name: second, image: 'busybox:test', command: [sh, -c, 'echo second >> /s/log'], volumeMounts: [{name: shared, mountPath: /s}]}\n  \
         containers:\n  - {name: main, image: 'busybox:test', command: [sh, -c, 'echo main >> /s/log; sleep 10000'], volumeMounts: [{name: shared, mountPath: /s}]}\n",
    );
    s.pod_ready("ordered");
    let log = s.kubectl(&["exec", "ordered", "-c", "main", "--", "cat", "/s/log"]).ok();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["first", "side", "second", "main"]);
    let status = s.json("pod ordered");
    assert_eq!(text(&status, "/status/initContainerStatuses/0/state/terminated/reason"), "Completed");
    contains(&s.k("get pod ordered"), "2/2");
}

fn hooks(s: &Scene<'_>) {
    let folder = s.cluster.root.join(&s.ns);
    std::fs::create_dir_all(&folder).expect("the test's folder can be written");
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hooked}}\nspec:\n  terminationGracePeriodSeconds: 20\n  \
         volumes: [{{name: out, hostPath: {{path: {}, type: Directory}}}}]\n  containers:\n  - name: main\n    image: busybox:test\n    \
         command: [sh, -c, 'trap \"echo term >> /out/log; exit 0\" TERM; sleep 100000 & wait']\n    \
         volumeMounts: [{{name: out, mountPath: /out}}]\n    lifecycle:\n      postStart: {{exec: {{command: [sh, -c, 'echo started >> /out/log']}}}}\n      \
         preStop: {{exec: {{command: [sh, -c, 'sleep 1; echo stopping >> /out/log']}}}}\n",
        folder.display()
    );
    s.create(&yaml);
    s.pod_ready("hooked");
    s.k("delete pod hooked --timeout=30s");
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["started", "stopping", "term"]);

    // A program that does not listen is ended when the grace period is over, no sooner.
    let deaf = shell_pod("deaf").replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 4");
    s.create(
        &deaf.replace("trap \"exit 0\" TERM; sleep 100000 & wait", "trap \"\" TERM; while true; do sleep 1; done"),
    );
    s.pod_ready("deaf");
    let begun = std::time::Instant::now();
    s.k("delete pod deaf --timeout=60s");
    let took = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(15)).contains(&took), "ended after {took:?}");
}
