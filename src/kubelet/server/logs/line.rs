//! The CRI log format as a machine: bytes of the file in, bytes for the reader out.
//!
//! One line is `<RFC 3339 time> stdout|stderr P|F[:…] <text>`. `P` is a piece of a line, so its line break is not part
//! of the text.
//!
//! Invariants:
//! - LL-1: memory does not depend on the length of a line: only a line's head is kept until it is complete.
//! - LL-2: the output does not depend on how the input is cut into pieces.
//! - LL-3: a line that is not in the format is left out; the ones around it are not.

use jiff::Timestamp;

/// Time, stream and tag; longer heads are no heads.
const LONGEST_HEAD: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// What of the log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Older lines are left out.
    pub since: Option<Timestamp>,
    /// Put the time before every line.
    pub timestamps: bool,
    /// `None` is both.
    pub stream: Option<Output>,
    /// Of output.
    pub limit_bytes: Option<u64>,
    /// Stop after this many lines of the file.
    pub lines: Option<u64>,
}

/// Where in a line the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// `shown`: not filtered out.
    Text {
        shown: bool,
        partial: bool,
        empty: bool,
    },
    /// The rest of a line that is not in the format.
    Skip,
}

#[derive(Debug)]
pub struct Machine {
    filter: Filter,
    state: State,
    head: Vec<u8>,
    /// The next text begins a line of the container's output.
    fresh: bool,
    bytes_left: Option<u64>,
    lines_left: Option<u64>,
}

impl Machine {
    pub fn new(filter: Filter) -> Self {
        Self {
            bytes_left: filter.limit_bytes,
            lines_left: filter.lines,
            filter,
            state: State::Head,
            head: Vec::new(),
            fresh: true,
        }
    }

    /// Nothing more will come out.
    pub fn is_done(&self) -> bool {
        self.bytes_left == Some(0) || self.lines_left == Some(0)
    }

    /// Takes the next piece of the file.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() && !self.is_done() {
            let end = input.iter().position(|b| *b == b'\n');
            let (piece, ended) = (&input[..end.unwrap_or(input.len())], end.is_some());
            input = &input[end.map_or(input.len(), |at| at + 1)..];
            self.piece(piece, ended, out);
        }
    }

    /// The file was replaced by a new one: whatever line was open is over.
    pub fn new_file(&mut self) {
        self.state = State::Head;
        self.head.clear();
    }

    fn piece(&mut self, mut piece: &[u8], ended: bool, out: &mut Vec<u8>) {
        if self.state == State::Head {
            piece = self.take_head(piece, out);
        }
        match self.state {
            State::Head => {}
            State::Skip => {}
            State::Text { shown, partial, empty } => {
                if shown {
                    self.emit(piece, out);
                }
                self.state = State::Text { shown, partial, empty: empty && piece.is_empty() };
            }
        }
        if ended {
            self.end_line(out);
        }
    }

    /// Collects the head; the rest of `piece` once it is complete.
    fn take_head<'a>(&mut self, piece: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let mut spaces = self.head.iter().filter(|b| **b == b' ').count();
        for (at, byte) in piece.iter().enumerate() {
            spaces += usize::from(*byte == b' ');
            if spaces == 3 {
                self.head.extend_from_slice(&piece[..at]);
                self.begin_text(out);
                return &piece[at + 1..];
            }
            if self.head.len() + at >= LONGEST_HEAD {
                self.head.clear();
                self.state = State::Skip;
                return &[];
            }
        }
        self.head.extend_from_slice(piece);
        &[]
    }

    fn begin_text(&mut self, out: &mut Vec<u8>) {
        let head = std::mem::take(&mut self.head);
        let Some(head) = Head::parse(&head) else {
            self.state = State::Skip;
            return;
        };
        let shown = self.filter.since.is_none_or(|since| head.time >= since)
            && self.filter.stream.is_none_or(|stream| head.stream == stream);
        if shown && self.filter.timestamps && self.fresh {
            let stamp = format!("{} ", fixed_stamp(head.stamp));
            self.emit(stamp.as_bytes(), out);
        }
        self.state = State::Text { shown, partial: head.partial, empty: true };
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if let State::Text { shown, partial, empty } = self.state {
            if shown && !partial {
                self.emit(b"\n", out);
            }
            // As upstream: an empty piece does not continue a line.
            self.fresh = !partial || empty;
            if let Some(left) = &mut self.lines_left {
                *left = left.saturating_sub(1);
            }
        }
        self.state = State::Head;
        self.head.clear();
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(left) = &mut self.bytes_left else { return out.extend_from_slice(bytes) };
        let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..fits]);
        *left -= fits as u64;
    }
}

