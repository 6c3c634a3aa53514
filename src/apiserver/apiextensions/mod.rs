//! Kinds that users define.

pub mod controllers;
