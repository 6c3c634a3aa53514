//! The wire format: tags, varints, lengths, groups.
//!
//! Invariants:
//! - PW-1: a [`Reader`] only moves forward; every step reads at least one byte.
//! - PW-2: a [`Writer`] writes back to front, so that a length is known when its turn comes.

use super::Error;

/// A value as it stands in a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A group or a 32-bit number: no Kubernetes type has one.
    Other(u64),
}

impl<'a> Wire<'a> {
    fn wire_type(self) -> u64 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Other(wire_type) => wire_type,
        }
    }

    pub fn wrong(self, field: &str) -> Error {
        Error::WrongWireType { wire_type: self.wire_type(), field: go_name(field) }
    }

    pub fn bytes(self, field: &str) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.wrong(field)),
        }
    }

    /// Go's strings may be any bytes; JSON's may not.
    pub fn text(self, field: &str) -> Result<String, Error> {
        self.bytes(field).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    pub fn varint(self, field: &str) -> Result<u64, Error> {
        match self {
            Self::Varint(n) => Ok(n),
            other => Err(other.wrong(field)),
        }
    }

    pub fn double(self, field: &str) -> Result<f64, Error> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(other.wrong(field)),
        }
    }
}

/// Go's name of a field, near enough for an error.
fn go_name(field: &str) -> String {
    let mut chars = field.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The fields of a message.
pub struct Reader<'a> {
    rest: &'a [u8],
    message: &'a str,
}

impl<'a> Reader<'a> {
    /// `message` is its name in errors.
    pub fn new(bytes: &'a [u8], message: &'a str) -> Self {
        Self { rest: bytes, message: message.rsplit('.').next().unwrap_or_default() }
    }

    /// The next field: its number and value.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, wire_type) = ((tag >> 3) as i32, tag & 7);
        let message = || self.message.to_string();
        if wire_type == 4 {
            return Err(Error::StrayEndGroup { message: message() });
        }
        let Some(number) = u32::try_from(number).ok().filter(|n| *n > 0) else {
            return Err(Error::IllegalTag { message: message(), number, wire_type });
        };
        Ok(Some((number, self.value(wire_type)?)))
    }

    fn value(&mut self, wire_type: u64) -> Result<Wire<'a>, Error> {
        Ok(match wire_type {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Error::Eof)?;
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                if length > i64::MAX as u64 {
                    return Err(Error::NegativeLength);
                }
                Wire::Bytes(self.take(usize::try_from(length).map_err(|_| Error::Eof)?)?)
            }
            3 => {
                self.skip_group()?;
                Wire::Other(3)
            }
            5 => {
                self.take(4)?;
                Wire::Other(5)
            }
            other => return Err(Error::IllegalWireType(other)),
        })
    }

    /// Reads up to the end of the group that has begun; groups inside are counted, not recursed into.
    fn skip_group(&mut self) -> Result<(), Error> {
        let mut open = 1_usize;
        while open > 0 {
            match self.varint()? & 7 {
                3 => open += 1,
                4 => open -= 1,
                wire_type => {
                    self.value(wire_type)?;
                }
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Error> {
        varint(&mut self.rest)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Error::Eof)?;
        self.rest = tail;
        Ok(head)
    }
}

/// Takes a varint from the front.
pub fn varint(rest: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first().ok_or(Error::Eof)?;
        *rest = tail;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Overflow)
}

/// A field's value to write.
#[derive(Clone, Copy)]
pub enum Scalar<'a> {
    Varint(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

impl Scalar<'_> {
    /// Negative numbers take ten bytes, as Go writes them.
    pub fn int(n: i64) -> Self {
        Self::Varint(n as u64)
    }
}

/// Bytes written back to front: last field first, and of a message its content before its length and tag.
#[derive(Default)]
pub struct Writer {
    reversed: Vec<u8>,
}

impl Writer {
    pub fn len(&self) -> usize {
        self.reversed.len()
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    pub fn field(&mut self, number: u32, value: Scalar<'_>) {
        let wire_type = match value {
            Scalar::Varint(n) => {
                self.varint(n);
                0
            }
            Scalar::Double(f) => {
                self.bytes(&f.to_le_bytes());
                1
            }
            Scalar::Bytes(bytes) => {
                self.bytes(bytes);
                self.varint(bytes.len() as u64);
                2
            }
        };
        self.varint(u64::from(number) << 3 | wire_type);
    }

    /// A message of which `content` writes the fields, last one first.
    pub fn message(&mut self, number: u32, content: impl FnOnce(&mut Self)) {
        let end = self.len();
        content(self);
        self.close(number, end);
    }

    /// Makes what was written since the length was `end` a message.
    pub fn close(&mut self, number: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.varint(u64::from(number) << 3 | 2);
    }

    fn varint(&mut self, n: u64) {
        let mut buffer = [0_u8; 10];
        let (mut rest, mut length) = (n, 0);
        loop {
            buffer[length] = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
            length += 1;
            rest >>= 7;
            if rest == 0 {
                break;
            }
        }
        self.bytes(&buffer[..length]);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }
}