struct Head<'a> {
    stamp: &'a str,
    time: Timestamp,
    stream: Output,
    partial: bool,
}

impl<'a> Head<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(head).ok()?.split(' ');
        let (stamp, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
        let stream = match stream {
            "stdout" => Output::Stdout,
            "stderr" => Output::Stderr,
            _ => return None,
        };
        let partial = tags.split(':').next() == Some("P");
        Some(Self { stamp, time: stamp.parse().ok()?, stream, partial })
    }
}

/// The time with nine digits of fraction, in the zone it was written in.
fn fixed_stamp(stamp: &str) -> String {
    let zone = stamp.rfind(['Z', 'z', '+', '-']).unwrap_or(stamp.len());
    let (time, zone) = stamp.split_at(zone);
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    format!("{seconds}.{fraction:0<9}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n\
        2026-01-01T00:00:02.5Z stderr P tw\n\
        2026-01-01T00:00:02.6Z stderr F o\n\
        garbage\n\
        2026-01-01T00:00:03Z nowhere F x\n\
        2026-01-01T00:00:04.000000001Z stdout F \n\
        2026-01-01T01:00:05+01:00 stdout F:x a b  c\n";

    fn run(filter: Filter, log: &str, cut: usize) -> String {
        let mut machine = Machine::new(filter);
        let mut out = Vec::new();
        for piece in log.as_bytes().chunks(cut) {
            machine.feed(piece, &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn filters() {
        let all = Filter::default;
        let table = [
            (all(), "one\ntwo\n\na b  c\n"),
            (Filter { stream: Some(Output::Stderr), ..all() }, "two\n"),
            (Filter { stream: Some(Output::Stdout), ..all() }, "one\n\na b  c\n"),
            (Filter { since: "2026-01-01T00:00:02.6Z".parse().ok(), ..all() }, "o\n\na b  c\n"),
            (Filter { limit_bytes: Some(5), ..all() }, "one\nt"),
            (Filter { lines: Some(2), ..all() }, "one\ntw"),
            (Filter { lines: Some(0), ..all() }, ""),
            (
                Filter { timestamps: true, ..all() },
                "2026-01-01T00:00:01.000000000Z one\n2026-01-01T00:00:02.500000000Z two\n\
                 2026-01-01T00:00:04.000000001Z \n2026-01-01T01:00:05.000000000+01:00 a b  c\n",
            ),
        ];
        for (filter, expected) in table {
            for cut in [1, 2, 7, 1000] {
                assert_eq!(run(filter.clone(), LOG, cut), expected, "{filter:?} cut {cut}");
            }
        }
    }

    #[test]
    fn a_very_long_line_is_passed_on_in_pieces() {
        let mut machine = Machine::new(Filter::default());
        let mut out = Vec::new();
        machine.feed(b"2026-01-01T00:00:01Z stdout F ", &mut out);
        for _ in 0..100 {
            machine.feed(&[b'x'; 10_000], &mut out);
            assert_eq!(out.len(), 10_000);
            assert!(machine.head.capacity() <= 2 * LONGEST_HEAD);
            out.clear();
        }
        // A "line" without a head is not kept either.
        machine.feed(b"\n", &mut out);
        machine.feed(&[b'y'; 10_000], &mut out);
        assert_eq!((out.as_slice(), machine.head.len()), (&b"\n"[..], 0));
    }
}
