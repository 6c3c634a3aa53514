//! Logs, end to end.
