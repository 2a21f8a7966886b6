//! One instruction or store as WGSL.

use super::block::Emitter;
use super::wide::{Access, Array, WIDTH, part, vector};
use super::{stored_type, value_type};
use crate::{DType, Instr, InstrKind, MapFn, Reg, Store, View};

impl Emitter<'_> {
    /// The expression of an instruction's value. Helper values are written in front of it.
    pub fn instr(&mut self, instr: &Instr) -> String {
        let dtype = instr.dtype;
        let wide = self.wide.regs[instr.reg as usize];
        match &instr.kind {
            InstrKind::Const(bits) => self.constant(dtype, *bits),
            InstrKind::Scalar(word) => {
                let at = self.params.push(*word);
                from_bits(dtype, &format!("scalars[{at} >> 2u][{at} & 3u]"))
            }
            InstrKind::Load { binding, view } => self.load_view(*binding, dtype, view),
            InstrKind::LoadAt { .. } => self.load_at(dtype, &instr.kind),
            InstrKind::Index(view) => {
                let convert = |value: &str| match dtype {
                    DType::I32 => value.to_owned(),
                    other => format!("{}({value})", value_type(other)),
                };
                if !wide {
                    return convert(&self.affine(&view.strides, view.offset));
                }
                let values = self.spread(&view.strides, view.offset);
                vector(value_type(dtype), |k| convert(&values[k]))
            }
            InstrKind::InBounds(view) if wide => {
                let inside = self.guards_each(view);
                vector("bool", |k| inside[k].clone().unwrap_or_default())
            }
            InstrKind::InBounds(view) => {
                let guard = self.guards(&view.guards);
                guard.unwrap_or_else(|| "true".to_owned())
            }
            InstrKind::Map { f, args, operand } => {
                self.lanes(wide, dtype, |name| expand(f, args, *operand, name))
            }
            InstrKind::Cast { arg, from } => self.lanes(wide, dtype, |name| cast(&name(*arg), *from, dtype)),
            InstrKind::Bitcast { arg, from } => {
                self.lanes(wide, dtype, |name| from_bits(dtype, &to_bits(*from, &name(*arg))))
            }
            InstrKind::Philox { index, key: [low, high] } => self.lanes(wide, dtype, |name| {
                format!("v_philox_word({}, {}, {})", name(*index), name(*low), name(*high))
            }),
            InstrKind::Acc => "acc".to_owned(),
        }
    }

    /// Writes the stores of a block.
    pub fn stores(&mut self, stores: &[Store]) {
        let rank = self.p.rows.rank();
        for store in stores {
            let Store { binding, view, value, dtype } = store;
            let stored = |value: String| match dtype {
                DType::Bool => format!("u32({value})"),
                _ => value,
            };
            let half = self.half(*binding);
            if self.wide.axis.at(rank, view.strides.len()).is_none() {
                let at = self.affine(&view.strides, view.offset);
                self.put(*binding, &format!("u32({at})"), &stored(format!("r{value}")));
            } else if self.wide.axis.access(rank, view) == Access::Whole && self.has_fours(*binding) {
                let at = self.affine(&view.strides, view.offset);
                let mut four = match self.wide.regs[*value as usize] {
                    true if *dtype != DType::Bool => format!("r{value}"),
                    _ => vector(stored_type(*dtype), |k| stored(self.name(*value, k))),
                };
                if let Some(half) = half {
                    four = format!("v_pack_{half}({four})");
                }
                self.here(&format!("buf{binding}[u32({at}) >> 2u] = {four};"));
            } else if self.wide.short && !self.loops() {
                let stride = self.wide.axis.stride(rank, &view.strides);
                let (base, stride) = (self.affine(&view.strides, view.offset), self.params.push_i32(stride));
                // A compiler that knew how often would write the loop out.
                let four = self.params.push(WIDTH as u32);
                let value = stored(self.name(*value, 0).replace(".x", "[each]"));
                self.nested(&format!("for (var each = 0u; each < {four}; each += 1u) {{"), |e| {
                    e.put(*binding, &format!("u32({base} + i32(each) * {stride})"), &value);
                });
            } else {
                let at = self.spread(&view.strides, view.offset);
                for (k, at) in at.iter().enumerate() {
                    self.put(*binding, &format!("u32({at})"), &stored(self.name(*value, k)));
                }
            }
        }
    }

    /// The text of register `reg` for the `k`-th of four elements.
    pub fn name(&self, reg: Reg, k: usize) -> String {
        let name = format!("r{reg}");
        if self.wide.regs[reg as usize] { part(&name, k) } else { name }
    }

    /// An expression over registers, for each of the four elements if `wide`.
    fn lanes(&self, wide: bool, dtype: DType, f: impl Fn(&dyn Fn(Reg) -> String) -> String) -> String {
        match wide {
            true => vector(value_type(dtype), |k| f(&|reg| self.name(reg, k))),
            false => f(&|reg| format!("r{reg}")),
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

    /// The value of a [`InstrKind::Load`].
    fn load_view(&mut self, binding: usize, dtype: DType, view: &View) -> String {
        match self.wide.axis.access(self.p.rows.rank(), view) {
            Access::Each => {}
            access => {
                let at = self.affine(&view.strides, view.offset);
                if access == Access::Same {
                    let guard = self.guards(&view.guards);
                    return self.load(binding, dtype, &at, guard);
                } else if self.has_fours(binding) {
                    let guard = self.guards(&view.guards);
                    return self.load_whole(binding, dtype, &at, guard);
                }
            }
        }
        let at = self.spread(&view.strides, view.offset);
        let guards = self.guards_each(view);
        let values: Vec<String> =
            at.iter().zip(guards).map(|(at, guard)| self.load(binding, dtype, at, guard)).collect();
        vector(value_type(dtype), |k| values[k].clone())
    }

    /// The value of a [`InstrKind::LoadAt`].
    fn load_at(&mut self, dtype: DType, kind: &InstrKind) -> String {
        let InstrKind::LoadAt { binding, view, index, stride, bound } = kind else {
            unreachable!("the caller matched it")
        };
        let access = self.wide.access_at(self.p.rows.rank(), view, *index, *stride);
        let bound = self.params.push(*bound as u32);
        let bound = self.hoist(bound);
        let stride = self.params.push_i32(*stride);
        let stride = self.hoist(stride);
        let by_sign = self.reg(*index).0 == DType::I32;
        // A bound of 0 makes the clamped index meaningless; the condition then refuses the load.
        let place = |base: &str, index: &str, guard: Option<String>| {
            let clamped = match by_sign {
                true => format!("min(max({index}, 0i), i32({bound}) - 1i)"),
                false => format!("i32(min({index}, {bound} - 1u))"),
            };
            let guard = guard.map_or(String::new(), |guard| format!("{guard} && "));
            (format!("{base} + {clamped} * {stride}"), Some(format!("{guard}{bound} != 0u")))
        };
        if access == Access::Each || (access == Access::Whole && !self.has_fours(*binding)) {
            let bases = self.spread(&view.strides, view.offset);
            let guards = self.guards_each(view);
            let each = bases.iter().zip(guards).enumerate().map(|(k, (base, guard))| {
                let (at, inside) = place(base, &self.name(*index, k), guard);
                self.load(*binding, dtype, &at, inside)
            });
            let values: Vec<String> = each.collect();
            return vector(value_type(dtype), |k| values[k].clone());
        }
        let base = self.affine(&view.strides, view.offset);
        let guard = self.guards(&view.guards);
        let (at, inside) = place(&base, &format!("r{index}"), guard);
        match access {
            Access::Whole => self.load_whole(*binding, dtype, &at, inside),
            _ => self.load(*binding, dtype, &at, inside),
        }
    }

    /// Whether four words of a buffer can be accessed at once.
    fn has_fours(&self, binding: usize) -> bool {
        self.wide.bindings[binding] != Array::Words
    }

    /// The name of a buffer's type, if its elements take half a word.
    fn half(&self, binding: usize) -> Option<&'static str> {
        let dtype = self.p.bindings[binding].dtype;
        dtype.is_half().then(|| dtype.name())
    }

    /// The word that holds a half in a buffer of them, and the half's index.
    fn word_of_half(&mut self, binding: usize, index: &str) -> [String; 2] {
        let n = self.fresh();
        self.here(&format!("let i{n} = {index};"));
        let word = match self.wide.bindings[binding] {
            Array::Words => format!("buf{binding}[i{n} >> 1u]"),
            _ => format!("buf{binding}[i{n} >> 2u][(i{n} >> 1u) & 1u]"),
        };
        [word, format!("i{n}")]
    }

    /// Writes an element. Of a word with two, the other stays: one invocation writes both.
    fn put(&mut self, binding: usize, index: &str, value: &str) {
        let line = match self.half(binding) {
            Some(half) => {
                let [word, i] = self.word_of_half(binding, index);
                format!("{word} = v_with_{half}({word}, {i}, {value});")
            }
            None => format!("{} = {value};", self.element(binding, index)),
        };
        self.here(&line);
    }

    /// An element of a buffer: a place, but for arrays that are only read.
    fn element(&mut self, binding: usize, index: &str) -> String {
        if let Some(half) = self.half(binding) {
            let [word, i] = self.word_of_half(binding, index);
            return format!("v_at_{half}({word}, {i})");
        }
        let array = self.wide.bindings[binding];
        if array == Array::Words {
            return format!("buf{binding}[{index}]");
        }
        let n = self.fresh();
        self.here(&format!("let i{n} = {index};"));
        if array == Array::Fours {
            return format!("buf{binding}[i{n} >> 2u][i{n} & 3u]");
        }
        let word = format!("u32(buf{binding}[i{n} >> 2u][(i{n} >> 1u) & 1u] >> ((i{n} & 1u) << 5u))");
        of_words(self.p.bindings[binding].dtype, &word, "")
    }

    /// A load, from element 0 and then discarded where the guard fails.
    fn load(&mut self, binding: usize, dtype: DType, at: &str, guard: Option<String>) -> String {
        let stored = self.p.bindings[binding].dtype;
        let Some(guard) = guard else {
            let word = self.element(binding, &format!("u32({at})"));
            return from_stored(stored, dtype, &word);
        };
        let n = self.fresh();
        self.here(&format!("let g{n} = {guard};"));
        let word = self.element(binding, &format!("select(0u, u32({at}), g{n})"));
        let value = from_stored(stored, dtype, &word);
        format!("select({}, {value}, g{n})", zero(dtype))
    }

    /// The same for four words.
    fn load_whole(&mut self, binding: usize, dtype: DType, at: &str, guard: Option<String>) -> String {
        let stored = self.p.bindings[binding].dtype;
        let n = self.fresh();
        let index = match &guard {
            None => format!("u32({at}) >> 2u"),
            Some(guard) => {
                self.here(&format!("let g{n} = {guard};"));
                format!("select(0u, u32({at}) >> 2u, g{n})")
            }
        };
        let mut value = format!("buf{binding}[{index}]");
        if self.wide.bindings[binding] == Array::Pairs {
            value = of_words(stored, &format!("v_words({value})"), "vec4");
        }
        if let Some(half) = self.half(binding) {
            value = format!("v_four_{half}({value})");
        } else if stored != dtype || dtype == DType::Bool {
            self.here(&format!("let m{n} = {value};"));
            value = vector(value_type(dtype), |k| from_stored(stored, dtype, &part(&format!("m{n}"), k)));
        }
        match guard {
            None => value,
            Some(_) => format!("select(vec4<{}>({}), {value}, g{n})", value_type(dtype), zero(dtype)),
        }
    }

    /// An affine form for each of the four elements.
    fn spread(&mut self, strides: &[isize], offset: isize) -> [String; WIDTH] {
        let stride = self.wide.axis.stride(self.p.rows.rank(), strides);
        let base = self.affine(strides, offset);
        let n = self.fresh();
        self.here(&format!("let b{n} = {base};"));
        let step = match stride {
            0 | 1 => String::new(),
            _ => {
                let stride = self.params.push_i32(stride);
                format!(" * {}", self.hoist(stride))
            }
        };
        std::array::from_fn(|k| match (stride, k) {
            (0, _) | (_, 0) => format!("b{n}"),
            _ => format!("b{n} + {k}i{step}"),
        })
    }

    /// The condition that every guard holds, for each of the four elements; `None` where there are none.
    fn guards_each(&mut self, view: &View) -> [Option<String>; WIDTH] {
        let mut terms = [const { Vec::<String>::new() }; WIDTH];
        for guard in &view.guards {
            let forms = self.spread(&guard.strides, guard.offset);
            let extent = self.params.push(guard.extent as u32);
            let extent = self.hoist(extent);
            for (terms, form) in terms.iter_mut().zip(&forms) {
                terms.push(format!("u32({form}) < {extent}"));
            }
        }
        terms.map(|terms| (!terms.is_empty()).then(|| terms.join(" && ")))
    }
}

