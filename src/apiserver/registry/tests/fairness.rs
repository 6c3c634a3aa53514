//! A flood of one tenant, and those who must get through it.

use super::*;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn send(server: &ApiServer, user: &User, method: Method, uri: &str, content: Value) -> Response<Body> {
    let mut request = Request::new(body::full(content.to_string()));
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.parse().expect("a path");
    let content_type = if method == Method::PATCH { MERGE } else { "application/json" };
    request.headers_mut().insert("content-type", content_type.parse().expect("a header"));
    let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), identity: PeerIdentity::InProcess(user.clone()) };
    server.handle(request, peer).await
}

#[tokio::test]
async fn a_flood_does_not_stop_the_leases() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = RealClock::shared();
    let store = SqliteStore::open(SqliteConfig::new(dir.path().join("db"), clock.clone())).await.expect("opens");
    // So few seats that all that may be lent are taken at once.
    let config = Config { max_requests_in_flight: 40, ..config() };
    let server = ApiServer::new(config, store, clock, Metrics::new()).await.expect("starts");
    let admin = User::new("admin", &["system:masters"]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let subjects = json!([{"kind": "User", "name": "tenant", "apiGroup": "rbac.authorization.k8s.io"}]);
    let role = json!({"kind": "ClusterRole", "name": "all", "apiGroup": "rbac.authorization.k8s.io"});
    for (uri, object) in [
        ("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": "n"}})),
        ("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": "kube-node-lease"}})),
        (format!("{rbac}/clusterroles"), json!({"metadata": {"name": "all"}, "rules": rules})),
        (
            format!("{rbac}/clusterrolebindings"),
            json!({"metadata": {"name": "all"}, "roleRef": role, "subjects": subjects}),
        ),
    ] {
        assert_eq!(send(&server, &admin, Method::POST, &uri, object).await.status(), 201, "{uri}");
    }
    let node = User::new("system:node:a", &["system:nodes"]);
    let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "a"}});
    assert_eq!(send(&server, &node, Method::POST, LEASES, lease).await.status(), 201);

    let tenant = User::new("tenant", &[]);
    let flood = futures::future::join_all((0..500).map(|number| {
        let object = json!({"metadata": {"name": format!("c{number}")}});
        send(&server, &tenant, Method::POST, CONFIG_MAPS, object)
    }));
    let renewals = async {
        let mut during = 0;
        for seconds in 1..=20 {
            let waiting = server.server.flow.dump("dump_requests", false).expect("a page").lines().count() - 1;
            let change = json!({"spec": {"leaseDurationSeconds": seconds}});
            let renewed = send(&server, &node, Method::PATCH, &format!("{LEASES}/a"), change).await;
            assert!(renewed.status().is_success(), "{:?}", renewed.status());
            during += usize::from(waiting > 0);
        }
        during
    };
    let (answers, during) = tokio::join!(flood, renewals);
    assert!(during > 0, "the lease was renewed while the tenant waited");
    let (refused, served): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == 429);
    assert!(served.iter().all(|answer| answer.status() == 201));
    // One flow has six queues of fifty, and the seats.
    assert!(served.len() >= 300 && refused.len() >= 100, "{} served, {} refused", served.len(), refused.len());
    assert!(refused.iter().all(|answer| answer.headers().contains_key("retry-after")));
}
