//! One instruction or store as WGSL.

use super::block::Emitter;
use super::{stored_type, value_type};
use crate::{DType, Instr, InstrKind, MapFn, Reg, Store, View};

impl Emitter<'_> {
    /// The expression of an instruction's value. Helper values are written in front of it.
    pub fn instr(&mut self, instr: &Instr) -> String {
        let dtype = instr.dtype;
        match &instr.kind {
            InstrKind::Const(bits) => self.constant(dtype, *bits),
            InstrKind::Scalar(word) => {
                let at = self.params.push(*word);
                from_bits(dtype, &format!("scalars[{at} >> 2u][{at} & 3u]"))
            }
            InstrKind::Load { binding, view } => {
                let at = self.affine(&view.strides, view.offset);
                let guard = self.guards(&view.guards);
                self.load(*binding, dtype, &at, guard)
            }
            InstrKind::LoadAt { binding, view, index, stride, bound } => {
                let (at, inside) = self.offset_at(view, *index, *stride, *bound);
                self.load(*binding, dtype, &at, Some(inside))
            }
            InstrKind::Index(view) => {
                let value = self.affine(&view.strides, view.offset);
                match dtype {
                    DType::I32 => value,
                    other => format!("{}({value})", value_type(other)),
                }
            }
            InstrKind::InBounds(view) => {
                let guard = self.guards(&view.guards);
                guard.unwrap_or_else(|| "true".to_owned())
            }
            InstrKind::Map { f, args, operand } => expand(f, args, *operand),
            InstrKind::Cast { arg, from } => self.cast(*arg, *from, dtype),
            InstrKind::Bitcast { arg, from } => {
                let bits = to_bits(*from, &format!("r{arg}"));
                from_bits(dtype, &bits)
            }
            InstrKind::Philox { index, key } => {
                format!("v_philox_word(r{index}, r{}, r{})", key[0], key[1])
            }
            InstrKind::Acc => "acc".to_owned(),
        }
    }

    /// Writes the stores of a block.
    pub fn stores(&mut self, stores: &[Store]) {
        for store in stores {
            let at = self.affine(&store.view.strides, store.view.offset);
            let value = format!("r{}", store.value);
            let value = match store.dtype {
                DType::Bool => format!("u32({value})"),
                _ => value,
            };
            self.here(&format!("buf{}[u32({at})] = {value};", store.binding));
        }
    }

    /// A constant of the type. Only 0 and ±1 are written out: any other may come from a shape (the 1/n of a mean),
    /// and a float that is not finite may not be written in WGSL.
    fn constant(&mut self, dtype: DType, bits: u32) -> String {
        const ONE: u32 = 1f32.to_bits();
        const MINUS_ONE: u32 = (-1f32).to_bits();
        let literal = match (dtype, bits) {
            (DType::F32, 0) => "0.0",
            (DType::F32, ONE) => "1.0",
            (DType::F32, MINUS_ONE) => "-1.0",
            (DType::I32, 0) => "0i",
            (DType::I32, 1) => "1i",
            (DType::I32, u32::MAX) => "-1i",
            (DType::U32, 0) => "0u",
            (DType::U32, 1) => "1u",
            (DType::Bool, 0) => "false",
            (DType::Bool, _) => "true",
            _ => {
                let word = self.params.push(bits);
                return from_bits(dtype, &word);
            }
        };
        literal.to_owned()
    }

    /// Offset and validity of a [`InstrKind::LoadAt`].
    fn offset_at(&mut self, view: &View, index: Reg, stride: isize, bound: usize) -> (String, String) {
        let base = self.affine(&view.strides, view.offset);
        let bound = self.params.push(bound as u32);
        let bound = self.hoist(bound);
        let stride = self.params.push_i32(stride);
        let stride = self.hoist(stride);
        // A bound of 0 makes the clamped index meaningless; the condition then refuses the load.
        let clamped = match self.reg(index).0 {
            DType::I32 => format!("min(max(r{index}, 0i), i32({bound}) - 1i)"),
            _ => format!("i32(min(r{index}, {bound} - 1u))"),
        };
        let mut inside = format!("{bound} != 0u");
        if let Some(guard) = self.guards(&view.guards) {
            inside = format!("{guard} && {inside}");
        }
        (format!("{base} + {clamped} * {stride}"), inside)
    }

    /// A load, from element 0 and then discarded where the guard fails.
    fn load(&mut self, binding: usize, dtype: DType, at: &str, guard: Option<String>) -> String {
        let stored = self.p.bindings[binding].dtype;
        let Some(guard) = guard else {
            return from_stored(stored, dtype, &format!("buf{binding}[u32({at})]"));
        };
        let n = self.fresh();
        self.here(&format!("let g{n} = {guard};"));
        let word = format!("buf{binding}[select(0u, u32({at}), g{n})]");
        let value = from_stored(stored, dtype, &word);
        let zero = match dtype {
            DType::F32 => "0.0",
            DType::Bool => "false",
            DType::I32 => "0i",
            _ => "0u",
        };
        format!("select({zero}, {value}, g{n})")
    }

    /// Conversion of a register.
    fn cast(&mut self, arg: Reg, from: DType, to: DType) -> String {
        let arg = format!("r{arg}");
        match (from, to) {
            (from, to) if from == to => arg,
            (DType::F32, DType::I32 | DType::U32 | DType::Bool) => {
                format!("v_f32_to_{}({arg})", value_type(to))
            }
            (DType::I32, DType::Bool) => format!("{arg} != 0i"),
            (DType::U32, DType::Bool) => format!("{arg} != 0u"),
            // What remains is exact or wraps as WGSL defines it: integers to float and to each other, bool to both.
            (_, to) => format!("{}({arg})", value_type(to)),
        }
    }
}

/// The expression of a table row over registers.
fn expand(f: &MapFn, args: &[Reg; 3], operand: DType) -> String {
    let mut out = f.wgsl.replace("{t}", value_type(operand));
    for (name, arg) in ["{a}", "{b}", "{c}"].iter().zip(args).take(f.arity) {
        out = out.replace(name, &format!("r{arg}"));
    }
    out
}

/// A value as the `u32` that holds its bits.
pub(super) fn to_bits(dtype: DType, value: &str) -> String {
    match dtype {
        DType::U32 => value.to_owned(),
        DType::Bool => format!("u32({value})"),
        _ => format!("bitcast<u32>({value})"),
    }
}

/// A value of the type from the `u32` that holds its bits.
pub(super) fn from_bits(dtype: DType, bits: &str) -> String {
    match dtype {
        DType::U32 => bits.to_owned(),
        DType::Bool => format!("({bits} != 0u)"),
        other => format!("bitcast<{}>({bits})", value_type(other)),
    }
}

/// A value of a type from an element of a buffer, which usually has the same.
fn from_stored(stored: DType, dtype: DType, word: &str) -> String {
    match (stored, dtype) {
        (a, b) if a == b && a != DType::Bool => word.to_owned(),
        (a, b) if stored_type(a) == "u32" => from_bits(b, word),
        (a, b) => from_bits(b, &to_bits(a, word)),
    }
}
