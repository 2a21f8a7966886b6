//! Compiled kernels, shared by all plans of a device.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::counters::bump;
use crate::error::{DeviceError, Result};
use crate::executor::lock;
use crate::recording::{Kernel, MAX_SCALARS, PipelineKey};

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
        let label = Some(key.kernel.label.as_str());
        let unchecked = key.kernel.trusted && !self.checked;
        let module = self.module(&key.kernel, unchecked);
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
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: !unchecked,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }

    /// A kernel's module, with naga's run-time checks (index clamps, bounded loops, guarded integer division)
    /// or without.
    #[allow(unsafe_code, reason = "wgpu's only way round the checks")]
    fn module(&self, kernel: &Kernel, unchecked: bool) -> wgpu::ShaderModule {
        let source = wgpu::ShaderModuleDescriptor {
            label: Some(kernel.label.as_str()),
            source: wgpu::ShaderSource::Wgsl(kernel.wgsl.as_str().into()),
        };
        if !unchecked {
            return self.device.create_shader_module(source);
        }
        let checks = wgpu::ShaderRuntimeChecks::unchecked();
        // SAFETY: naga validates the text all the same. What the checks would add at run time is vouched for
        // by the field `trusted`, which only this project's own kernels set: their invocations compare
        // themselves with the domain, gathered indices are clamped, loops count up to a bound, divisors are
        // extents of a domain that is not empty or are guarded in the text (`v_div_*`, `v_rem_*`). Tests run
        // the same kernels with the checks and without, between guard words, against the definition.
        unsafe { self.device.create_shader_module_trusted(source, checks) }
    }
}

/// The bind group layout that the convention prescribes. A derived one would drop unused bindings.
fn layout_entries(key: &PipelineKey) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty, size| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty,
            has_dynamic_offset: binding == PARAMS,
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
