//! versant-nn.
