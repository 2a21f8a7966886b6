//! versant.
