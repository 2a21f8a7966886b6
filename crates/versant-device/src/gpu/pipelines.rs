//! Compiled kernels, shared by all plans of a device.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::counters::bump;
use crate::error::{DeviceError, Result};
use crate::executor::lock;
use crate::recording::{MAX_SCALARS, PipelineKey};

/// The binding of the parameter block.
pub(super) const PARAMS: u32 = 0;
/// The binding of the host scalars.
pub(super) const SCALARS: u32 = 1;
/// The binding of the first storage buffer.
pub(super) const STORAGE: u32 = 2;

/// Bytes of the scalars' binding.
pub(super) const SCALAR_BYTES: u64 = MAX_SCALARS as u64 * 4;

/// A compiled kernel and the layout of its one bind group.
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines by kernel text and layout.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<HashMap<PipelineKey, Arc<Pipeline>>>);

impl Context {
    /// A kernel's pipeline, compiled unless one of equal text was.
    ///
    /// Text is always compiled with naga's run-time checks (index clamps, bounded loops, guarded
    /// integer division): wgpu's way round them is `unsafe`, since a wrong kernel could then read and
    /// write memory that is not its own.
    pub fn pipeline(&self, key: PipelineKey) -> Result<Arc<Pipeline>> {
        let mut all = lock(&self.pipelines.0);
        if let Some(pipeline) = all.get(&key) {
            return Ok(pipeline.clone());
        }
        let (pipeline, error) = self.scoped(|| self.compile(&key));
        self.health.check()?;
        if let Some(error) = error {
            return Err(DeviceError::InvalidKernel {
                label: key.kernel.label.clone(),
                message: error.to_string(),
            });
        }
        bump(&self.meter.shader_modules);
        bump(&self.meter.pipelines);
        let pipeline = Arc::new(pipeline);
        all.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, key: &PipelineKey) -> Pipeline {
        let kernel = &key.kernel;
        let label = Some(kernel.label.as_str());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(kernel.wgsl.as_str().into()),
        });
        let entries = layout_entries(key);
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let whole = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&whole),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        Pipeline { pipeline, layout }
    }
}

/// The bind group layout that the convention prescribes. A derived one would drop unused bindings.
fn layout_entries(key: &PipelineKey) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty, size| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: false,
            // Known sizes of uniforms let wgpu find a kernel that wants more now, not at a launch.
            min_binding_size: size,
        },
        count: None,
    };
    let mut entries = Vec::new();
    let uniform = wgpu::BufferBindingType::Uniform;
    if key.param_bytes > 0 {
        entries.push(entry(PARAMS, uniform, NonZeroU64::new(key.param_bytes)));
    }
    if key.kernel.uses_scalars {
        entries.push(entry(SCALARS, uniform, NonZeroU64::new(SCALAR_BYTES)));
    }
    let reads = key.kernel.reads;
    for i in 0..reads + key.kernel.writes {
        let read_only = i < reads;
        let ty = wgpu::BufferBindingType::Storage { read_only };
        entries.push(entry(STORAGE + i as u32, ty, None));
    }
    entries
}
