//! Hostile input over real TLS sockets: every request gets a bounded, correct error, and the server stays small and
//! goes on serving. One file a family.

mod bodies;
mod bombs;
mod connections;
mod streams;
mod support;
