//! The pool and its books.

mod common;

use common::*;
use versant_device::{Buffer, ClassStats, Cost, Device};

#[test]
fn books_are_exact() {
    for device in devices() {
        let base = device.memory();
        assert_eq!((base.current, base.peak, base.pooled), (0, 0, 0));
        let a = device.alloc(1000).unwrap(); // Of the class of 1,024 words.
        let b = device.alloc(1025).unwrap(); // Of the class of 1,152 words.
        let stats = device.memory();
        assert_eq!(stats.current, 4 * (1024 + 1152), "{device:?}");
        drop(b.clone());
        assert_eq!(device.memory(), stats);
        drop(b);
        let stats = device.memory();
        assert_eq!((stats.current, stats.pooled), (4096, 4608));
        assert_eq!(stats.peak, 4096 + 4608);
        let class = |bytes, live, free| ClassStats { bytes, live, free };
        assert_eq!(stats.classes, [class(4096, 1, 0), class(4608, 0, 1)]);
        device.reset_peak();
        assert_eq!(device.memory().peak, 4096);
        drop(a);
        device.trim().unwrap();
        let stats = device.memory();
        assert_eq!((stats.current, stats.pooled, stats.peak), (0, 0, 4096));
        assert!(stats.classes.is_empty());
        let counters = device.counters();
        assert_eq!((counters.buffers_allocated, counters.buffers_freed), (2, 2));
    }
}

#[test]
fn the_pool_is_last_in_first_out() {
    for device in devices() {
        let buffers: Vec<Buffer> = (0..3).map(|_| device.alloc(100).unwrap()).collect();
        let ids: Vec<u64> = buffers.iter().map(Buffer::id).collect();
        buffers.into_iter().for_each(drop);
        let again: Vec<Buffer> = (0..3).map(|_| device.alloc(99).unwrap()).collect();
        let mut back: Vec<u64> = again.iter().map(Buffer::id).collect();
        back.reverse();
        assert_eq!(back, ids);
        assert_eq!(device.counters().pool_hits, 3);
        let clone = again[0].clone();
        assert_eq!((clone.owners(), again[1].owners()), (2, 1));
    }
}

#[test]
fn idle_memory_is_bounded() {
    let device = Device::null();
    // One live buffer at a time, each of another class: 64 MiB may lie idle or twice the peak.
    for step in 0..40 {
        drop(device.alloc((1 << 20) + step * (1 << 20)).unwrap());
        let stats = device.memory();
        assert!(stats.pooled <= (64 << 20).max(2 * stats.peak), "{stats:?}");
    }
    assert!(device.counters().buffers_freed > 10);
}

#[test]
fn parameters_are_freed_with_their_plan() {
    for device in devices() {
        let plan = device.prepare(two_slots(10)).unwrap();
        let uniform = device.info().kind != versant_device::DeviceKind::Cpu;
        assert_eq!(device.memory().fixed > 0, uniform, "{device:?}");
        let clone = plan.clone();
        drop(plan);
        assert_eq!(device.memory().fixed > 0, uniform);
        drop(clone);
        assert_eq!(device.memory().fixed, 0);
    }
}

#[test]
fn recycled_and_partial_buffers_hold_what_was_written() {
    for device in real_devices() {
        let first = noise(100, 1);
        let buffer = device.upload(&first).unwrap();
        let id = buffer.id();
        drop(buffer);
        let buffer = device.upload(&[0; 100]).unwrap();
        assert_eq!(buffer.id(), id);
        device.write(&buffer, &noise(100, 2)).unwrap();
        device.write(&buffer, &[7, 8]).unwrap();
        let got = device.read(&buffer, 50).unwrap();
        assert_eq!(got[..2], [7, 8]);
        assert_eq!(got[2..], noise(100, 2)[2..50], "{device:?}");
    }
}

#[test]
fn attachments_belong_to_a_device() {
    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicU32);
    let (one, two) = (Device::cpu(), Device::cpu());
    let add = |d: &Device| {
        let count = d.attachment::<Count>();
        count.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!((add(&one), add(&one), add(&two)), (0, 1, 0));
    assert_eq!(*one.attachment::<u8>(), 0);
    assert!(one == one.clone() && one != two);
}

#[test]
fn peak_rates_are_measured_once_and_leave_no_memory() {
    for device in real_devices() {
        let kept = device.alloc(1000).unwrap();
        let before = device.memory();
        let peak = device.peak().unwrap();
        assert_eq!(device.memory(), before, "{device:?}");
        let counters = device.counters();
        assert_eq!(device.peak().unwrap(), peak);
        assert_eq!(device.counters(), counters);
        let (seconds, memory) = peak.bound(Cost { flops: 1, bytes: peak.bytes_per_second as u64 });
        assert!(memory && (0.99..1.01).contains(&seconds), "{peak:?}");
        drop(kept);
    }
    assert!(Device::null().peak().is_err());
}
