//! Connections: slow ones, silent ones, floods of headers, watches that nobody reads.

use super::support::{CONFIG_MAPS, JSON, World, drain, peak, resident, write};
use component_base::{FakeClock, RealClock};
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

const QUIET: Duration = Duration::from_secs(3);

/// The seat of a request is not for a client that never sends its body.
#[tokio::test]
async fn a_body_that_does_not_come() {
    let clock = FakeClock::new(RealClock::shared().now());
    let world = World::with_clock(clock.clone()).await;
    // More than there are seats.
    let mut slow = Vec::new();
    for _ in 0..700 {
        let mut stream = world.connect().await;
        let head = format!(
            "POST {CONFIG_MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
        );
        assert!(write(&mut stream, head.as_bytes()).await);
        slow.push(stream);
    }
    let mut first = slow.remove(0);
    let mut buffer = [0; 4096];
    let deadline = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            // The server may not have read the head yet.
            clock.advance(Duration::from_secs(61));
            let read = tokio::time::timeout(Duration::from_millis(200), first.read(&mut buffer)).await;
            if let Ok(read) = read {
                return String::from_utf8_lossy(&buffer[..read.expect("an answer")]).into_owned();
            }
        }
    });
    let answer = deadline.await.expect("in time");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("Timeout: request did not complete within the allotted timeout"), "{answer}");
    world.assert_serves().await;
    world.stop().await;
}

/// Heads that come one byte at a time, connections that never say anything: others are served meanwhile.
#[tokio::test]
async fn heads_that_do_not_come() {
    let world = World::new().await;
    let mut open = Vec::new();
    for number in 0..300 {
        let mut stream = world.connect().await;
        if number % 2 == 0 {
            assert!(write(&mut stream, b"GET /api HTTP/1.1\r\nhost: ").await);
        }
        open.push(stream);
    }
    // Not even a handshake.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(world.addr).await.expect("connects"));
    }
    world.assert_serves().await;
    drop((open, silent));
    world.assert_serves().await;
    world.stop().await;
}

/// A connection that does not shake hands is closed.
#[tokio::test]
async fn no_handshake() {
    let world = World::new().await;
    let mut silent = tokio::net::TcpStream::connect(world.addr).await.expect("connects");
    let read = tokio::time::timeout(Duration::from_secs(25), silent.read(&mut [0; 16])).await;
    assert_eq!(read.expect("closed in time").unwrap_or(0), 0);
    world.stop().await;
}

#[tokio::test]
async fn floods_of_headers() {
    let world = World::new().await;
    let before = peak();
    let many: String = (0..5_000).map(|i| format!("x-{i}: a\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(1 << 20));
    let path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(1 << 20));
    let head = |more: &str| format!("GET /api HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    for (what, request) in [("many", head(&many)), ("long", head(&long)), ("path", path)] {
        let mut stream = world.connect().await;
        write(&mut stream, request.as_bytes()).await;
        let (answer, _) = drain(&mut stream, QUIET).await;
        let line = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
        // The connection may be reset over what was not read any more, before the answer has come.
        assert!(
            answer.is_empty() || line.starts_with("HTTP/1.1 431") || line.starts_with("HTTP/1.1 414"),
            "{what}: {line}"
        );
    }
    // Headers without end.
    let mut stream = world.connect().await;
    assert!(write(&mut stream, b"GET /api HTTP/1.1\r\nhost: localhost\r\n").await);
    let mut written = 0;
    let line = format!("x-a: {}\r\n", "b".repeat(1000));
    while written < 32 << 20 {
        match tokio::time::timeout(QUIET, write(&mut stream, line.as_bytes())).await {
            Ok(true) => written += line.len(),
            _ => break,
        }
    }
    assert!(written < 16 << 20, "the server took {written} bytes of headers");
    for garbage in
        [b"\x16\x03\x01\0\0\0".as_slice(), b"\0\0\0\0\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET /\xff HTTP/9.9\r\n\r\n"]
    {
        let mut stream = world.connect().await;
        write(&mut stream, garbage).await;
        let (answer, _) = drain(&mut stream, QUIET).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert!(peak() < before + 100, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}

/// A thousand watches whose clients never read an event, while much is written.
#[tokio::test]
async fn watches_that_nobody_reads() {
    let world = World::new().await;
    let mut watches = Vec::new();
    for _ in 0..1_000 {
        let mut stream = world.connect().await;
        let request = format!("GET {CONFIG_MAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(write(&mut stream, request.as_bytes()).await);
        let mut buffer = [0; 12];
        stream.read_exact(&mut buffer).await.expect("an answer");
        assert_eq!(&buffer, b"HTTP/1.1 200");
        watches.push(stream);
    }
    let before = resident();
    let content = "x".repeat(40_000);
    for number in 0..150 {
        let object = json!({"metadata": {"name": format!("c{number}")}, "data": {"k": content}});
        let answer = world.create(object.to_string(), JSON).await;
        assert_eq!(answer.code, 201, "{answer:?}");
    }
    // 6 MB to each of them would be 6 GB.
    let grown = resident().saturating_sub(before);
    assert!(grown < 600, "grew by {grown} MiB");
    world.assert_serves().await;
    drop(watches);
    world.assert_serves().await;
    world.stop().await;
}
