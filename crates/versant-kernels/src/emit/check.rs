//! What tests of emitted text share: naga as the judge, and a small builder of programs.

use crate::program::ProgramBinding;
use crate::{
    Block, DType, Instr, InstrKind, KernelSource, MapFn, Program, ReduceKind, ReduceOut, Reg, Shape, Step,
    Store, View,
};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

#[path = "../../tests/lint/mod.rs"]
mod lint;

/// WebGPU's default limits.
const BOUNDS: lint::Bounds = lint::Bounds { storage_buffers: 8, workgroup_bytes: 16 << 10, invocations: 256 };

/// Parses and validates a module.
pub(crate) fn validate(wgsl: &str) -> (naga::Module, ModuleInfo) {
    let shown = |e: String| -> ! { panic!("{e}\n{wgsl}") };
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_else(|e| shown(e.emit_to_string(wgsl)));
    let optional = Capabilities::SUBGROUP | Capabilities::SHADER_INT64 | Capabilities::SHADER_FLOAT16;
    let optional = optional | Capabilities::COOPERATIVE_MATRIX;
    let info = Validator::new(ValidationFlags::all(), optional)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| shown(e.emit_to_string(wgsl)));
    (module, info)
}

/// Translates a module to every back end's language; cooperative matrices to SPIR-V, where alone kernels use them.
pub(crate) fn translate(module: &naga::Module, info: &ModuleInfo) {
    spv::write_vec(module, info, &spv::Options::default(), None).expect("SPIR-V");
    let cooperative = |inner: &naga::TypeInner| matches!(inner, naga::TypeInner::CooperativeMatrix { .. });
    if module.types.iter().any(|(_, t)| cooperative(&t.inner)) {
        return;
    }
    let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 0), ..Default::default() };
    msl::write_string(module, info, &options, &Default::default()).expect("MSL");
    let options =
        hlsl::Options { special_constants_binding: Some(hlsl::BindTarget::default()), ..Default::default() };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &Default::default()).write(module, info, None).expect("HLSL");
}

/// Holds a kernel against the contract of [`KernelSource`] and WebGPU's default limits.
pub(crate) fn check_kernel(k: &KernelSource) {
    let (module, info) = validate(&k.wgsl);
    translate(&module, &info);
    let faults = lint::faults(&module, BOUNDS);
    assert!(faults.is_empty(), "{faults:?}\n{}", k.wgsl);
    for (_, var) in module.global_variables.iter() {
        let Some(at) = &var.binding else {
            continue;
        };
        assert_eq!(at.group, 0);
        let storage = |n: usize| (at.binding as usize).checked_sub(2).is_some_and(|b| b < n);
        match (at.binding, var.space) {
            (0, naga::AddressSpace::Uniform) => {
                let bytes = module.types[var.ty].inner.size(module.to_ctx());
                assert_eq!(bytes as usize, 4 * k.params.len(), "{}", k.wgsl);
            }
            (1, naga::AddressSpace::Uniform) => assert!(k.uses_scalars),
            (_, naga::AddressSpace::Storage { access }) => {
                let written = access.contains(naga::StorageAccess::STORE);
                assert!(storage(k.reads + k.writes) && written != storage(k.reads));
            }
            other => panic!("unexpected binding {other:?}"),
        }
    }
    let bound = module.global_variables.iter().filter(|v| v.1.binding.is_some());
    let uniforms = usize::from(!k.params.is_empty()) + usize::from(k.uses_scalars);
    assert_eq!(bound.count(), uniforms + k.reads + k.writes, "{}", k.wgsl);
    let [entry] = &module.entry_points[..] else {
        panic!("one entry point");
    };
    assert_eq!(entry.name, "main");
    assert!(k.grid.iter().all(|&g| g <= 65_535));
}

pub(crate) fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).expect("small rank")
}

/// A program under construction.
pub(crate) struct Build {
    pub p: Program,
    block: Block,
}

impl Build {
    pub fn new(rows: &[usize], cols: &[usize], reads: &[DType], writes: &[DType]) -> Build {
        let all = reads.iter().map(|&dtype| (dtype, false));
        let all = all.chain(writes.iter().map(|&dtype| (dtype, true)));
        Build {
            p: Program {
                rows: shape(rows),
                cols: shape(cols),
                bindings: all.map(|(dtype, written)| ProgramBinding { dtype, written }).collect(),
                steps: Vec::new(),
                regs: 0,
            },
            block: Block::default(),
        }
    }

    /// The domain of a column step.
    pub fn all(&self) -> Shape {
        shape(&[&self.p.rows[..], &self.p.cols[..]].concat())
    }

    /// Row values spread over the columns: a view of the rows as a view of rows and columns.
    pub fn spread(&self, view: &View) -> View {
        let mut view = view.clone();
        view.shape = self.all();
        view.strides.resize(view.shape.rank(), 0);
        for guard in &mut view.guards {
            guard.strides.resize(view.shape.rank(), 0);
        }
        view
    }

    pub fn push(&mut self, dtype: DType, kind: InstrKind) -> Reg {
        let reg = self.p.regs;
        self.p.regs += 1;
        self.block.instrs.push(Instr { reg, dtype, kind });
        reg
    }

    pub fn load(&mut self, binding: usize, view: View) -> Reg {
        let dtype = self.p.bindings[binding].dtype;
        self.push(dtype, InstrKind::Load { binding, view })
    }

    pub fn map(&mut self, f: &'static MapFn, args: &[Reg], operand: DType, dtype: DType) -> Reg {
        let mut three = [0; 3];
        three[..args.len()].copy_from_slice(args);
        let args = three;
        self.push(dtype, InstrKind::Map { f, args, operand })
    }

    pub fn store(&mut self, binding: usize, view: View, value: Reg) {
        let dtype = self.p.bindings[binding].dtype;
        self.block.stores.push(Store { binding, view, value, dtype });
    }

    /// Ends a row step.
    pub fn row(&mut self) {
        self.p.steps.push(Step::Row(std::mem::take(&mut self.block)));
    }

    /// Ends a column step; returns the registers of its reductions.
    pub fn col(&mut self, outs: &[(ReduceKind, Reg, DType)]) -> Vec<Reg> {
        let mut reduces = Vec::new();
        for &(kind, value, dtype) in outs {
            reduces.push(ReduceOut { kind, value, dtype, out: self.p.regs });
            self.p.regs += 1;
        }
        let regs = reduces.iter().map(|r| r.out).collect();
        let block = std::mem::take(&mut self.block);
        self.p.steps.push(Step::Col(block, reduces));
        regs
    }
}

/// Sums of the rows of a matrix.
pub(crate) fn row_sums(rows: usize, cols: usize) -> Program {
    let mut b = Build::new(&[rows], &[cols], &[DType::F32], &[DType::F32]);
    let value = b.load(0, View::contiguous(shape(&[rows, cols])));
    let sum = b.col(&[(ReduceKind::Sum, value, DType::F32)])[0];
    b.store(1, View::contiguous(shape(&[rows])), sum);
    b.row();
    b.p
}
