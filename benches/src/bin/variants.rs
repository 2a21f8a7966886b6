//! Writes the WGSL of every tuned kernel to a folder, for `cargo xtask bench isa`; prints a line of JSON each.
//!
//! Contractions: every row of the table of variants, each on matrix products of all layouts and on the three
//! convolutions. Everything else: what plans for a graphics card with WebGPU's limits (the null device) make of
//! the kernels of the benchmark.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::json;
use versant::graph::latest_plan;
use versant::prelude::Device;
use versant_benches::Result;
use versant_benches::kernels::{KERNELS, run};
use versant_kernels::contract::{contraction_with, variants};
use versant_kernels::program::ProgramBinding;
use versant_kernels::{
    Block, Caps, Class, Contraction, Conv, ConvKind, DType, Instr, InstrKind, KernelSource, MatMul,
    Precision, Program, Shape, Step, Store, Target, View,
};

/// Writes kernels to files.
#[derive(Parser)]
struct Options {
    /// The folder.
    folder: PathBuf,
    /// Software adapters' variants, too; they are made for no graphics card.
    #[arg(long)]
    all: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.folder)?;
    let mut out = Out { folder: &options.folder, seen: BTreeSet::new() };
    let classes: &[Class] =
        if options.all { &[Class::Discrete, Class::Software] } else { &[Class::Discrete] };
    for (problem, contraction) in problems() {
        for caps in classes.iter().flat_map(|&class| caps(class)) {
            contractions(&problem, &contraction, &caps, &mut out)?;
        }
    }
    plans(&mut out)
}

/// Adapters with nothing optional, and with everything that a variant may ask for.
fn caps(class: Class) -> [Caps; 2] {
    let least = Caps::webgpu(class);
    // lavapipe has subgroups of eight.
    let [min_subgroup, max_subgroup] = if class == Class::Software { [8, 8] } else { [32, 64] };
    let most = Caps {
        min_subgroup,
        max_subgroup,
        int64: class == Class::Software,
        f16: true,
        coop_matrix: true,
        workgroup_bytes: 64 << 10,
        invocations: 1024,
        precision: Precision::F16,
        ..least
    };
    [least, most]
}

/// Where the files go.
struct Out<'a> {
    folder: &'a Path,
    seen: BTreeSet<String>,
}

impl Out<'_> {
    fn write(&mut self, family: &str, problem: &str, variant: &str, wgsl: &str) -> Result<()> {
        let name = file_name(&format!("{problem} {variant}"));
        if wgsl.is_empty() || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let file = self.folder.join(format!("{name}.wgsl"));
        std::fs::write(&file, wgsl)?;
        let file = file.to_string_lossy();
        println!("{}", json!({"family": family, "problem": problem, "variant": variant, "file": file}));
        Ok(())
    }
}

