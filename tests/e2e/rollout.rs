//! Point 2: rolling updates. No request may fail while pods with readiness probes and a preStop pause are replaced.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::scene::{LONG, SHORT, Scene, contains, name, service, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "rollout_under_load_loses_no_request", run: Run::Shared(under_load) },
    Scenario { name: "rollout_history_and_undo", run: Run::Shared(history) },
    Scenario { name: "rollout_pause_resume_restart", run: Run::Shared(pause) },
    Scenario { name: "rollout_that_cannot_progress", run: Run::Shared(stuck) },
    Scenario { name: "rollout_recreate", run: Run::Shared(recreate) },
];

/// A deployment whose page is `v1` from busybox:test and `v2` from busybox:test2.
fn paged(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: page}}\nspec:\n  replicas: {replicas}\n  progressDeadlineSeconds: 5\n  \
         selector: {{matchLabels: {{app: page}}}}\n  template:\n    metadata: {{labels: {{app: page}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 10\n      containers:\n      - name: page\n        image: busybox:test\n        \
         command: [sh, -c, 'trap \"exit 0\" TERM; httpd -f -p 8080 -h /www & wait']\n        \
         ports: [{{containerPort: 8080, name: http}}]\n        \
         readinessProbe: {{httpGet: {{path: /index.html, port: http}}, periodSeconds: 1}}\n        \
         lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}\n"
    )
}

fn under_load(s: &Scene<'_>) {
    s.create(&paged(3));
    s.create(&service("page", ""));
    s.rolled_out("page");
    s.until_endpoints("page", 3);
    let ip = s.cluster_ip("page");
    assert_eq!(s.get_ok(&ip, 80, "/index.html"), "v1\n");

    let stop = AtomicBool::new(false);
    let seen: Mutex<BTreeMap<String, u32>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = match s.get(&ip, 80, "/index.html") {
                        Ok((200, body)) => body.trim().to_owned(),
                        Ok((status, body)) => format!("failed: {status} {body}"),
                        Err(error) => format!("failed: {error}"),
                    };
                    *seen.lock().expect("no holder panics").entry(answer).or_default() += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let updated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            contains(&s.k("set image deployment/page page=busybox:test2"), "image updated");
            s.rolled_out("page");
            s.until("only the new page", SHORT, || (s.pods("app=page").len() == 3).then_some(()));
            s.k("scale deployment page --replicas=2");
            s.until_endpoints("page", 2);
            std::thread::sleep(Duration::from_secs(1));
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = updated {
            std::panic::resume_unwind(panic);
        }
    });
    let seen = seen.into_inner().expect("no holder panics");
    assert!(seen.keys().all(|answer| answer == "v1" || answer == "v2"), "{seen:?}");
    assert!(seen.contains_key("v1") && seen.contains_key("v2"), "{seen:?}");
    assert_eq!(s.get_ok(&ip, 80, "/index.html"), "v2\n");
}

fn history(s: &Scene<'_>) {
    s.create(&paged(2));
    s.rolled_out("page");
    s.k("annotate deployment page kubernetes.io/change-cause=first");
    s.k("set image deployment/page page=busybox:test2");
    s.k("annotate deployment page kubernetes.io/change-cause=second --overwrite");
    s.rolled_out("page");
    let history = s.k("rollout history deployment/page");
    contains(&history, "REVISION  CHANGE-CAUSE");
    assert!(history.lines().any(|l| l.starts_with('1')) && history.lines().any(|l| l.starts_with('2')), "{history}");
    contains(&s.k("rollout history deployment/page --revision=2"), "busybox:test2");
    contains(&s.k("rollout undo deployment/page"), "rolled back");
    s.rolled_out("page");
    assert_eq!(text(&s.json("deployment page"), "/spec/template/spec/containers/0/image"), "busybox:test");
    assert_eq!(text(&s.json("deployment page"), "/metadata/annotations/deployment.kubernetes.io~1revision"), "3");
    s.k("rollout undo deployment/page --to-revision=2");
    s.rolled_out("page");
    assert_eq!(text(&s.json("deployment page"), "/spec/template/spec/containers/0/image"), "busybox:test2");
    let sets = s.json("replicasets -l app=page");
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(2), "old replica sets are used again");
}

fn pause(s: &Scene<'_>) {
    s.create(&paged(1));
    s.rolled_out("page");
    contains(&s.k("rollout pause deployment/page"), "paused");
    s.k("set image deployment/page page=busybox:test2");
    contains(
        &s.k("set resources deployment/page -c page --limits=cpu=200m,memory=64Mi --requests=cpu=10m"),
        "resource requirements updated",
    );
    s.k("set env deployment/page A=b");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(s.json("replicasets -l app=page")["items"].as_array().map(Vec::len), Some(1), "paused means no new one");
    contains(
        &s.refused("rollout restart deployment/page"),
        "can't restart paused deployment (run rollout resume first)",
    );
    contains(&s.k("rollout resume deployment/page"), "resumed");
    s.rolled_out("page");
    assert_eq!(
        s.json("replicasets -l app=page")["items"].as_array().map(Vec::len),
        Some(2),
        "three edits, one rollout"
    );
    let pod = s.until("one pod left", SHORT, || Some(s.pods("app=page")).filter(|pods| pods.len() == 1))[0].clone();
    assert_eq!(text(&pod, "/spec/containers/0/resources/limits/memory"), "64Mi");
    contains(&s.k("rollout restart deployment/page"), "restarted");
    s.rolled_out("page");
    s.until("the pod is another", LONG, || {
        let pods = s.pods("app=page");
        (pods.len() == 1 && name(&pods[0]) != name(&pod)).then_some(())
    });
}

fn stuck(s: &Scene<'_>) {
    s.create(&paged(2));
    s.rolled_out("page");
    s.k("set image deployment/page page=localhost:1/absent:1");
    s.until("ProgressDeadlineExceeded", LONG, || {
        let deployment = s.find("deployment page")?;
        let conditions = deployment["status"]["conditions"].as_array()?.clone();
        conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded").then_some(())
    });
    contains(&s.refused("rollout status deployment/page --timeout=20s"), "exceeded its progress deadline");
    // What worked before is still there: at most a quarter may be missing, of two that is none.
    assert_eq!(s.json("deployment page")["status"]["availableReplicas"], 2);
    s.k("rollout undo deployment/page");
    s.rolled_out("page");
}

fn recreate(s: &Scene<'_>) {
    s.create(&paged(1).replace("spec:\n  replicas", "spec:\n  strategy: {type: Recreate}\n  replicas"));
    s.rolled_out("page");
    s.k("set image deployment/page page=busybox:test2");
    let mut most = 0;
    s.until("the new pod is Ready", LONG, || {
        let list = s.find("pods -l app=page")?;
        let pods = list["items"].as_array()?;
        let running = pods.iter().filter(|pod| pod["status"]["containerStatuses"][0]["state"]["running"].is_object());
        most = most.max(running.count());
        let new = pods.iter().any(|pod| {
            pod["spec"]["containers"][0]["image"] == "busybox:test2"
                && pod["status"]["containerStatuses"][0]["ready"] == true
        });
        new.then_some(())
    });
    assert_eq!(most, 1, "old and new ran side by side");
}
