//! Lets clients in that send as `:authority` what is none.
//!
//! grpc-go before 1.34 (etcdctl 3.4) sends the path of a unix socket, and for some commands a whole URL: the HTTP/2
//! library resets such streams. The name says nothing to us, so it is replaced on the way in, before the library sees
//! it. Not so under TLS, where clients send the name that they checked.
//!
//! ```text
//! socket ─▶ WithoutAuthority: preface │ frames: HEADERS are held until they are whole, all others pass ─▶ hyper
//! ```
//!
//! Invariants:
//! - GA-1: bytes that are not the value of a literal `:authority`, or the length of what holds it, are passed as they
//!   are: HTTP/1, and whatever cannot be read, is for the library to judge.
//! - GA-2: the replacement is as long as what it replaces once decoded, so the tables of both ends, which count that
//!   length, stay alike.
//! - GA-3: no more than one frame of [`MAX_FRAME`] is held, and no byte of any other frame.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What the server says that it takes.
const MAX_FRAME: usize = super::server::MAX_FRAME as usize;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const CHUNK: usize = 8 << 10;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// A stream whose reader finds no `:authority` but `localhost`, or something as long.
pub struct WithoutAuthority<S> {
    stream: S,
    state: State,
    /// Read, but not looked at.
    input: BytesMut,
    /// For the reader.
    output: BytesMut,
}

enum State {
    /// So much of the preface has come.
    Preface(usize),
    /// A frame begins.
    Frame,
    /// So much of a frame that is none of ours is still to come.
    Pass(usize),
    /// No HTTP/2, or nothing that can be understood.
    Raw,
}

impl<S> WithoutAuthority<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, state: State::Preface(0), input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Moves what can be moved from input to output; false if more has to come first.
    fn step(&mut self) -> bool {
        match self.state {
            _ if self.input.is_empty() => return false,
            State::Preface(seen) => {
                let length = self.input.len().min(PREFACE.len() - seen);
                if self.input[..length] != PREFACE[seen..seen + length] {
                    self.state = State::Raw;
                    return true;
                }
                self.pass(length);
                let seen = seen + length;
                self.state = if seen == PREFACE.len() { State::Frame } else { State::Preface(seen) };
            }
            State::Frame => {
                if self.input.len() < HEAD {
                    return false;
                }
                let length = frame_length(&self.input);
                if self.input[3] != HEADERS || length > MAX_FRAME {
                    self.pass(HEAD);
                    self.state = State::Pass(length);
                } else if self.input.len() < HEAD + length {
                    return false;
                } else {
                    let frame = self.input.split_to(HEAD + length);
                    rewrite(&frame, &mut self.output);
                }
            }
            State::Pass(left) => {
                let length = left.min(self.input.len());
                self.pass(length);
                self.state = State::Pass(left - length);
            }
            State::Raw => self.pass(self.input.len()),
        }
        if matches!(self.state, State::Pass(0)) {
            self.state = State::Frame;
        }
        true
    }

    fn pass(&mut self, length: usize) {
        if self.output.is_empty() && length == self.input.len() {
            std::mem::swap(&mut self.output, &mut self.input);
        } else {
            self.output.extend_from_slice(&self.input[..length]);
            self.input.advance(length);
        }
    }
}

fn frame_length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// A whole HEADERS frame.
fn rewrite(frame: &[u8], output: &mut BytesMut) {
    let start = output.len();
    output.extend_from_slice(&frame[..HEAD]);
    let (before, fields, padding) = parts(frame[4], &frame[HEAD..]);
    output.extend_from_slice(before);
    replace_authorities(fields, output);
    output.extend_from_slice(padding);
    let length = output.len() - start - HEAD;
    match u32::try_from(length) {
        Ok(fits) if length <= MAX_FRAME => output[start..start + 3].copy_from_slice(&fits.to_be_bytes()[1..]),
        _ => {
            output.truncate(start);
            output.extend_from_slice(frame);
        }
    }
}

