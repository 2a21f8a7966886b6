//! versant-device.
