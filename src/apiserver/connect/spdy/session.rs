//! The client's half of a SPDY session over any byte stream: open streams, send, receive, answer pings.
//!
//! Invariants:
//! - SS-1: a client's streams have odd numbers, ascending; nothing is sent on a stream after its FIN.

use std::collections::HashSet;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Mutex;

use super::frame::{Decoder, Encoder, Frame};

pub type StreamId = u32;

/// What the other side did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    Data {
        stream: StreamId,
        data: Bytes,
        fin: bool,
    },
    /// The stream was accepted.
    Reply(StreamId),
    Reset(StreamId),
    /// The session is over.
    Closed,
}

/// A session. Sending takes `&self` and may be done while [`Session::receive`] waits elsewhere.
pub struct Session<T> {
    sender: Mutex<Sender<T>>,
    receiver: Mutex<Receiver<T>>,
}

struct Sender<T> {
    io: WriteHalf<T>,
    encoder: Encoder,
    next: StreamId,
    finished: HashSet<StreamId>,
}

struct Receiver<T> {
    io: ReadHalf<T>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Send> Session<T> {
    pub fn new(io: T) -> Self {
        let (read, write) = tokio::io::split(io);
        Self {
            sender: Mutex::new(Sender { io: write, encoder: Encoder::new(), next: 1, finished: HashSet::new() }),
            receiver: Mutex::new(Receiver { io: read, decoder: Decoder::new(), buffer: vec![0; 32 * 1024] }),
        }
    }

    /// Opens a stream with these headers.
    pub async fn open(&self, headers: &[(&str, &str)]) -> io::Result<StreamId> {
        let mut sender = self.sender.lock().await;
        let stream = sender.next;
        sender.next += 2;
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        sender.send(&Frame::SynStream { stream, fin: false, headers }).await?;
        Ok(stream)
    }

    pub async fn send(&self, stream: StreamId, data: Bytes) -> io::Result<()> {
        let mut sender = self.sender.lock().await;
        if sender.finished.contains(&stream) {
            return Ok(());
        }
        sender.send(&Frame::Data { stream, fin: false, data }).await
    }

    /// Ends our half of a stream.
    pub async fn finish(&self, stream: StreamId) -> io::Result<()> {
        let mut sender = self.sender.lock().await;
        if !sender.finished.insert(stream) {
            return Ok(());
        }
        sender.send(&Frame::Data { stream, fin: true, data: Bytes::new() }).await
    }

    /// Says goodbye and closes the connection.
    pub async fn close(&self) {
        let mut sender = self.sender.lock().await;
        let _ = sender.send(&Frame::GoAway { last: 0, status: 0 }).await;
        let _ = sender.io.shutdown().await;
    }

    /// The next event. Not cancel-safe: one task receives.
    pub async fn receive(&self) -> io::Result<SessionEvent> {
        let mut receiver = self.receiver.lock().await;
        let receiver = &mut *receiver;
        loop {
            let frame = receiver.decoder.next_frame().map_err(io::Error::other)?;
            match frame {
                Some(Frame::Data { stream, fin, data }) => return Ok(SessionEvent::Data { stream, data, fin }),
                Some(Frame::SynReply { stream, .. }) => return Ok(SessionEvent::Reply(stream)),
                Some(Frame::RstStream { stream, .. }) => return Ok(SessionEvent::Reset(stream)),
                Some(Frame::GoAway { .. }) => return Ok(SessionEvent::Closed),
                // Even numbers are the server's own pings; ours would be odd.
                Some(Frame::Ping(id)) if id % 2 == 0 => self.sender.lock().await.send(&Frame::Ping(id)).await?,
                Some(_) => {}
                None => {
                    let read = receiver.io.read(&mut receiver.buffer).await?;
                    if read == 0 {
                        return Ok(SessionEvent::Closed);
                    }
                    receiver.decoder.feed(&receiver.buffer[..read]);
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite> Sender<T> {
    async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = self.encoder.encode(frame);
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_and_pings() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let session = Session::new(ours);
        let error = session.open(&[("streamType", "error")]).await.expect("opens");
        let stdin = session.open(&[("streamType", "stdin")]).await.expect("opens");
        assert_eq!((error, stdin), (1, 3));
        session.send(stdin, Bytes::from_static(b"hi")).await.expect("sends");
        session.finish(stdin).await.expect("finishes");
        session.send(stdin, Bytes::from_static(b"late")).await.expect("is dropped");

        let mut decoder = Decoder::new();
        let mut encoder = Encoder::new();
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while seen.len() < 4 {
            let read = theirs.read(&mut buffer).await.expect("reads");
            decoder.feed(&buffer[..read]);
            while let Some(frame) = decoder.next_frame().expect("decodes") {
                seen.push(frame);
            }
        }
        assert_eq!(seen[3], Frame::Data { stream: 3, fin: true, data: Bytes::new() });
        for frame in [
            Frame::Ping(2),
            Frame::SynReply { stream: 1, fin: false, headers: vec![] },
            Frame::Data { stream: 1, fin: true, data: Bytes::from_static(b"{}") },
            Frame::GoAway { last: 3, status: 0 },
        ] {
            theirs.write_all(&encoder.encode(&frame)).await.expect("writes");
        }
        assert_eq!(session.receive().await.expect("event"), SessionEvent::Reply(1));
        let data = SessionEvent::Data { stream: 1, data: Bytes::from_static(b"{}"), fin: true };
        assert_eq!(session.receive().await.expect("event"), data);
        assert_eq!(session.receive().await.expect("event"), SessionEvent::Closed);
        let read = theirs.read(&mut buffer).await.expect("reads");
        decoder.feed(&buffer[..read]);
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ping(2))));
    }
}
