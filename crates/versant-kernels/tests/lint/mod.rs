//! Lints of a WGSL module that neither naga nor wgpu makes: how much workgroup memory it takes, how many storage
//! buffers, and whether every invocation of a workgroup reaches each barrier. Used by the unit tests for what the
//! families generate, and by tests/shaders.rs for the files.

use std::collections::HashSet;

use naga::{
    AddressSpace, Block, BuiltIn, Expression, Function, Handle, LocalVariable, Module, Statement,
    StorageAccess,
};

/// What a module may take.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub storage_buffers: usize,
    pub workgroup_bytes: u32,
    pub invocations: u32,
}

/// Every fault of a valid module, in words.
pub fn faults(module: &Module, bounds: Bounds) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut storage, mut workgroup) = (0, 0);
    for (_, variable) in module.global_variables.iter() {
        match variable.space {
            AddressSpace::Storage { .. } => storage += 1,
            AddressSpace::WorkGroup => {
                workgroup += module.types[variable.ty].inner.size(module.to_ctx());
            }
            _ => {}
        }
    }
    if storage > bounds.storage_buffers {
        faults.push(format!("{storage} storage buffers, at most {}", bounds.storage_buffers));
    }
    if workgroup > bounds.workgroup_bytes {
        faults.push(format!("{workgroup} bytes of workgroup memory, at most {}", bounds.workgroup_bytes));
    }
    for entry in &module.entry_points {
        let size: u32 = entry.workgroup_size.iter().product();
        if size > bounds.invocations {
            faults.push(format!("{size} invocations in `{}`, at most {}", entry.name, bounds.invocations));
        }
        faults.extend(barrier_faults(module, &entry.function, &entry.name));
    }
    for (_, function) in module.functions.iter() {
        // What a caller passes is not known here, and is taken to differ between invocations.
        faults.extend(barrier_faults(module, function, function.name.as_deref().unwrap_or("?")));
    }
    faults
}

fn barrier_faults(module: &Module, function: &Function, name: &str) -> Option<String> {
    let mut walk = Walk {
        module,
        function,
        differing: HashSet::new(),
        calls: HashSet::new(),
        returned: false,
        jumps: Vec::new(),
        faults: 0,
    };
    // What differs can only grow, so this ends.
    loop {
        let before = (walk.differing.len(), walk.calls.len());
        (walk.returned, walk.faults) = (false, 0);
        walk.block(&function.body, true);
        if before == (walk.differing.len(), walk.calls.len()) {
            break;
        }
    }
    (walk.faults > 0).then(|| format!("a barrier in `{name}` that not every invocation reaches"))
}

/// A loop or switch around a statement.
#[derive(Default)]
struct Jumps {
    is_switch: bool,
    /// Whether some invocations may have left it while others went on.
    broke: bool,
    /// Whether some invocations may be ahead in its continuing block.
    continued: bool,
}

/// The walk over one function: which values and which flow are the same in a whole workgroup.
struct Walk<'a> {
    module: &'a Module,
    function: &'a Function,
    /// Variables whose value may differ between invocations.
    differing: HashSet<Handle<LocalVariable>>,
    /// Calls whose result may differ.
    calls: HashSet<Handle<Expression>>,
    /// Whether some invocations may have returned while others went on.
    returned: bool,
    jumps: Vec<Jumps>,
    faults: usize,
}

