//! Lists the devices of this machine as a table, one column each: `cargo xtask devices`.

use versant_device::{Device, DeviceInfo, Limits};

fn main() {
    let devices = Device::all();
    for (name, value) in ROWS {
        let cells: Vec<String> = devices.iter().map(value).collect();
        print_row(name, &cells, &widths(&devices));
    }
    match Device::from_env() {
        Ok(device) => println!("\nOpened by default here: {}", device.info().name),
        Err(error) => println!("\nNone is opened by default here: {error}"),
    }
    println!("VERSANT_DEVICE selects: best, cpu, gpu, vulkan, metal, dx12, lavapipe, or part of a name.");
}

/// A row of the table: what it is called, and a device's entry.
type Row = (&'static str, fn(&DeviceInfo) -> String);

const ROWS: [Row; 15] = [
    ("device", |d| d.name.clone()),
    ("class", |d| format!("{:?}", d.class)),
    ("interface", |d| format!("{:?}", d.backend)),
    ("driver", |d| match d.driver.as_str() {
        "" => "-".to_string(),
        driver => driver.to_string(),
    }),
    ("storage buffers", |d| limit(d, |l| u64::from(l.max_storage_buffers))),
    ("binding, MiB", |d| limit(d, |l| l.max_binding_bytes >> 20)),
    ("buffer, MiB", |d| limit(d, |l| l.max_buffer_bytes >> 20)),
    ("workgroup memory, KiB", |d| limit(d, |l| u64::from(l.max_workgroup_bytes >> 10))),
    ("invocations", |d| limit(d, |l| u64::from(l.max_invocations))),
    ("subgroup", |d| match (d.limits.min_subgroup, d.limits.max_subgroup) {
        (_, 0) => "-".to_string(),
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low} to {high}"),
    }),
    ("f16 in kernels", |d| yes(d.features.f16)),
    ("subgroup operations", |d| yes(d.features.subgroups)),
    ("cooperative matrices", |d| yes(d.features.cooperative)),
    ("time stamps", |d| yes(d.features.timestamps)),
    ("read in place", |d| yes(d.features.mapped)),
];

/// The CPU's limits are as good as none.
fn limit(device: &DeviceInfo, of: impl Fn(&Limits) -> u64) -> String {
    let value = of(&device.limits);
    if value == of(&Limits::host()) && value != of(&Limits::webgpu()) {
        "any".to_string()
    } else {
        value.to_string()
    }
}

fn yes(has: bool) -> String {
    if has { "yes" } else { "-" }.to_string()
}

/// The width of each device's column.
fn widths(devices: &[DeviceInfo]) -> Vec<usize> {
    let width = |device| {
        let cells = ROWS.iter().map(|(_, value)| value(device).chars().count());
        cells.max().unwrap_or(0)
    };
    devices.iter().map(width).collect()
}

fn print_row(name: &str, cells: &[String], widths: &[usize]) {
    let columns: Vec<String> =
        cells.iter().zip(widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
    println!("{name:22}| {}", columns.join(" | ").trim_end());
}
