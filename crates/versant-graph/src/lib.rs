//! versant-graph.
