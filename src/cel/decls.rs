//! Declarations (face).