/// Letters, digits and underscores only.
fn file_name(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    clean.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

fn contractions(problem: &str, c: &Contraction, caps: &Caps, out: &mut Out<'_>) -> Result<()> {
    let family = if matches!(c, Contraction::MatMul(_)) { "matmul" } else { "conv" };
    for id in variants(c, caps) {
        let kernels = contraction_with(c, store_all(c), "", Target::Gpu(*caps), id);
        // A split sum's second launch is the same for all.
        if let Some(launch) = kernels.launches.first() {
            let source: &KernelSource = &launch.source;
            out.write(family, problem, &id.label(), &source.wgsl)?;
        }
    }
    Ok(())
}

/// An epilogue that stores the accumulator.
fn store_all(c: &Contraction) -> Program {
    let rows = c.output_shape();
    let acc = Instr { reg: 0, dtype: DType::F32, kind: InstrKind::Acc };
    let store = Store { binding: 0, view: View::contiguous(rows), value: 0, dtype: DType::F32 };
    Program {
        rows,
        cols: Shape::SCALAR,
        bindings: vec![ProgramBinding { dtype: DType::F32, written: true }],
        steps: vec![Step::Row(Block { instrs: vec![acc], stores: vec![store] })],
        regs: 1,
    }
}

/// What the variants are made for: names and descriptions.
fn problems() -> Vec<(String, Contraction)> {
    const N: usize = 1024;
    let square = Shape::new(&[N, N]).expect("two dimensions");
    let dense = View::contiguous(square);
    let turned = View { strides: dense.strides.iter().rev().copied().collect(), ..dense.clone() };
    let layouts = [("NN", &dense, &dense), ("NT", &dense, &turned), ("TN", &turned, &dense)];
    let mut all: Vec<(String, Contraction)> = Vec::new();
    let product = |[m, n]: [usize; 2], a: &View, b: &View| {
        let (a, b, types) = (a.clone(), b.clone(), [DType::F32; 2]);
        Contraction::MatMul(MatMul { batch: Shape::SCALAR, m, n, k: N, a, b, types })
    };
    for (name, a, b) in layouts {
        all.push((format!("matmul {name}"), product([N, N], a, b)));
    }
    // One row times a matrix, which is how a network answers a single question.
    let line = |dims: [usize; 2]| View::contiguous(Shape::new(&dims).expect("two dimensions"));
    for (name, b) in [("row NN", &dense), ("row NT", &turned)] {
        all.push((format!("matmul {name}"), product([1, N], &line([1, N]), b)));
    }
    // A matrix times one column, and few rows times a matrix that lies along k.
    all.push(("matmul column".into(), product([N, 1], &dense, &line([N, 1]))));
    all.push(("matmul 4 rows NT".into(), product([4, N], &line([4, N]), &turned)));
    let (forward, dx, dw) = (ConvKind::Forward, ConvKind::InputGrad, ConvKind::WeightGrad);
    for (name, kind, taps, groups) in [
        ("forward", forward, 3, 1),
        ("dx", dx, 3, 1),
        ("dw", dw, 3, 1),
        ("1x1 forward", forward, 1, 1),
        ("1x1 dw", dw, 1, 1),
        ("depthwise forward", forward, 3, 64),
        ("depthwise dx", dx, 3, 64),
    ] {
        let mut conv = Conv {
            kind,
            n: 4,
            groups,
            c_in: 64,
            c_out: 64,
            input: [56; 2],
            kernel: [taps; 2],
            output: [56; 2],
            stride: [1; 2],
            padding: [taps / 2; 2],
            dilation: [1; 2],
            a: View::contiguous(Shape::SCALAR),
            b: View::contiguous(Shape::SCALAR),
            types: [DType::F32; 2],
        };
        let [a, b] = conv.operand_shapes();
        (conv.a, conv.b) = (View::contiguous(a), View::contiguous(b));
        all.push((format!("conv {name}"), Contraction::Conv(conv)));
    }
    all
}

/// The kernels of the benchmark that are not plain contractions.
fn plans(out: &mut Out<'_>) -> Result<()> {
    for kernel in KERNELS.iter().filter(|k| !k.name.starts_with("K1") && !k.name.starts_with("K2")) {
        let mut limits = Device::null().info().limits;
        for [min, max] in [[0, 0], [32, 64]] {
            (limits.min_subgroup, limits.max_subgroup) = (min, max);
            let device = Device::null_with(limits);
            run(&device, &kernel.prepare(&device))?;
            let plan = latest_plan(&device).ok_or("no plan was made")?;
            for (i, launch) in plan.launches.iter().enumerate() {
                let family = if kernel.name.starts_with("attention") { "attention" } else { "generated" };
                let problem = format!("{} launch {i}", kernel.name);
                let subgroups = launch.source.wgsl.contains("subgroup");
                let variant = format!("{}{}", launch.label, if subgroups { " by subgroups" } else { "" });
                out.write(family, &problem, &variant, &launch.source.wgsl)?;
            }
        }
    }
    Ok(())
}
