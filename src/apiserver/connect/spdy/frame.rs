//! SPDY/3.1 frames.
//!
//! Invariants:
//! - SF-1: headers are compressed in one zlib stream per direction, in the order of the frames: an [`Encoder`] or
//!   [`Decoder`] belongs to one connection and one direction.
//! - SF-2: a peer cannot make the decoder hold more than [`MAX_FRAME`] bytes of a frame or of its headers.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

pub const MAX_FRAME: usize = 16 * 1024 * 1024;
const VERSION: u16 = 3;
pub const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

pub type Headers = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream { stream: u32, fin: bool, headers: Headers },
    SynReply { stream: u32, fin: bool, headers: Headers },
    RstStream { stream: u32, status: u32 },
    Ping(u32),
    GoAway { last: u32, status: u32 },
    Headers { stream: u32, fin: bool, headers: Headers },
    WindowUpdate { stream: u32, delta: u32 },
    Settings,
    Data { stream: u32, fin: bool, data: Bytes },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a SPDY frame is longer than {MAX_FRAME} bytes")]
    TooLong,
    #[error("not a SPDY/3.1 frame")]
    Malformed,
    #[error("compressed headers cannot be read")]
    Compression,
}

/// Writes frames.
pub struct Encoder {
    zlib: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).expect("a fresh zlib stream takes a dictionary");
        Self { zlib }
    }

    pub fn encode(&mut self, frame: &Frame) -> Bytes {
        let mut body = BytesMut::new();
        let (kind, fin) = match frame {
            Frame::Data { stream, fin, data } => {
                let mut out = BytesMut::with_capacity(8 + data.len());
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u32(u32::from(*fin) << 24 | data.len() as u32);
                out.extend_from_slice(data);
                return out.freeze();
            }
            Frame::SynStream { stream, fin, headers } => {
                body.put_u32(*stream);
                body.put_u32(0);
                // Priority 0 and no credential slot.
                body.put_u16(0);
                self.put_headers(&mut body, headers);
                (SYN_STREAM, *fin)
            }
            Frame::SynReply { stream, fin, headers } => {
                body.put_u32(*stream);
                self.put_headers(&mut body, headers);
                (SYN_REPLY, *fin)
            }
            Frame::Headers { stream, fin, headers } => {
                body.put_u32(*stream);
                self.put_headers(&mut body, headers);
                (HEADERS, *fin)
            }
            Frame::RstStream { stream, status } => {
                body.put_u32(*stream);
                body.put_u32(*status);
                (RST_STREAM, false)
            }
            Frame::Ping(id) => {
                body.put_u32(*id);
                (PING, false)
            }
            Frame::GoAway { last, status } => {
                body.put_u32(*last);
                body.put_u32(*status);
                (GOAWAY, false)
            }
            Frame::WindowUpdate { stream, delta } => {
                body.put_u32(*stream);
                body.put_u32(*delta);
                (WINDOW_UPDATE, false)
            }
            Frame::Settings => {
                body.put_u32(0);
                (SETTINGS, false)
            }
        };
        let mut out = BytesMut::with_capacity(8 + body.len());
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(fin) << 24 | body.len() as u32);
        out.extend_from_slice(&body);
        out.freeze()
    }

    fn put_headers(&mut self, out: &mut BytesMut, headers: &Headers) {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value.as_str()] {
                plain.put_u32(text.len() as u32);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut compressed = Vec::with_capacity(plain.len() + 64);
        let start = self.zlib.total_in();
        loop {
            compressed.reserve(256);
            let done = (self.zlib.total_in() - start) as usize;
            self.zlib
                .compress_vec(&plain[done..], &mut compressed, FlushCompress::Sync)
                .expect("compressing into a growing buffer cannot fail");
            // Room left over means that everything was flushed.
            if compressed.len() < compressed.capacity() {
                break;
            }
        }
        out.extend_from_slice(&compressed);
    }
}

