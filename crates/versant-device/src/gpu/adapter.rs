//! Finding, describing and opening adapters.

use crate::error::{DeviceError, Result};
use crate::info::{AdapterClass, Backend, DeviceInfo, DeviceKind, Features, Limits};
use crate::options::{DeviceOptions, Select};

/// Descriptions of all adapters, the best first.
pub(crate) fn list() -> Vec<DeviceInfo> {
    adapters().into_iter().map(|(info, _)| info).collect()
}

/// The adapter of a selection; `None` if the CPU is the best device.
pub(crate) fn find(select: &Select) -> Result<Option<wgpu::Adapter>> {
    let all = adapters();
    let wanted = |info: &DeviceInfo| match select {
        Select::Best => info.class < AdapterClass::Software,
        Select::Gpu => true,
        Select::Software => info.is_software(),
        Select::Backend(backend) => info.backend == *backend,
        Select::Name(name) => info.name.to_lowercase().contains(&name.to_lowercase()),
        Select::Cpu | Select::Null => false,
    };
    if let Some((_, adapter)) = all.iter().find(|(info, _)| wanted(info)) {
        return Ok(Some(adapter.clone()));
    }
    let found = all.into_iter().map(|(info, _)| info.name).collect();
    match select {
        Select::Best => Ok(None),
        Select::Name(name) => Err(DeviceError::UnknownDevice { asked: name.clone(), found }),
        other => Err(DeviceError::NoAdapter { asked: other.to_string(), found }),
    }
}

/// All adapters with their descriptions: hardware first, software last.
fn adapters() -> Vec<(DeviceInfo, wgpu::Adapter)> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Validation layers are for those who work on this crate: WGPU_VALIDATION=1 turns them on.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: wgpu::InstanceFlags::empty().with_env(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    let mut all: Vec<(DeviceInfo, wgpu::Adapter)> = found
        .into_iter()
        .map(|adapter| {
            let info = describe(&adapter.get_info(), &adapter.limits(), offered(&adapter));
            (info, adapter)
        })
        .collect();
    all.sort_by_key(|(info, _)| info.class);
    all
}

/// Asks the driver for a device with all the limits the options allow, and the features kernels use.
pub(super) fn request(
    adapter: &wgpu::Adapter,
    options: &DeviceOptions,
) -> Result<(DeviceInfo, wgpu::Device, wgpu::Queue)> {
    let default_limits = options.wants_default_limits();
    let about = adapter.get_info();
    let software = about.device_type == wgpu::DeviceType::Cpu;
    let mut features = wgpu::Features::empty();
    if !default_limits {
        features |= wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        // Kernels would pay for mappable memory anywhere but on a device that has no other.
        if software {
            features |= wgpu::Features::MAPPABLE_PRIMARY_BUFFERS | wgpu::Features::SHADER_INT64;
        }
    }
    if options.experimental {
        features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    }
    features &= offered(adapter);
    if options.timestamps || options.profile.is_some() {
        features |= wgpu::Features::TIMESTAMP_QUERY;
        if !adapter.features().contains(features) {
            return Err(DeviceError::Unsupported { what: "time stamps" });
        }
    }
    let limits = if default_limits {
        wgpu::Limits::default().or_worse_values_from(&adapter.limits())
    } else {
        adapter.limits()
    };
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("versant"),
        required_features: features,
        required_limits: limits.clone(),
        experimental_features: experimental(options.experimental),
        // Buffers are pooled one layer up, so blocks shared by many would only hold memory back.
        memory_hints: if software { wgpu::MemoryHints::MemoryUsage } else { wgpu::MemoryHints::Performance },
        ..Default::default()
    });
    let (device, queue) = pollster::block_on(request)
        .map_err(|e| DeviceError::CannotOpen { name: about.name.clone(), message: e.to_string() })?;
    Ok((describe(&about, &limits, features), device, queue))
}

/// The token without which wgpu refuses what it calls experimental.
#[allow(unsafe_code, reason = "wgpu's only way to the token")]
fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: the caller asked for the ability by an option of this name, whose documentation says what it is; the
    // kernels that use it are verified against a reference on the device before their results are used.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// An adapter's features; that of cooperative matrices only if they have the one shape that kernels use: 16 x 16 x 16
/// elements of f16, summed in f32.
fn offered(adapter: &wgpu::Adapter) -> wgpu::Features {
    let useful = |p: &wgpu::CooperativeMatrixProperties| {
        [p.m_size, p.n_size, p.k_size] == [16; 3]
            && p.ab_type == wgpu::CooperativeScalarType::F16
            && p.cr_type == wgpu::CooperativeScalarType::F32
    };
    let mut features = adapter.features();
    if !adapter.cooperative_matrix_properties().iter().any(useful) {
        features.remove(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    }
    features
}

fn describe(about: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> DeviceInfo {
    let backend = match about.backend {
        wgpu::Backend::Vulkan => Backend::Vulkan,
        wgpu::Backend::Metal => Backend::Metal,
        wgpu::Backend::Dx12 => Backend::Dx12,
        _ => Backend::Other,
    };
    let has = |feature| features.contains(feature);
    let subgroup = |size| {
        if has(wgpu::Features::SUBGROUP) { size } else { 0 }
    };
    DeviceInfo {
        name: about.name.clone(),
        kind: DeviceKind::Wgpu,
        backend,
        class: match about.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterClass::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterClass::Integrated,
            wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => AdapterClass::Virtual,
            wgpu::DeviceType::Cpu => AdapterClass::Software,
        },
        driver: format!("{} {}", about.driver, about.driver_info).trim().to_string(),
        limits: Limits {
            // Metal passes buffer lengths to the kernel in a binding of its own.
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage
                - u32::from(backend == Backend::Metal),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_groups: limits.max_compute_workgroups_per_dimension.min(65_535),
            max_uniform_bytes: limits.max_uniform_buffer_binding_size,
            uniform_align: limits.min_uniform_buffer_offset_alignment.max(256),
            min_subgroup: subgroup(about.subgroup_min_size),
            max_subgroup: subgroup(about.subgroup_max_size),
        },
        features: Features {
            f16: has(wgpu::Features::SHADER_F16),
            int64: has(wgpu::Features::SHADER_INT64),
            subgroups: has(wgpu::Features::SUBGROUP),
            cooperative: has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
            mapped: has(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
        },
    }
}
