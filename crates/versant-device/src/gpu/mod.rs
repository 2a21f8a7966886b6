//! The wgpu executor (arrives with the next commit).

use std::sync::Arc;

use crate::counters::Meter;
use crate::error::{DeviceError, Result};
use crate::executor::SharedHealth;
use crate::info::DeviceInfo;
use crate::options::{DeviceOptions, Select};

pub(crate) struct GpuBuffer;

pub(crate) fn find(select: &Select) -> Result<Option<()>> {
    match select {
        Select::Best => Ok(None),
        other => Err(DeviceError::NoAdapter {
            asked: format!("{other:?}"),
            found: Vec::new(),
        }),
    }
}

pub(crate) fn open(
    _: &(),
    _: &DeviceOptions,
    _: &SharedHealth,
    meter: &Arc<Meter>,
) -> Result<(DeviceInfo, crate::cpu::CpuExecutor)> {
    let executor = crate::cpu::CpuExecutor {
        meter: meter.clone(),
    };
    Ok((DeviceInfo::cpu(), executor))
}

pub(crate) fn list() -> Vec<DeviceInfo> {
    Vec::new()
}
