//! The wgpu executor: Vulkan, Metal and DX12.

mod adapter;
mod context;
mod pipelines;
mod program;
mod stamps;
mod transfer;

use std::sync::Arc;

use crate::counters::Meter;
use crate::error::{DeviceError, Result};
use crate::executor::{Executor, Program, SharedHealth, Storage, Usage};
use crate::info::DeviceInfo;
use crate::options::DeviceOptions;
use crate::recording::{ParamLayout, Recording};
use crate::trace::Trace;

pub(crate) use adapter::{find, list};

use context::Context;
use program::GpuProgram;

/// Device memory, freed at once when it is dropped: bind groups in caches may still refer to it,
/// but their key, its identity, never occurs again.
pub(crate) struct GpuBuffer(wgpu::Buffer);

/// A [`GpuBuffer`] without its type: whether a tensor may be sent between threads must not be a question about
/// the insides of wgpu, which are too deep for the compiler's default limit once user types wrap them.
pub(crate) trait GpuMemory: Send + Sync {
    /// The buffer.
    fn raw(&self) -> &wgpu::Buffer;
}

impl GpuMemory for GpuBuffer {
    fn raw(&self) -> &wgpu::Buffer {
        &self.0
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// WGSL kernels on a graphics adapter.
pub(crate) struct GpuExecutor(Arc<Context>);

/// Opens an adapter.
pub(crate) fn open(
    adapter: &wgpu::Adapter,
    options: &DeviceOptions,
    health: &SharedHealth,
    meter: &Arc<Meter>,
) -> Result<(DeviceInfo, GpuExecutor, Option<Arc<Trace>>)> {
    let (info, device, queue) = adapter::request(adapter, options)?;
    let trace = Trace::of(options, &info, health)?;
    let context = Context::new(device, queue, &info, options, health, meter, trace.as_ref());
    Ok((info, GpuExecutor(Arc::new(context)), trace))
}

impl Executor for GpuExecutor {
    fn allocate(&self, words: usize, usage: Usage) -> Result<Storage> {
        let mut flags = wgpu::BufferUsages::COPY_DST;
        match usage {
            Usage::Uniform => flags |= wgpu::BufferUsages::UNIFORM,
            Usage::Storage => {
                flags |= wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
                if self.0.mapped {
                    flags |= wgpu::BufferUsages::MAP_READ;
                }
            }
        }
        let size = (words as u64 * 4).max(16);
        Ok(Storage::Gpu(Box::new(GpuBuffer(self.0.create_buffer(size, flags)?))))
    }

    fn write(&self, storage: &Storage, data: &[u32]) -> Result<()> {
        self.0.write(buffer(storage), data)
    }

    fn read(&self, storage: &Storage, words: usize) -> Result<Vec<u32>> {
        self.0.read(buffer(storage), words)
    }

    fn has_uniforms(&self) -> bool {
        true
    }

    fn prepare(&self, recording: &Recording, params: &ParamLayout) -> Result<Box<dyn Program>> {
        Ok(Box::new(GpuProgram::new(&self.0, recording, params)?))
    }

    fn wait(&self) -> Result<()> {
        self.0.wait(None)
    }

    fn finish_trace(&self) -> Result<()> {
        self.0.profiler.as_ref().map_or(Ok(()), |profiler| profiler.finish(&self.0))
    }

    fn destroy(&self) {
        self.0.device.destroy();
    }
}

/// What is behind a buffer of this executor.
fn buffer(storage: &Storage) -> &wgpu::Buffer {
    match storage {
        Storage::Gpu(buffer) => buffer.raw(),
        _ => unreachable!("the device refuses buffers of other devices"),
    }
}

/// What an error of wgpu means to this crate; `asked` is the size in bytes of a refused allocation.
fn translate(error: wgpu::Error, asked: u64) -> DeviceError {
    match error {
        wgpu::Error::OutOfMemory { .. } => DeviceError::OutOfMemory { asked },
        other => DeviceError::Rejected { message: other.to_string() },
    }
}
