//! `/logs/`: the files under `/var/log`, as Go's file server shows them.
//!
//! Invariants:
//! - KF-1: a path cannot climb out of the directory by its own text (links in it are followed, as upstream does).

use std::path::{Path, PathBuf};

use http::header::{CONTENT_LENGTH, LAST_MODIFIED, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::http::{Body, Refusal, streamed, with_type};

const BLOCK: usize = 32 * 1024;

/// `rest` is the decoded path after `/logs/`.
pub async fn serve(root: &Path, rest: &str) -> Result<Response<Body>, Refusal> {
    let path = resolve(root, rest).ok_or_else(|| Refusal::bad_request("invalid URL path"))?;
    let meta = tokio::fs::metadata(&path).await.map_err(|error| refused(&error))?;
    if !meta.is_dir() {
        if rest.ends_with('/') {
            return Ok(redirect(&format!("../{}", path.file_name().unwrap_or_default().to_string_lossy())));
        }
        return file(&path, &meta).await;
    }
    if !rest.is_empty() && !rest.ends_with('/') {
        return Ok(redirect(&format!("{}/", path.file_name().unwrap_or_default().to_string_lossy())));
    }
    let listing = listing(&path).await.map_err(|error| refused(&error))?;
    Ok(with_type(StatusCode::OK, "text/html; charset=utf-8", listing))
}

fn resolve(root: &Path, rest: &str) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for part in rest.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." || part.contains('\0') {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

async fn file(path: &Path, meta: &std::fs::Metadata) -> Result<Response<Body>, Refusal> {
    if !meta.is_file() {
        // A pipe or a device would hang or never end.
        return Err(Refusal::new(StatusCode::FORBIDDEN, "403 Forbidden\n"));
    }
    let file = File::open(path).await.map_err(|error| refused(&error))?;
    let mut response = with_type(StatusCode::OK, "text/plain; charset=utf-8", "");
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(meta.len()));
    let modified = meta.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    let modified = modified.map(|time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if let Some(value) = modified.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(LAST_MODIFIED, value);
    }
    // Not more than was announced, though the file may grow meanwhile.
    *response.body_mut() = streamed(ReaderStream::with_capacity(file.take(meta.len()), BLOCK));
    Ok(response)
}

async fn listing(dir: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().await?.is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let mut out = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        out.push_str(&format!("<a href=\"{}\">{}</a>\n", link(&name), html(&name)));
    }
    out.push_str("</pre>\n");
    Ok(out)
}

fn link(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'/'
            | b'$'
            | b'&'
            | b'+'
            | b'='
            | b'@' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out.replace('&', "&amp;")
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = with_type(StatusCode::MOVED_PERMANENTLY, "text/plain; charset=utf-8", "");
    if let Ok(value) = HeaderValue::from_str(&link(to)) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

fn refused(error: &std::io::Error) -> Refusal {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Refusal::not_found("404 page not found\n"),
        std::io::ErrorKind::PermissionDenied => Refusal::new(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        _ => Refusal::internal("500 Internal Server Error\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn lists_and_serves() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("pods")).expect("directory");
        std::fs::write(dir.path().join("a<b"), "hello").expect("file");
        let get = async |rest: &str| match serve(dir.path(), rest).await {
            Ok(response) => {
                let code = response.status().as_u16();
                let body = response.into_body().collect().await.expect("body").to_bytes();
                (code, String::from_utf8_lossy(&body).into_owned())
            }
            Err(refusal) => (refusal.code.as_u16(), refusal.text),
        };
        let (code, listing) = get("").await;
        assert_eq!(code, 200);
        assert!(listing.contains("<a href=\"a%3Cb\">a&lt;b</a>\n<a href=\"pods/\">pods/</a>\n</pre>"), "{listing}");
        assert_eq!(get("a<b").await, (200, "hello".into()));
        assert_eq!(get("pods").await.0, 301);
        assert_eq!(get("none").await, (404, "404 page not found\n".into()));
        assert_eq!(get("pods/../../etc/passwd").await.0, 400);
    }
}
