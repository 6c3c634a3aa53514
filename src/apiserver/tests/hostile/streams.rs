//! HTTP/2: streams reset as fast as they are opened, too many of them, heads without end, floods of control frames.

use super::support::{CONFIG_MAPS, Stream, World, drain, peak, write};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const QUIET: Duration = Duration::from_secs(3);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

fn frame(ty: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[ty, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a GET, in HPACK without compression.
fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    for (name, value) in [(0x04, path), (0x01, "localhost")] {
        block.push(name);
        let length = value.len();
        if length < 127 {
            block.push(u8::try_from(length).expect("short"));
        } else {
            block.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).expect("seven bits"));
        }
        block.extend_from_slice(value.as_bytes());
    }
    block
}

async fn open(world: &World) -> Stream {
    let mut stream = world.connect().await;
    assert!(write(&mut stream, &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
    stream
}

/// The frames of what came: type, stream, and the code of the error for RST_STREAM and GOAWAY.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, u32)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let length = number(&bytes[..3]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else { break };
        let code = match bytes[3] {
            RST_STREAM => number(payload),
            GO_AWAY => number(&payload[4..8]),
            _ => 0,
        };
        all.push((bytes[3], number(&bytes[5..9]), code));
        bytes = &bytes[9 + length..];
    }
    all
}

/// Writes frames while reading what comes, until all is written or the server has had enough.
async fn flood(stream: Stream, chunks: impl Iterator<Item = Vec<u8>>) -> (usize, Vec<(u8, u32, u32)>, bool) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let reader = async {
        use tokio::io::AsyncReadExt as _;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match tokio::time::timeout(QUIET, reading.read(&mut buffer)).await {
                Ok(Ok(count)) if count > 0 => all.extend_from_slice(&buffer[..count]),
                Ok(_) => return (all, true),
                Err(_) => return (all, false),
            }
        }
    };
    let writer = async {
        use tokio::io::AsyncWriteExt as _;
        let mut written = 0;
        for chunk in chunks {
            match tokio::time::timeout(QUIET, writing.write_all(&chunk)).await {
                Ok(Ok(())) => written += chunk.len(),
                _ => break,
            }
        }
        let _ = tokio::time::timeout(QUIET, writing.flush()).await;
        written
    };
    let ((read, ended), written) = tokio::join!(reader, writer);
    (written, frames(&read), ended)
}

#[tokio::test]
async fn rapid_reset() {
    let world = World::new().await;
    let before = peak();
    for _ in 0..4 {
        let stream = open(&world).await;
        let block = get(CONFIG_MAPS);
        let chunks = (0..400).map(|chunk| {
            (0..100)
                .flat_map(|i| {
                    let id = (chunk * 100 + i) * 2 + 1;
                    let head = frame(HEADERS, END_STREAM | END_HEADERS, id, &block);
                    [head, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
                })
                .collect::<Vec<u8>>()
        });
        let (_, frames, ended) = flood(stream, chunks).await;
        let calm = frames.iter().any(|(ty, _, code)| *ty == GO_AWAY && *code == ENHANCE_YOUR_CALM);
        assert!(calm || ended, "the connection goes on: {:?}", frames.last());
    }
    assert!(peak() < before + 150, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn too_many_streams() {
    let world = World::new().await;
    let stream = open(&world).await;
    let block = get(&format!("{CONFIG_MAPS}?watch=1"));
    let chunks = (0..1_300).map(|i| frame(HEADERS, END_STREAM | END_HEADERS, i * 2 + 1, &block));
    let (_, frames, _) = flood(stream, chunks).await;
    let answered = frames.iter().filter(|(ty, ..)| *ty == HEADERS).count();
    let refused = frames.iter().filter(|(ty, _, code)| *ty == RST_STREAM && *code == REFUSED_STREAM).count();
    assert!(answered <= 1_000, "{answered} streams at once");
    let gone = frames.iter().any(|(ty, ..)| *ty == GO_AWAY);
    assert!(refused >= 200 || gone, "{answered} answered, {refused} refused");
    world.assert_serves().await;
    world.stop().await;
}

#[tokio::test]
async fn a_head_without_end() {
    let world = World::new().await;
    let before = peak();
    let stream = open(&world).await;
    // Literal headers that are not indexed: `a: bbbb...`.
    let line = [[0x00, 1, b'a', 100].as_slice(), &[b'b'; 100]].concat();
    let payload = line.repeat(150);
    let first = frame(HEADERS, 0, 1, &get("/api"));
    let chunks = std::iter::once(first).chain((0..4_000).map(|_| frame(CONTINUATION, 0, 1, &payload)));
    let (written, frames, ended) = flood(stream, chunks).await;
    assert!(written < 32 << 20, "the server took {written} bytes of one head");
    assert!(ended || frames.iter().any(|(ty, ..)| matches!(*ty, GO_AWAY | RST_STREAM)), "{frames:?}");
    // One head, complete and too long.
    let mut stream = open(&world).await;
    let block = get(&format!("/{}", "a".repeat(100_000)));
    let mut request = frame(HEADERS, END_STREAM, 1, &block[..16_000]);
    for (i, part) in block[16_000..].chunks(16_000).enumerate() {
        let last = (i + 2) * 16_000 >= block.len();
        request.extend(frame(CONTINUATION, if last { END_HEADERS } else { 0 }, 1, part));
    }
    write(&mut stream, &request).await;
    let (answer, ended) = drain(&mut stream, QUIET).await;
    let answered = self::frames(&answer);
    assert!(ended || answered.iter().any(|(ty, ..)| matches!(*ty, HEADERS | GO_AWAY | RST_STREAM)), "{answered:?}");
    assert!(peak() < before + 100, "grew from {before} to {} MiB", peak());
    world.assert_serves().await;
    world.stop().await;
}

/// Frames that each want an answer, from a client that does not read: what waits to be written stays small.
#[tokio::test]
async fn floods_of_control_frames() {
    let world = World::new().await;
    let before = peak();
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let ping = frame(PING, 0, 0, &[7; 8]);
    let empty = frame(DATA, 0, 1, &[]);
    for (what, one) in [("settings", settings), ("ping", ping), ("empty data", empty)] {
        let mut stream = open(&world).await;
        if what == "empty data" {
            let mut block = get(CONFIG_MAPS);
            block[0] = 0x83;
            assert!(write(&mut stream, &frame(HEADERS, END_HEADERS, 1, &block)).await);
        }
        let chunk = one.repeat(2_000);
        for _ in 0..200 {
            match tokio::time::timeout(Duration::from_secs(2), write(&mut stream, &chunk)).await {
                Ok(true) => {}
                _ => break,
            }
        }
        assert!(peak() < before + 100, "{what}: grew from {before} to {} MiB", peak());
        world.assert_serves().await;
    }
    world.stop().await;
}