/// What stands before the header fields, they, and the padding.
fn parts(flags: u8, payload: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let padded = flags & PADDED != 0;
    let before = usize::from(padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let padding = if padded { payload.first().map_or(0, |length| usize::from(*length)) } else { 0 };
    let Some(end) = payload.len().checked_sub(padding).filter(|end| before <= *end) else {
        return (payload, &[], &[]);
    };
    (&payload[..before], &payload[before..end], &payload[end..])
}

/// Copies a block of header fields (RFC 7541), or the beginning of one.
fn replace_authorities(fields: &[u8], output: &mut BytesMut) {
    let mut at = 0;
    while let Some(field) = Field::read(fields, at) {
        match field.authority {
            Some((value, length)) if length > 0 => {
                output.extend_from_slice(&fields[at..value]);
                push_name(length, output);
            }
            _ => output.extend_from_slice(&fields[at..field.end]),
        }
        at = field.end;
    }
    output.extend_from_slice(&fields[at..]);
}

struct Field {
    end: usize,
    /// Where the value of a literal `:authority` begins, and its decoded length.
    authority: Option<(usize, usize)>,
}

impl Field {
    /// `None` if none begins there, or it is not whole.
    fn read(fields: &[u8], at: usize) -> Option<Self> {
        /// Place of `:authority` in the static table.
        const AUTHORITY: usize = 1;
        let prefix = match *fields.get(at)? {
            // A field of a table; a new size of it.
            first if first & 0x80 != 0 => return Some(Self { end: integer(fields, at, 7)?.1, authority: None }),
            first if first & 0xe0 == 0x20 => return Some(Self { end: integer(fields, at, 5)?.1, authority: None }),
            first if first & 0x40 != 0 => 6,
            _ => 4,
        };
        let (name, mut value) = integer(fields, at, prefix)?;
        if name == 0 {
            value = text(fields, value)?.1;
        }
        let ((huffman, bytes), end) = text(fields, value)?;
        let length = || if huffman { huffman_length(bytes) } else { Some(bytes.len()) };
        let authority = if name == AUTHORITY { length().map(|length| (value, length)) } else { None };
        Some(Self { end, authority })
    }
}

/// With where it ends.
fn integer(fields: &[u8], at: usize, prefix: u8) -> Option<(usize, usize)> {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*fields.get(at)?) & most;
    if value < most {
        return Some((value, at + 1));
    }
    for (nth, byte) in fields.get(at + 1..)?.iter().take(4).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Some((value, at + nth + 2));
        }
    }
    None
}

/// Whether it is Huffman's, the bytes, and where it ends.
fn text(fields: &[u8], at: usize) -> Option<((bool, &[u8]), usize)> {
    let huffman = fields.get(at)? & 0x80 != 0;
    let (length, start) = integer(fields, at, 7)?;
    let end = start.checked_add(length)?;
    Some(((huffman, fields.get(start..end)?), end))
}

/// A plain literal of `length` bytes.
fn push_name(length: usize, output: &mut BytesMut) {
    const NAME: &[u8] = b"localhost";
    const MOST: usize = 0x7f;
    if length < MOST {
        output.extend_from_slice(&[length.to_le_bytes()[0]]);
    } else {
        output.extend_from_slice(&[0x7f]);
        let mut rest = length - MOST;
        while rest > 0x7f {
            output.extend_from_slice(&[rest.to_le_bytes()[0] | 0x80]);
            rest >>= 7;
        }
        output.extend_from_slice(&[rest.to_le_bytes()[0]]);
    }
    output.extend_from_slice(&NAME[..length.min(NAME.len())]);
    output.resize(output.len() + length.saturating_sub(NAME.len()), b'x');
}

