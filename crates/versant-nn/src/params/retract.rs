//! Taking a parameter back while a layer is still being built.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Param, Scope, lock};

impl Scope {
    /// Removes a parameter that nobody else holds: a builder method has changed its shape, or the layer
    /// does without it. One that another layer shares stays.
    pub(crate) fn retract(&self, param: Param) {
        let mut state = lock(&self.store.state);
        let Some(&at) = state.by_name.get(&param.slot.name) else {
            return;
        };
        // The store and the given handle are two owners; a third is another layer.
        if !Arc::ptr_eq(&state.slots[at], &param.slot) || Arc::strong_count(&param.slot) > 2 {
            return;
        }
        state.slots.remove(at);
        let places: HashMap<_, _> =
            state.slots.iter().enumerate().map(|(i, slot)| (Arc::clone(&slot.name), i)).collect();
        state.by_name = places;
        drop(state);
        self.store.version.fetch_add(1, Ordering::AcqRel);
    }
}
