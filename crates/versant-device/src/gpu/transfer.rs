//! Words from the host to the device and back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytemuck::{cast_slice, cast_slice_mut};

use super::context::Context;
use super::translate;
use crate::error::{DeviceError, Result};
use crate::executor::lock;

/// Written bytes after which they are submitted by themselves: wgpu keeps a copy until then.
const FLUSH_BYTES: u64 = 64 << 20;

/// Smallest staging buffer in bytes.
const MIN_STAGING: u64 = 64 << 10;

/// Largest staging buffer that is kept for the next read.
const MAX_KEPT_STAGING: u64 = 64 << 20;

impl Context {
    /// Copies words to the start of a buffer, after what was submitted and before what will be.
    pub fn write(&self, buffer: &wgpu::Buffer, data: &[u32]) -> Result<()> {
        let bytes: &[u8] = cast_slice(data);
        let ((), error) = self.scoped(|| self.queue.write_buffer(buffer, 0, bytes));
        self.health.check()?;
        if let Some(error) = error {
            return Err(translate(error, bytes.len() as u64));
        }
        let size = bytes.len() as u64;
        if self.pending.fetch_add(size, Ordering::Relaxed) + size > FLUSH_BYTES {
            // Waiting, not only submitting: a host that uploads faster than the device copies would
            // otherwise pile copies up.
            let index = self.submit(None);
            self.wait(Some(index))?;
        }
        Ok(())
    }

    /// The first words of a buffer, after everything submitted or written before.
    pub fn read(&self, buffer: &wgpu::Buffer, words: usize) -> Result<Vec<u32>> {
        let size = words as u64 * 4;
        if self.mapped {
            // wgpu itself submits writes that wait for this buffer before it maps it.
            return self.map(buffer, size, None);
        }
        let staging = self.staging(size)?;
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, size);
        let index = self.submit(Some(encoder));
        let data = self.map(&staging, size, Some(index))?;
        if staging.size() <= MAX_KEPT_STAGING {
            *lock(&self.staging) = Some(staging);
        }
        Ok(data)
    }

    /// Waits for a submission (all without one) and copies the start of a mappable buffer out.
    pub fn map(
        &self,
        buffer: &wgpu::Buffer,
        size: u64,
        after: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<u32>> {
        let outcome = Arc::new(Mutex::new(None));
        let slot = outcome.clone();
        buffer.map_async(wgpu::MapMode::Read, 0..size, move |result| {
            *lock(&slot) = Some(result);
        });
        if let Err(error) = self.wait(after) {
            // Withdraws the request, so that the buffer can be used again.
            buffer.unmap();
            return Err(error);
        }
        let refused = |message: String| match self.health.settle() {
            Err(error) => error,
            Ok(()) => DeviceError::Rejected { message },
        };
        match lock(&outcome).take() {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(refused(error.to_string())),
            None => return Err(refused("a buffer was not mapped".to_string())),
        }
        let view = buffer.get_mapped_range(0..size);
        let view = view.map_err(|error| refused(error.to_string()))?;
        // Mapped memory need not be aligned to words, so bytes are copied.
        let mut data = vec![0u32; view.len() / 4];
        cast_slice_mut(&mut data).copy_from_slice(&view);
        drop(view);
        buffer.unmap();
        Ok(data)
    }

    /// A buffer to read through: the kept one if it is large enough.
    fn staging(&self, size: u64) -> Result<wgpu::Buffer> {
        if let Some(kept) = lock(&self.staging).take_if(|kept| kept.size() >= size) {
            return Ok(kept);
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let roomy = size.next_power_of_two().max(MIN_STAGING);
        let most = self.device.limits().max_buffer_size;
        self.create_buffer(roomy.min(most), usage)
    }
}
