//! Requests and responses in protobuf, over the verbs.

use apimachinery::protobuf::{self, MEDIA_TYPE, WATCH_MEDIA_TYPE};

use super::*;

struct Answer {
    code: u16,
    content_type: String,
    value: Value,
}

impl Fixture {
    async fn exchange(&self, method: Method, uri: &str, accept: &str, content: Vec<u8>) -> Response<Body> {
        let mut request = Request::new(body::full(content));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().expect("a path");
        request.headers_mut().insert("content-type", MEDIA_TYPE.parse().expect("a header"));
        request.headers_mut().insert("accept", accept.parse().expect("a header"));
        let user = User::new("admin", &["system:masters"]);
        let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), identity: PeerIdentity::InProcess(user) };
        self.server.handle(request, peer).await
    }

    async fn protobuf(&self, method: Method, uri: &str, accept: &str, content: Vec<u8>) -> Answer {
        let response = self.exchange(method, uri, accept, content).await;
        let code = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().expect("text").to_owned();
        let bytes = body::read(response.into_body(), usize::MAX).await.expect("a body");
        let value = match content_type.as_str() {
            MEDIA_TYPE => protobuf::decode_object(&bytes).expect("protobuf"),
            _ => serde_json::from_slice(&bytes).expect("JSON"),
        };
        Answer { code, content_type, value }
    }
}

fn encoded(value: &Value) -> Vec<u8> {
    protobuf::encode_object(value).expect("a built-in kind")
}

#[tokio::test]
async fn objects_lists_and_errors() {
    let fixture = Fixture::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let both = "application/vnd.kubernetes.protobuf,application/json";
    let made = fixture.protobuf(Method::POST, CONFIG_MAPS, both, encoded(&map)).await;
    assert_eq!((made.code, made.content_type.as_str()), (201, MEDIA_TYPE));
    assert_eq!((&made.value["kind"], &made.value["data"]), (&json!("ConfigMap"), &json!({"k": "v"})));
    assert_eq!(made.value["metadata"]["namespace"], "n");

    let again = fixture.protobuf(Method::POST, CONFIG_MAPS, both, encoded(&map)).await;
    assert_eq!((again.code, &again.value["reason"]), (409, &json!("AlreadyExists")));
    let wrong = fixture.protobuf(Method::POST, "/api/v1/namespaces/n/secrets", "*/*", encoded(&map)).await;
    assert_eq!((wrong.code, wrong.content_type.as_str()), (400, "application/json"));
    assert_eq!(
        wrong.value["message"],
        "ConfigMap in version \"v1\" cannot be handled as a Secret: converting (v1.ConfigMap) to (core.Secret): unknown conversion"
    );
    let garbage = fixture.protobuf(Method::POST, CONFIG_MAPS, "*/*", b"{}".to_vec()).await;
    assert_eq!(garbage.code, 400);

    let list = fixture.protobuf(Method::GET, CONFIG_MAPS, MEDIA_TYPE, Vec::new()).await;
    assert_eq!((list.code, &list.value["kind"]), (200, &json!("ConfigMapList")));
    assert_eq!(list.value["items"][0]["data"], json!({"k": "v"}));
    assert_ne!(list.value["metadata"]["resourceVersion"], "");
    let table = format!("{MEDIA_TYPE};as=Table;g=meta.k8s.io;v=v1");
    let table = fixture.protobuf(Method::GET, CONFIG_MAPS, &table, Vec::new()).await;
    assert_eq!((table.code, table.content_type.as_str()), (406, "application/json"));

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "no"}});
    let uri = format!("{CONFIG_MAPS}/a");
    let kept = fixture.protobuf(Method::DELETE, &uri, both, encoded(&options)).await;
    assert_eq!((kept.code, &kept.value["kind"]), (409, &json!("Status")));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    let gone = fixture.protobuf(Method::DELETE, &uri, both, encoded(&options)).await;
    assert_eq!((gone.code, &gone.value["status"]), (200, &json!("Success")));
}

#[tokio::test]
async fn watches() {
    let fixture = Fixture::new().await;
    let first = fixture.config_map("a").await;
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version");
    fixture.config_map("b").await;
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}");
    let response = fixture.exchange(Method::GET, &uri, WATCH_MEDIA_TYPE, Vec::new()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], WATCH_MEDIA_TYPE);
    let mut body = response.into_body();
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("in time");
    let frame = frame.expect("an event").expect("no error").into_data().expect("data");
    let (length, event) = frame.split_first_chunk::<4>().expect("a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let schema = apimachinery::schema::builtin_schema("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent");
    let event = protobuf::decode(event, &schema.expect("a type")).expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    assert_eq!(event["object"]["kind"], "ConfigMap");
}
