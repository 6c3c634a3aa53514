//! What strangers may send, made up at random: it never panics, its errors are bounded, and what is encoded decodes to
//! itself. `PROPTEST_CASES=100000` runs longer; a failure prints its seed and its smallest case.

mod apply;
mod decoding;
mod patches;
mod selectors;
mod support;