/// Reads frames from a byte stream.
pub struct Decoder {
    zlib: Decompress,
    buffer: BytesMut,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    pub fn new() -> Self {
        Self { zlib: Decompress::new(true), buffer: BytesMut::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None`: feed more. Frames of unknown type are skipped.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if self.buffer.len() < 8 {
                return Ok(None);
            }
            let word = u32::from_be_bytes([self.buffer[4], self.buffer[5], self.buffer[6], self.buffer[7]]);
            let (flags, length) = ((word >> 24) as u8, (word & 0x00ff_ffff) as usize);
            if length > MAX_FRAME {
                return Err(FrameError::TooLong);
            }
            if self.buffer.len() < 8 + length {
                return Ok(None);
            }
            let head = self.buffer.split_to(8);
            let body = self.buffer.split_to(length).freeze();
            let fin = flags & FLAG_FIN != 0;
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if first & 0x8000_0000 == 0 {
                return Ok(Some(Frame::Data { stream: first, fin, data: body }));
            }
            if (first >> 16) & 0x7fff != u32::from(VERSION) {
                return Err(FrameError::Malformed);
            }
            if let Some(frame) = self.control((first & 0xffff) as u16, fin, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Option<Frame>, FrameError> {
        let wanted = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | PING | SETTINGS => 4,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
            _ => return Ok(None),
        };
        if body.len() < wanted {
            return Err(FrameError::Malformed);
        }
        let first = body.get_u32() & if kind == PING { u32::MAX } else { 0x7fff_ffff };
        Ok(Some(match kind {
            SYN_STREAM => {
                body.advance(6);
                Frame::SynStream { stream: first, fin, headers: self.headers(&body)? }
            }
            SYN_REPLY => Frame::SynReply { stream: first, fin, headers: self.headers(&body)? },
            HEADERS => Frame::Headers { stream: first, fin, headers: self.headers(&body)? },
            RST_STREAM => Frame::RstStream { stream: first, status: body.get_u32() },
            GOAWAY => Frame::GoAway { last: first, status: body.get_u32() },
            WINDOW_UPDATE => Frame::WindowUpdate { stream: first, delta: body.get_u32() & 0x7fff_ffff },
            PING => Frame::Ping(first),
            _ => Frame::Settings,
        }))
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(compressed)?;
        let mut rest = plain.as_slice();
        let count = take_u32(&mut rest)? as usize;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            headers.push((name, take_text(&mut rest)?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::with_capacity(compressed.len() * 4 + 256);
        let start = self.zlib.total_in();
        loop {
            let done = (self.zlib.total_in() - start) as usize;
            match self.zlib.decompress_vec(&compressed[done..], &mut plain, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&dictionary()).map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            let done = (self.zlib.total_in() - start) as usize;
            if done == compressed.len() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if plain.len() == plain.capacity() {
                if plain.len() > MAX_FRAME {
                    return Err(FrameError::TooLong);
                }
                plain.reserve(4096);
            } else if done == compressed.len() {
                return Ok(plain);
            } else {
                return Err(FrameError::Compression);
            }
        }
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, FrameError> {
    let (head, tail) = rest.split_at_checked(4).ok_or(FrameError::Malformed)?;
    *rest = tail;
    Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]))
}

fn take_text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let length = take_u32(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or(FrameError::Malformed)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).map_err(|_| FrameError::Malformed)
}

/// The compression dictionary of draft-mbelshe-httpbis-spdy-00, section 2.6.10.1: words with their lengths, then text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards \
        pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding \
        upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public \
        set-cookie keep-alive origin";
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
        text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace() {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend(word.bytes().map(|b| if b == b'_' { b' ' } else { b }));
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn frames() -> Vec<Frame> {
        vec![
            Frame::SynStream { stream: 1, fin: false, headers: headers(&[("streamtype", "error")]) },
            Frame::SynStream { stream: 3, fin: true, headers: headers(&[("streamtype", "stdin"), ("x", "")]) },
            Frame::SynReply { stream: 1, fin: false, headers: headers(&[]) },
            Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 3, fin: true, data: Bytes::new() },
            Frame::Headers { stream: 1, fin: false, headers: headers(&[("a", &"b".repeat(100_000))]) },
            Frame::RstStream { stream: 3, status: 5 },
            Frame::Ping(7),
            Frame::WindowUpdate { stream: 1, delta: 9 },
            Frame::Settings,
            Frame::GoAway { last: 3, status: 0 },
        ]
    }

    #[test]
    fn round_trip_whole_and_byte_by_byte() {
        let mut encoder = Encoder::new();
        let bytes: Vec<u8> = frames().iter().flat_map(|f| encoder.encode(f)).collect();
        for step in [bytes.len(), 1, 7] {
            let mut decoder = Decoder::new();
            let mut got = Vec::new();
            for chunk in bytes.chunks(step) {
                decoder.feed(chunk);
                while let Some(frame) = decoder.next_frame().expect("decodes") {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames());
        }
    }

    #[test]
    fn the_dictionary_is_the_one_of_spdy_3() {
        assert_eq!(dictionary().len(), 1423);
        let bytes = Encoder::new().encode(&Frame::SynReply { stream: 1, fin: false, headers: Headers::new() });
        // A zlib header with FDICT, and the Adler-32 of the dictionary that every implementation knows.
        assert_eq!(&bytes[13..18], &[bytes[13], 0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(bytes[12], 0x78);
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        for bytes in [
            &[0x80, 2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0][..],
            &[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0],
            &[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4],
        ] {
            let mut decoder = Decoder::new();
            decoder.feed(bytes);
            assert!(decoder.next_frame().is_err(), "{bytes:?}");
        }
        let mut decoder = Decoder::new();
        decoder.feed(&[0x80, 3, 0, 99, 0, 0, 0, 0, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ping(9))));
    }
}
