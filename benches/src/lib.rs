//! Home of the benches, which judge the whole; it deliberately exports nothing.