/// How many codes of HPACK's Huffman code have so many bits. It is canonical: this tells where each code ends.
const CODES: [u32; 31] = {
    let mut codes = [0; 31];
    let mut at = 0;
    while at < BITS_AND_CODES.len() {
        let (bits, count) = BITS_AND_CODES[at];
        codes[bits] = count;
        at += 1;
    }
    codes
};
const BITS_AND_CODES: [(usize, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// How many bytes it stands for.
fn huffman_length(text: &[u8]) -> Option<usize> {
    let (mut bits, mut code, mut first, mut length) = (0, 0_u32, 0_u32, 0);
    for byte in text {
        for bit in (0..8).rev() {
            first = (first + CODES[bits]) << 1;
            code = code << 1 | u32::from(byte >> bit & 1);
            bits += 1;
            if code < first + CODES[bits] {
                // The last of all is the end, which nobody may send.
                if bits + 1 == CODES.len() && code + 1 == first + CODES[bits] {
                    return None;
                }
                length += 1;
                (bits, code, first) = (0, 0, 0);
            }
        }
    }
    // The last byte is filled with ones.
    (bits < 8 && code + 1 == 1 << bits).then_some(length)
}

impl<S: AsyncRead + Unpin> AsyncRead for WithoutAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            while this.step() {}
            if !this.output.is_empty() {
                let length = this.output.len().min(buf.remaining());
                buf.put_slice(&this.output[..length]);
                this.output.advance(length);
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Raw => return Pin::new(&mut this.stream).poll_read(cx, buf),
                State::Pass(left) => {
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    let length = part.filled().len();
                    buf.advance(length);
                    this.state = if length == left { State::Frame } else { State::Pass(left - length) };
                    return Poll::Ready(Ok(()));
                }
                State::Preface(_) | State::Frame => {
                    this.input.reserve(CHUNK);
                    // Nothing is lost with a read that is dropped before its end.
                    if ready!(pin!(this.stream.read_buf(&mut this.input)).poll(cx))? == 0 {
                        // The end, maybe within a frame.
                        this.state = State::Raw;
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithoutAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What comes out, whether it is read byte by byte or as it likes.
    async fn through(input: &[u8]) -> Vec<u8> {
        let mut outputs = Vec::new();
        for size in [1, 7, 1 << 20] {
            let (mut from, to) = tokio::io::duplex(size);
            let mut to = WithoutAuthority::new(to);
            let mut output = Vec::new();
            let write = async {
                from.write_all(input).await.unwrap();
                drop(from);
            };
            let (_, read) = tokio::join!(write, to.read_to_end(&mut output));
            read.unwrap();
            outputs.push(output);
        }
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
        outputs.remove(0)
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn huffman_codes_are_counted() {
        let (used, all) = CODES
            .iter()
            .enumerate()
            .fold((0, 0), |(used, all), (bits, count)| (used + u64::from(*count) * (1 << (30 - bits)), all + count));
        assert_eq!((used, all), (1 << 30, 257));
        // The examples of RFC 7541.
        for (code, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            (
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
            ("", ""),
        ] {
            assert_eq!(huffman_length(&hex(code)), Some(text.len()), "{text}");
        }
        assert_eq!(huffman_length(&[0xff; 4]), None, "the end");
        assert_eq!(huffman_length(&[0]), None, "wrong padding");
        assert_eq!(huffman_length(&[0xff]), None, "too much padding");
    }

    #[tokio::test]
    async fn names_of_sockets_are_replaced() {
        let path = "/tmp/etcd.sock";
        let plain = [&[0x83, 0x86, 0x41, 14], path.as_bytes(), &[0x40, 1, b'a', 1, b'b', 0xbe]].concat();
        let want = [&[0x83, 0x86, 0x41, 14][..], b"localhostxxxxx", &[0x40, 1, b'a', 1, b'b', 0xbe]].concat();
        let data = frame(0, 0, &[0x41; 20_000]);
        let input = [PREFACE, &frame(4, 0, &[]), &frame(1, 4, &plain), &data, &frame(1, 5, &plain)].concat();
        let output = [PREFACE, &frame(4, 0, &[]), &frame(1, 4, &want), &data, &frame(1, 5, &want)].concat();
        assert_eq!(through(&input).await, output);
    }

    #[tokio::test]
    async fn what_surrounds_it_stays() {
        // Huffman's, with priority and padding.
        let code = hex("f1e3c2e5f23a6ba0ab90f4ff");
        let fields = [&[0x20, 0x01, 0x8c][..], &code, &[0x87]].concat();
        let payload = [&[3, 0, 0, 0, 0, 9][..], &fields, &[0, 0, 0]].concat();
        let want = [&[3, 0, 0, 0, 0, 9, 0x20, 0x01, 15][..], b"localhostxxxxxx", &[0x87, 0, 0, 0]].concat();
        let input = [PREFACE, &frame(1, 0x2c, &payload)].concat();
        assert_eq!(through(&input).await, [PREFACE, &frame(1, 0x2c, &want)].concat());

        // A long one.
        let long = [&[0x41, 0x7f, 0xad, 0x01][..], &[b'/'; 300]].concat();
        let want = [&[0x41, 0x7f, 0xad, 0x01][..], b"localhost", &[b'x'; 291]].concat();
        let input = [PREFACE, &frame(1, 4, &long)].concat();
        assert_eq!(through(&input).await, [PREFACE, &frame(1, 4, &want)].concat());
    }

    #[tokio::test]
    async fn what_is_not_understood_passes() {
        for input in [
            &b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"PRI * HTTP/1.0",
            &[PREFACE, &frame(1, 4, &[0x41, 0x90, 1, 2])].concat(),
            &[PREFACE, &frame(1, 8, &[200, 1])].concat(),
            &[PREFACE, &frame(1, 0x2c, &[0])].concat(),
            &[PREFACE, &frame(1, 4, &[])].concat(),
            &[PREFACE, &frame(1, 4, &[0x41, 0x00, 0x41, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])].concat(),
            &[PREFACE, &frame(1, 4, &vec![0x82; MAX_FRAME + 1])].concat(),
            &[PREFACE, &frame(1, 4, &[0x82; 40])[..30]].concat(),
            &[PREFACE, &[0, 0]].concat(),
            b"",
        ] {
            assert_eq!(through(input).await, input);
        }
    }
}
