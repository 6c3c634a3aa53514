//! Tests that join crates: tidy, integration, oracle, e2e.
