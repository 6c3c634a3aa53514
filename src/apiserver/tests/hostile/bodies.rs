//! Bodies: too large, too deep, not text, not numbers, keys over and over.

use super::support::{APPLY, CONFIG_MAPS, JSON, JSON_PATCH, LIMIT, MERGE, STRATEGIC, World, YAML, drain, peak, write};
use serde_json::json;
use std::time::Duration;

const TOO_LARGE: &str = "Request entity too large: limit is 3145728";

#[tokio::test]
async fn more_than_three_mebibytes() {
    let world = World::new().await;
    let made = world.create(json!({"metadata": {"name": "a"}}).to_string(), JSON).await;
    assert_eq!(made.code, 201, "{made:?}");
    let body = |size: usize| format!(r#"{{"metadata":{{"name":"b"}},"data":{{"k":"{}"}}}}"#, "x".repeat(size));
    for kind in [JSON, YAML] {
        let answer = world.create(body(LIMIT), kind).await;
        assert_eq!((answer.code, answer.message()), (413, TOO_LARGE), "{kind}");
        assert_eq!(answer.value["reason"], "RequestEntityTooLarge");
    }
    for kind in [MERGE, JSON_PATCH, STRATEGIC, APPLY] {
        let answer = world.patch("a", kind, body(LIMIT)).await;
        assert_eq!((answer.code, answer.message()), (413, TOO_LARGE), "{kind}");
    }
    let answer = world.send("DELETE", &format!("{CONFIG_MAPS}/a"), JSON, body(LIMIT)).await;
    assert_eq!((answer.code, answer.message()), (413, TOO_LARGE));
    // Read as a whole, and then found wanting.
    let answer = world.create(body(LIMIT - 100), JSON).await;
    assert!((400..600).contains(&answer.code), "{answer:?}");
    assert!(answer.body < 64 * 1024, "{} bytes", answer.body);
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn a_body_without_end() {
    let world = World::new().await;
    let before = peak();
    for _ in 0..4 {
        let mut stream = world.connect().await;
        let head = format!(
            "POST {CONFIG_MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert!(write(&mut stream, head.as_bytes()).await);
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        let mut written = 0;
        // Up to 64 MiB: the server takes little more than its limit and then closes.
        while written < 64 << 20 {
            let sent = tokio::time::timeout(Duration::from_secs(5), write(&mut stream, &chunk)).await;
            if !matches!(sent, Ok(true)) {
                break;
            }
            written += chunk.len();
        }
        assert!(written < 32 << 20, "the server took {written} bytes");
    }
    assert!(peak() < before + 64, "grew from {before} to {} MiB", peak());
    // One that says beforehand how much it will be gets its answer before it has sent anything.
    let mut stream = world.connect().await;
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"
    );
    assert!(write(&mut stream, head.as_bytes()).await);
    let (answer, _) = drain(&mut stream, Duration::from_secs(3)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(TOO_LARGE), "{answer}");
    world.assert_serves().await;
    world.stop().await;
}

/// `depth` values in each other, the way each format and kind of request lets them in.
#[tokio::test]
async fn deep_nesting() {
    let world = World::new().await;
    let made = world.create(json!({"metadata": {"name": "a"}}).to_string(), JSON).await;
    assert_eq!(made.code, 201);
    for depth in [300, 11_000, 700_000] {
        let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let open = "[".repeat(depth);
        let maps = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        for nested in [&lists, &open, &maps] {
            if nested.len() > LIMIT - 200 {
                continue;
            }
            let object = format!(r#"{{"metadata":{{"name":"b"}},"data":{{"k":{nested}}}}}"#);
            for kind in [JSON, YAML] {
                let answer = world.create(object.clone(), kind).await;
                assert_eq!(answer.code, 400, "{kind} {depth}: {answer:?}");
                assert!(answer.body < 4096);
            }
            for kind in [MERGE, STRATEGIC, APPLY] {
                let answer = world.patch("a", kind, object.clone()).await;
                assert!((400..500).contains(&answer.code), "{kind} {depth}: {answer:?}");
                assert!(answer.body < 8192);
            }
            let operations = format!(r#"[{{"op":"add","path":"/data","value":{nested}}}]"#);
            let answer = world.patch("a", JSON_PATCH, operations).await;
            assert!((400..500).contains(&answer.code), "JSON patch {depth}: {answer:?}");
        }
    }
    let indented: String = (0..1200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    for kind in [YAML, APPLY] {
        let answer = match kind {
            APPLY => world.patch("b", kind, indented.clone()).await,
            _ => world.create(indented.clone(), kind).await,
        };
        assert_eq!(answer.code, 400, "{kind}: {answer:?}");
    }
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn numbers_bytes_and_keys() {
    let world = World::new().await;
    let digits = "9".repeat(1 << 20);
    let deployments = "/apis/apps/v1/namespaces/n/deployments";
    for number in [
        "1e999999999",
        "-1e999999999",
        "1e-999999999",
        digits.as_str(),
        "9223372036854775808",
        "-9223372036854775809",
        "0.1e400",
        "1e400",
    ] {
        let object = format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"d"}},"spec":{{"replicas":{number}}}}}"#
        );
        for kind in [JSON, YAML] {
            let answer = world.send("POST", deployments, kind, object.clone()).await;
            let shown = &number[..number.len().min(20)];
            assert!(matches!(answer.code, 400 | 422), "{kind} {shown}: {} {}", answer.code, answer.body);
            assert!(answer.body < 3 * (number.len() + 4096), "{kind} {shown}: {} bytes", answer.body);
        }
    }
    for (body, kind) in [
        (b"\0\0\0\0".as_slice(), JSON),
        (b"{\0}", JSON),
        (b"{\"metadata\":{\"name\":\"a\0b\"}}", JSON),
        (b"{\"metadata\":{\"name\":\"a\\u0000b\"}}", JSON),
        (b"{\"metadata\":{\"name\":\"\xff\xfe\"}}", JSON),
        (b"{\"metadata\":{\"name\":\"\\ud800\"}}", JSON),
        (b"metadata: {name: \"a\\0b\"}\n", YAML),
        (b"metadata:\n  name: \xff\xfe\n", YAML),
        (b"\xff\xfe\0\0", YAML),
        (b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "application/vnd.kubernetes.protobuf"),
        (b"k8s\0", "application/vnd.kubernetes.protobuf"),
        (b"", JSON),
        (b"null", JSON),
        (b"{}{}", JSON),
    ] {
        let answer = world.create(body.to_vec(), kind).await;
        assert!(matches!(answer.code, 400 | 422), "{kind} {:?}: {answer:?}", String::from_utf8_lossy(body));
        assert!(answer.body < 4096);
    }
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn keys_over_and_over() {
    let world = World::new().await;
    let made = world.create(json!({"metadata": {"name": "a"}}).to_string(), JSON).await;
    assert_eq!(made.code, 201);
    // One key very often, and very many keys twice.
    let one: String = (0..200_000).map(|_| r#""k":"v","#).collect();
    let many: String = (0..60_000).map(|i| format!(r#""key{i}":"v","key{i}":"w","#)).collect();
    let long = "y".repeat(1 << 20);
    for keys in [one, many] {
        let object = format!(r#"{{"metadata":{{"name":"b"}},"data":{{{keys}"z":"z"}}}}"#);
        for kind in [JSON, YAML] {
            let answer = world
                .send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict&dryRun=All"), kind, object.clone())
                .await;
            assert_eq!(answer.code, 400, "{kind}: {} {}", answer.code, answer.body);
            let answer = world.send("POST", &format!("{CONFIG_MAPS}?dryRun=All"), kind, object.clone()).await;
            assert!(answer.head < 64 * 1024, "{kind}: {} bytes of headers", answer.head);
        }
        for kind in [MERGE, STRATEGIC, APPLY] {
            let answer = world.patch("a", kind, object.clone()).await;
            assert!(answer.head < 64 * 1024, "{kind}: {} bytes of headers", answer.head);
        }
        let operation = format!("[{{{keys}\"op\":\"add\"}}]");
        let answer = world.patch("a", JSON_PATCH, operation).await;
        assert!((400..500).contains(&answer.code), "{} {}", answer.code, answer.body);
        assert!(answer.head < 64 * 1024);
    }
    // Warnings that are longer than any header should be.
    let unknown = format!(r#"{{"metadata":{{"name":"c"}},"{long}":1,"other":2}}"#);
    let answer = world.create(unknown, JSON).await;
    assert_eq!(answer.code, 201, "{} {}", answer.code, answer.body);
    assert!(answer.head < 64 * 1024, "{} bytes of headers", answer.head);
    world.assert_serves().await;
    world.stop().await;
}
