//! SPDY/3.1 as the streaming endpoints of kubelets speak it: framing, compressed headers, and the client's half of a
//! session. Windows are not enforced, as in the implementations on the other side.

mod frame;
mod session;

pub use session::{Session, SessionEvent, StreamId};

#[cfg(test)]
pub mod testing {
    pub use super::frame::{Decoder, Encoder, Frame};
}