impl Walk<'_> {
    /// Walks a block that all invocations enter together, or not; returns whether they leave it so.
    fn block(&mut self, block: &Block, mut together: bool) -> bool {
        for statement in block.iter() {
            self.statement(statement, together);
            let gone = |j: &Jumps| j.broke || j.continued;
            together &= !self.returned && !self.jumps.iter().any(gone);
        }
        together
    }

    fn statement(&mut self, statement: &Statement, together: bool) {
        match statement {
            Statement::Block(block) => {
                self.block(block, together);
            }
            Statement::If { condition, accept, reject } => {
                let together = together && self.same(*condition);
                self.block(accept, together);
                self.block(reject, together);
            }
            Statement::Switch { selector, cases } => {
                let together = together && self.same(*selector);
                self.jumps.push(Jumps { is_switch: true, ..Jumps::default() });
                for case in cases {
                    self.block(&case.body, together);
                }
                self.jumps.pop();
            }
            Statement::Loop { body, continuing, break_if } => {
                self.round(body, continuing, *break_if, together);
            }
            Statement::Break if !together => {
                self.jumps.last_mut().expect("a break is inside a loop or switch").broke = true;
            }
            Statement::Continue if !together => {
                let around = self.jumps.iter_mut().rev().find(|j| !j.is_switch);
                around.expect("a continue is inside a loop").continued = true;
            }
            Statement::Return { .. } if !together => self.returned = true,
            Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } if !together => {
                self.faults += 1;
            }
            Statement::Store { pointer, value }
                if !(together && self.same(*value) && self.same_place(*pointer)) =>
            {
                self.differ(*pointer);
            }
            Statement::Call { function, arguments, result } => {
                let callee = &self.module.functions[*function];
                if !together && has_barrier(self.module, &callee.body) {
                    self.faults += 1;
                }
                let plain = together && self.reads_the_same(callee);
                if !(plain && arguments.iter().all(|&a| self.same(a))) {
                    arguments.iter().for_each(|&a| self.differ(a));
                    self.calls.extend(*result);
                }
            }
            _ => {}
        }
    }

    /// The first round of a loop, and if some invocations may leave it alone, a later one.
    fn round(
        &mut self,
        body: &Block,
        continuing: &Block,
        break_if: Option<Handle<Expression>>,
        together: bool,
    ) {
        self.jumps.push(Jumps::default());
        for together in [together, false] {
            self.block(body, together);
            let jumps = self.jumps.last_mut().expect("it was pushed");
            jumps.continued = false;
            let together = together && !jumps.broke && !self.returned;
            self.block(continuing, together);
            let stays = break_if.is_none_or(|c| self.same(c));
            let jumps = self.jumps.last_mut().expect("it was pushed");
            jumps.broke |= !stays;
            if !jumps.broke && !self.returned {
                break;
            }
        }
        self.jumps.pop();
    }

    /// Whether an expression has one value, or names one place, in a whole workgroup.
    fn same(&self, handle: Handle<Expression>) -> bool {
        let all = |parts: &[Handle<Expression>]| parts.iter().all(|&p| self.same(p));
        match &self.function.expressions[handle] {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_)
            | Expression::WorkGroupUniformLoadResult { .. }
            | Expression::ArrayLength(_) => true,
            Expression::Compose { components, .. } => all(components),
            Expression::Access { base, index } => all(&[*base, *index]),
            Expression::AccessIndex { base, .. } => self.same(*base),
            Expression::Splat { value, .. } => self.same(*value),
            Expression::Swizzle { vector, .. } => self.same(*vector),
            Expression::FunctionArgument(i) => {
                let binding = &self.function.arguments[*i as usize].binding;
                let built_in = |b| *binding == Some(naga::Binding::BuiltIn(b));
                built_in(BuiltIn::WorkGroupId) || built_in(BuiltIn::NumWorkGroups)
            }
            Expression::GlobalVariable(global) => read_only(self.module.global_variables[*global].space),
            Expression::LocalVariable(local) => !self.differing.contains(local),
            Expression::Load { pointer } => self.same(*pointer),
            Expression::Unary { expr, .. } | Expression::As { expr, .. } => self.same(*expr),
            Expression::Binary { left, right, .. } => all(&[*left, *right]),
            Expression::Select { condition, accept, reject } => all(&[*condition, *accept, *reject]),
            Expression::Relational { argument, .. } => self.same(*argument),
            Expression::Math { arg, arg1, arg2, arg3, .. } => {
                [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().all(|a| self.same(a))
            }
            Expression::CallResult(_) => !self.calls.contains(&handle),
            _ => false,
        }
    }

    /// Whether all indices on the way to a place are the same in a whole workgroup.
    fn same_place(&self, pointer: Handle<Expression>) -> bool {
        match &self.function.expressions[pointer] {
            Expression::Access { base, index } => self.same(*index) && self.same_place(*base),
            Expression::AccessIndex { base, .. } => self.same_place(*base),
            _ => true,
        }
    }

    /// Notes that the variable behind a pointer, if it is one of this function, may differ.
    fn differ(&mut self, pointer: Handle<Expression>) {
        match &self.function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => self.differ(*base),
            Expression::LocalVariable(local) => {
                self.differing.insert(*local);
            }
            _ => {}
        }
    }

    /// Whether a function, given the same arguments, gives the same result to every invocation.
    fn reads_the_same(&self, callee: &Function) -> bool {
        callee.expressions.iter().all(|(_, e)| match e {
            Expression::GlobalVariable(global) => read_only(self.module.global_variables[*global].space),
            Expression::CallResult(function) => self.reads_the_same(&self.module.functions[*function]),
            Expression::AtomicResult { .. }
            | Expression::SubgroupBallotResult
            | Expression::SubgroupOperationResult { .. } => false,
            _ => true,
        })
    }
}

/// Whether memory holds the same for all invocations while a kernel runs.
fn read_only(space: AddressSpace) -> bool {
    match space {
        AddressSpace::Uniform | AddressSpace::Immediate => true,
        AddressSpace::Storage { access } => !access.contains(StorageAccess::STORE),
        _ => false,
    }
}

fn has_barrier(module: &Module, block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => true,
        Statement::Block(block) => has_barrier(module, block),
        Statement::If { accept, reject, .. } => has_barrier(module, accept) || has_barrier(module, reject),
        Statement::Switch { cases, .. } => cases.iter().any(|c| has_barrier(module, &c.body)),
        Statement::Loop { body, continuing, .. } => {
            has_barrier(module, body) || has_barrier(module, continuing)
        }
        Statement::Call { function, .. } => has_barrier(module, &module.functions[*function].body),
        _ => false,
    })
}
