//! Point 5: a pod calls the API with what is mounted into it, and RBAC decides.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::scene::{SHORT, Scene, contains, curl, shell_pod, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "access_pod_calls_the_api", run: Run::Shared(pod_calls_api) },
    Scenario { name: "access_can_i_and_impersonation", run: Run::Shared(can_i) },
    Scenario { name: "access_anonymous_and_bad_credentials", run: Run::Shared(anonymous) },
    Scenario { name: "access_tls", run: Run::Shared(tls) },
];

const CALL: &str = "D=/var/run/secrets/kubernetes.io/serviceaccount; curl -s --cacert $D/ca.crt -H \"Authorization: Bearer $(cat $D/token)\" https://kubernetes.default.svc";

fn pod_calls_api(s: &Scene<'_>) {
    s.k("create serviceaccount reader");
    s.create(&shell_pod("caller").replace("spec:\n", "spec:\n  serviceAccountName: reader\n"));
    s.pod_ready("caller");
    assert_eq!(s.sh("caller", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace").ok(), s.ns);
    // curl is answered with indentation.
    let call = |path: &str| s.sh("caller", &format!("{CALL}{path}")).ok();
    let pods = format!("/api/v1/namespaces/{}/pods", s.ns);
    let denied = call(&pods);
    contains(
        &denied,
        &format!(
            "pods is forbidden: User \\\"system:serviceaccount:{}:reader\\\" cannot list resource \\\"pods\\\" in API group \\\"\\\" in the namespace \\\"{}\\\"",
            s.ns, s.ns
        ),
    );
    contains(&denied, "\"code\": 403");
    s.k("create role read-pods --verb=get,list --resource=pods");
    s.k(&format!("create rolebinding read-pods --role=read-pods --serviceaccount={}:reader", s.ns));
    s.until("allowed as bound", SHORT, || call(&pods).contains("\"kind\": \"PodList\"").then_some(()));
    contains(&call(&format!("{pods}/caller")), "\"name\": \"caller\"");
    contains(&call(&format!("/api/v1/namespaces/{}/secrets", s.ns)), "secrets is forbidden");
    contains(&call("/api/v1/namespaces/default/pods"), "pods is forbidden");
    s.k("delete rolebinding read-pods");
    s.until("denied again", SHORT, || call(&pods).contains("pods is forbidden").then_some(()));
    // The CA is the only thing that makes the certificate good.
    assert!(!s.sh("caller", "curl -s https://kubernetes.default.svc/version").success());
    // The token is bound to the pod.
    let token = s.sh("caller", "cat /var/run/secrets/kubernetes.io/serviceaccount/token").ok();
    let url = format!("https://127.0.0.1:{}/version", s.cluster.server().port);
    let header = format!("Authorization: Bearer {token}");
    contains(&curl(&["-k", "-H", &header, &url]).ok(), "+kedge1");
    s.k("delete pod caller --timeout=60s");
    let url = url.replace("/version", "/api");
    s.until("the token of a deleted pod is refused", SHORT, || {
        curl(&["-k", "-H", &header, &url]).stdout.contains("Unauthorized").then_some(())
    });
}

fn can_i(s: &Scene<'_>) {
    assert_eq!(s.k("auth can-i create deployments").trim(), "yes");
    s.k("create serviceaccount viewer");
    let who = format!("--as=system:serviceaccount:{}:viewer", s.ns);
    let no = s.kubectl(&["auth", "can-i", "list", "pods", &who]);
    assert_eq!((no.code, no.stdout.trim()), (Some(1), "no"), "{}", no.text());
    s.k(&format!("create rolebinding viewer --clusterrole=view --serviceaccount={}:viewer", s.ns));
    s.until("the view role allows", SHORT, || {
        s.kubectl(&["auth", "can-i", "list", "pods", &who]).success().then_some(())
    });
    assert!(!s.kubectl(&["auth", "can-i", "list", "secrets", &who]).success(), "view does not show secrets");
    assert!(!s.kubectl(&["auth", "can-i", "create", "pods", &who]).success());
    contains(&s.kubectl(&["auth", "can-i", "--list", &who]).ok(), "selfsubjectaccessreviews.authorization.k8s.io");
    contains(&s.k("auth whoami"), "system:masters");
    contains(&s.kubectl(&["delete", "pod", "x", &who]).refused(), "is forbidden");
    let token = s.k("create token viewer --duration=10m");
    assert_eq!(token.trim().split('.').count(), 3);
    let seen = s.kubectl(&[
        "auth",
        "whoami",
        "--token",
        token.trim(),
        "--kubeconfig",
        "/dev/null",
        "--insecure-skip-tls-verify",
        "--server",
        &format!("https://127.0.0.1:{}", s.cluster.server().port),
    ]);
    contains(&seen.ok(), &format!("system:serviceaccount:{}:viewer", s.ns));
}

fn anonymous(s: &Scene<'_>) {
    let url = format!("https://127.0.0.1:{}", s.cluster.server().port);
    let get = |path: &str, more: &[&str]| curl(&[&["-k", &format!("{url}{path}")], more].concat()).ok();
    for open in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(get(open, &[]), "ok", "{open}");
    }
    contains(&get("/version", &[]), "\"gitVersion\"");
    for closed in ["/api", "/apis", "/api/v1/pods", "/metrics", "/openapi/v2", "/api/v1/namespaces/kube-system/secrets"]
    {
        let answer = get(closed, &[]);
        assert!(answer.contains("\"code\": 403") || answer.contains("\"code\": 401"), "{closed}: {answer}");
    }
    contains(&get("/api/v1/pods", &["-H", "Authorization: Bearer nonsense"]), "Unauthorized");
}

fn tls(s: &Scene<'_>) {
    let port = s.cluster.server().port;
    // What is too old is refused.
    let old = curl(&["-k", "--tls-max", "1.1", &format!("https://127.0.0.1:{port}/readyz")]);
    assert!(!old.success(), "TLS 1.1 was accepted");
    let new = curl(&["-k", "--tlsv1.2", "--tls-max", "1.2", &format!("https://127.0.0.1:{port}/readyz")]);
    assert_eq!(new.ok(), "ok");
    // The certificate is for every name that leads here.
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "kubernetes.default.svc"]);
    let mut child = openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(b"Q\n")));
    let output = child.wait_with_output().expect("openssl ends");
    let pem = String::from_utf8_lossy(&output.stdout).into_owned();
    let pem = pem
        .split_once("-----BEGIN")
        .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"))
        .map(|(pem, _)| pem);
    let pem = format!("-----BEGIN{}-----END CERTIFICATE-----\n", pem.unwrap_or_default());
    let mut openssl = Command::new("openssl");
    let shown =
        kedge_tests::command::run(openssl.args(["x509", "-noout", "-ext", "subjectAltName"]), Some(&pem), SHORT).ok();
    for name in [
        "DNS:kubernetes.default.svc.cluster.local",
        "DNS:localhost",
        "IP Address:127.0.0.1",
        "IP Address:10.43.0.1",
        &format!("IP Address:{}", s.cluster.node_ip),
    ] {
        contains(&shown, name);
    }
    let kubeconfig = std::fs::metadata(s.cluster.root.join("kubeconfig")).expect("the kubeconfig is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kubeconfig.permissions()) & 0o777, 0o600);
    assert!(!text(&s.json("service kubernetes -n default"), "/spec/clusterIP").is_empty());
}
