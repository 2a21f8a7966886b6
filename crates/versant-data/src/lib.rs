//! versant-data.
