//! The controllers: each watches a few kinds and brings the cluster from what is to what is wanted.
//!
//! Invariants:
//! - CM-1: level-triggered: a controller acts on what the caches say now, never on which event came; losing events or
//!   restarting at any point loses nothing.
//! - CM-2: idempotent: reconciling twice writes once.

pub mod controllers;
mod error;
mod expectations;
mod manager;
mod owners;
mod podcontrol;
mod revisions;

pub use error::Error;
pub use manager::{Context, Controller, ControllerManager, ControllerManagerConfig, Signing};