/// The zero of a type.
fn zero(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "0.0",
        DType::Bool => "false",
        DType::I32 => "0i",
        _ => "0u",
    }
}

/// Conversion of a register.
fn cast(arg: &str, from: DType, to: DType) -> String {
    match (from, to) {
        (from, to) if from == to => arg.to_owned(),
        (DType::F32, DType::I32 | DType::U32 | DType::Bool) => {
            format!("v_f32_to_{}({arg})", value_type(to))
        }
        (DType::I32, DType::Bool) => format!("{arg} != 0i"),
        (DType::U32, DType::Bool) => format!("{arg} != 0u"),
        // What remains is exact or wraps as WGSL defines it: integers to float and to each other, bool to both.
        (_, to) => format!("{}({arg})", value_type(to)),
    }
}

/// The expression of a table row over registers.
fn expand(f: &MapFn, args: &[Reg; 3], operand: DType, name: &dyn Fn(Reg) -> String) -> String {
    let mut out = f.wgsl.replace("{t}", value_type(operand));
    for (place, arg) in ["{a}", "{b}", "{c}"].iter().zip(args).take(f.arity) {
        out = out.replace(place, &name(*arg));
    }
    out
}
/// What a buffer of a type stores, from a `u32` or a vector of them.
fn of_words(stored: DType, words: &str, vector: &str) -> String {
    match (stored_type(stored), vector) {
        ("u32", _) => words.to_owned(),
        (of, "") => format!("bitcast<{of}>({words})"),
        (of, vector) => format!("bitcast<{vector}<{of}>>({words})"),
    }
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
        (a, _) if a.is_half() => word.to_owned(),
        (a, b) if a == b && a != DType::Bool => word.to_owned(),
        (a, b) if stored_type(a) == "u32" => from_bits(b, word),
        (a, b) => from_bits(b, &to_bits(a, word)),
    }
}
