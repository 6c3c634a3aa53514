//! A small HTTP/1.1 responder and client: enough for a sample workload and for tests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{resolve, signals};

pub struct Options {
    port: u16,
    text: String,
    ready_after: Duration,
}

impl Options {
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { port: 8080, text: String::new(), ready_after: Duration::ZERO };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, value),
                None => (*word, *words.next().ok_or_else(|| format!("{word} wants a value"))?),
            };
            let bad = |want: &str| format!("{flag} {value:?}: want {want}");
            match flag {
                "--port" => options.port = value.parse().map_err(|_| bad("a port, 1 to 65535"))?,
                "--text" => options.text = value.to_owned(),
                "--ready-after" => {
                    let seconds: u32 = value.parse().map_err(|_| bad("whole seconds"))?;
                    options.ready_after = Duration::from_secs(seconds.into());
                }
                _ => return Err(format!("unknown option {flag}")),
            }
        }
        Ok(options)
    }
}

struct Server {
    options: Options,
    hostname: String,
    started: Instant,
    open: AtomicUsize,
}

pub fn serve(options: Options) -> ExitCode {
    let listener = match TcpListener::bind(("0.0.0.0", options.port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {}: {error}", options.port);
            return ExitCode::FAILURE;
        }
    };
    let stopped = signals::stop_waiter();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    println!("serving on port {} as {hostname}", options.port);
    let server = Arc::new(Server { options, hostname, started: Instant::now(), open: AtomicUsize::new(0) });
    let accepting = server.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = accepting.clone();
            server.open.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                server.connection(stream);
                server.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    stopped();
    println!("stopping");
    // PS-2, but an idle keep-alive connection must not hold up the end.
    let deadline = Instant::now() + Duration::from_secs(3);
    while server.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    ExitCode::SUCCESS
}

impl Server {
    fn connection(&self, stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let Ok(mut out) = stream.try_clone() else { return };
        let peer = stream.peer_addr().map(|p| p.to_string()).unwrap_or_default();
        let mut input = BufReader::new(stream).take(64 << 10);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match input.read_line(&mut line) {
                Ok(n) if n > 2 => head.push(line.trim_end().to_owned()),
                Ok(0) | Err(_) => return,
                Ok(_) => break,
            }
        }
        let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
        let (status, body) = self.answer(target, &head, &peer);
        println!("{peer} {target} {status}");
        let reason = if status < 400 { "OK" } else { "Error" };
        let len = body.len();
        let _ = write!(
            out,
            "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
        );
    }

    fn answer(&self, target: &str, head: &[String], peer: &str) -> (u16, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let arg = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(percent_decode)
        };
        match path {
            "/healthz" => (200, "ok\n".into()),
            "/readyz" if self.started.elapsed() < self.options.ready_after => (503, "not yet\n".into()),
            "/readyz" => (200, "ok\n".into()),
            "/headers" => (200, head.join("\n") + "\n"),
            "/peer" => (200, format!("{peer}\n")),
            "/env" => (200, std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect()),
            "/file" => match std::fs::read_to_string(arg("path").unwrap_or_default()) {
                Ok(text) => (200, text),
                Err(error) => (404, format!("{error}\n")),
            },
            "/fetch" => match fetch(&arg("url").unwrap_or_default()) {
                Ok((status, body)) => (status, body),
                Err(message) => (502, message + "\n"),
            },
            "/sleep" => {
                let ms = arg("ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
                std::thread::sleep(Duration::from_millis(ms));
                (200, "slept\n".into())
            }
            "/exit" => std::process::exit(arg("code").and_then(|code| code.parse().ok()).unwrap_or(0)),
            "/stress" => {
                let mib = arg("mib").and_then(|mib| mib.parse::<usize>().ok()).unwrap_or(1);
                let memory = vec![1u8; mib << 20];
                let sum: usize = memory.iter().step_by(4096).map(|b| usize::from(*b)).sum();
                (200, format!("touched {sum} pages\n"))
            }
            "/" => (200, format!("Hello from {}{}\n", self.hostname, greeting(&self.options.text))),
            _ => (404, format!("{path}: not found\n")),
        }
    }
}

fn greeting(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// GETs `http://host[:port]/path` and gives its status and body.
pub fn fetch(url: &str) -> Result<(u16, String), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url:?} is not an http:// URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?),
        None => (authority, 80),
    };
    let address = (resolve::resolve(host)?, port).into();
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(fail)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n").map_err(fail)?;
    let mut answer = Vec::new();
    stream.take(4 << 20).read_to_end(&mut answer).map_err(fail)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("{address}: not an HTTP answer"))?;
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_what_is_wrong() {
        assert_eq!(Options::parse(&["--port=99"]).map(|o| o.port), Ok(99));
        assert_eq!(Options::parse(&["--port", "x"]).err().as_deref(), Some("--port \"x\": want a port, 1 to 65535"));
        assert_eq!(Options::parse(&["--nope", "x"]).err().as_deref(), Some("unknown option --nope"));
    }

    #[test]
    fn decodes_percent_and_leaves_the_rest() {
        assert_eq!(percent_decode("a%2Fb%zz%"), "a/b%zz%");
    }
}
