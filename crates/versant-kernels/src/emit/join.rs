//! Several kernels in one launch: each gets its own workgroups, and none waits for another.
//!
//! A training step ends in many small sums (gradients of biases, partial results of split products), each too
//! small to fill a device. The entry point of each becomes a function; a workgroup calls the one that its number
//! belongs to. Which one that is depends on the workgroup alone, so barriers stay in uniform control flow.

use super::library::identifiers;
use super::params::grid;
use crate::KernelSource;

/// Storage buffers that every adapter can bind.
const BINDINGS: usize = 7;

/// Bytes of workgroup memory that every adapter has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// A module taken apart.
struct Module<'a> {
    /// Storage buffers in the order of their bindings: name and type.
    buffers: Vec<(&'a str, &'a str)>,
    /// Workgroup variables, whole declarations.
    shared: Vec<&'a str>,
    /// Functions and constants with their names.
    items: Vec<(&'a str, &'a str)>,
    /// Invocations of a workgroup.
    group: usize,
    /// What `workgroup_id`, `num_workgroups` and `local_invocation_index` are called, and the body after that.
    entry: ([&'a str; 3], &'a str),
}

/// One kernel that makes what `parts` make, each given with its buffers (any numbers that tell them apart; reads, then
/// writes). Returns it with its buffers. `None` where the texts do not allow it: launch them in turn then.
///
/// Nothing that one part writes may be read or written by another, but for writes to distinct elements.
pub fn join(label: &str, parts: &[(&KernelSource, Vec<usize>)]) -> Option<(KernelSource, Vec<usize>)> {
    let modules: Vec<Module<'_>> = parts.iter().map(|(s, _)| parse(s)).collect::<Option<_>>()?;
    let group = modules.iter().map(|m| m.group).max()?;
    let mut joined = Joined::default();
    for (at, (module, (source, buffers))) in modules.iter().zip(parts).enumerate() {
        joined.add(at, module, source, buffers, group)?;
    }
    // One buffer as words and as vectors is bound twice, which may be more than a launch can bind.
    let mut distinct: Vec<usize> = joined.bindings.iter().map(|b| b.0).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let too_many = joined.bindings.len() > distinct.len().max(BINDINGS);
    if too_many || joined.shared.iter().map(|d| bytes(d)).sum::<usize>() > WORKGROUP_BYTES {
        return None;
    }
    joined.finish(label, parts, group)
}

/// A module under construction.
#[derive(Default)]
struct Joined<'a> {
    /// Buffer, type, and whether it is written.
    bindings: Vec<(usize, &'a str, bool)>,
    shared: Vec<&'a str>,
    library: Vec<&'a str>,
    /// Functions of the parts, with their buffers still called `part buffer N` in this list's order.
    functions: String,
    calls: String,
    params: Vec<u32>,
    /// Where each part's workgroups end.
    ends: Vec<u32>,
}

impl<'a> Joined<'a> {
    fn add(
        &mut self,
        at: usize,
        module: &Module<'a>,
        source: &'a KernelSource,
        buffers: &[usize],
        group: usize,
    ) -> Option<()> {
        let share = group / module.group;
        if !group.is_multiple_of(module.group) || (share > 1 && !module.shared.is_empty()) {
            return None;
        }
        let mut names: Vec<(&str, String)> = Vec::new();
        for (k, (&(name, element), &buffer)) in module.buffers.iter().zip(buffers).enumerate() {
            let written = k >= source.reads;
            let known =
                self.bindings.iter().position(|b| b.0 == buffer && (b.1 == element || b.2 || written));
            let index = match known {
                Some(i) if self.bindings[i].1 != element || self.bindings[i].2 != written => return None,
                Some(i) => i,
                None => {
                    self.bindings.push((buffer, element, written));
                    self.bindings.len() - 1
                }
            };
            names.push((name, format!("joined{index}")));
        }
        for declaration in &module.shared {
            let name = |d: &'a str| identifiers(d).nth(2);
            match self.shared.iter().find(|d| name(d) == name(declaration)) {
                Some(other) if other != declaration => return None,
                Some(_) => {}
                None => self.shared.push(declaration),
            }
        }
        for &(name, text) in &module.items {
            if of_library(name, text) {
                if !self.library.contains(&text) {
                    self.library.push(text);
                }
            } else {
                names.push((name, format!("{name}_{at}")));
            }
        }
        let base = self.params.len() / 4;
        for (_, text) in module.items.iter().filter(|(name, text)| !of_library(name, text)) {
            self.functions += &rename(text, &names, base)?;
        }
        let ([wid, groups, lid], body) = module.entry;
        self.functions += &format!("fn part{at}({wid}: vec3<u32>, {groups}: vec3<u32>, {lid}: u32) {{\n");
        self.functions += &rename(body, &names, base)?;
        self.functions += "}\n";
        self.params.extend(&source.params);
        let first = self.ends.last().copied().unwrap_or(0);
        let count = source.grid.iter().product::<u32>() as usize;
        self.ends.push(first + u32::try_from(count.div_ceil(share)).ok()?);
        self.calls += &match share {
            1 => format!("part{at}(vec3<u32>(at - first, 0u, 0u), one, lid);\n"),
            _ => format!(
                "part{at}(vec3<u32>((at - first) * {share}u + lid / {0}u, 0u, 0u), one, lid % {0}u);\n",
                module.group
            ),
        };
        Some(())
    }

    fn finish(
        mut self,
        label: &str,
        parts: &[(&KernelSource, Vec<usize>)],
        group: usize,
    ) -> Option<(KernelSource, Vec<usize>)> {
        let table = self.params.len();
        self.params.extend(&self.ends);
        self.params.resize(self.params.len().next_multiple_of(4), 0);
        let word = |i: usize| format!("params[{}].{}", i / 4, ["x", "y", "z", "w"][i % 4]);
        let mut body = String::from(
            "    let at = wid.x + wid.y * groups.x;\n    let one = vec3<u32>(1u, 1u, 1u);\n    var first = 0u;\n",
        );
        for (i, call) in self.calls.lines().enumerate() {
            let end = word(table + i);
            body += &format!("    if (at >= first && at < {end}) {{ {call} }}\n    first = {end};\n");
        }
        let uses_scalars = parts.iter().any(|(s, _)| s.uses_scalars);
        let mut text = format!(
            "@group(0) @binding(0) var<uniform> params: array<vec4<u32>, {}>;\n",
            self.params.len() / 4
        );
        if uses_scalars {
            text += "@group(0) @binding(1) var<uniform> scalars: array<vec4<u32>, 256>;\n";
        }
        let mut order: Vec<usize> = (0..self.bindings.len()).collect();
        order.sort_by_key(|&i| self.bindings[i].2);
        for (place, &i) in order.iter().enumerate() {
            let (_, element, written) = self.bindings[i];
            let access = if written { "read_write" } else { "read" };
            let at = 2 + place;
            text += &format!("@group(0) @binding({at}) var<storage, {access}> joined{i}: {element};\n");
        }
        for item in self.shared.iter().chain(&self.library) {
            text += item;
        }
        text += &self.functions;
        text += &super::entry(group, &body);
        let reads = self.bindings.iter().filter(|b| !b.2).count();
        let source = KernelSource {
            label: label.to_owned(),
            wgsl: text,
            reads,
            writes: self.bindings.len() - reads,
            params: self.params,
            uses_scalars,
            grid: grid(*self.ends.last()? as usize),
            trusted: parts.iter().all(|(s, _)| s.trusted),
            native: None,
        };
        Some((source, order.iter().map(|&i| self.bindings[i].0).collect()))
    }
}

/// Bytes of a workgroup array of words or of vectors of four; one of anything else counts as too long.
fn bytes(declaration: &str) -> usize {
    let count = declaration.rsplit(',').next().and_then(|rest| rest.split('>').next());
    let count = count.and_then(|n| n.trim().trim_end_matches('u').parse::<usize>().ok());
    let width = if declaration.contains("vec4<") { 16 } else { 4 };
    count.map_or(usize::MAX / 64, |n| n * width)
}

/// Whether an item is the same in every module: programs define no structs of their own.
fn of_library(name: &str, text: &str) -> bool {
    name.starts_with("v_") || text.trim_start().starts_with("struct ")
}

/// Takes a module apart; `None` if there is something in it that this does not know.
fn parse(source: &KernelSource) -> Option<Module<'_>> {
    let mut buffers = Vec::new();
    let mut module =
        Module { buffers: Vec::new(), shared: Vec::new(), items: Vec::new(), group: 0, entry: ([""; 3], "") };
    for item in items(&source.wgsl) {
        let words: Vec<&str> = identifiers(item).take(8).collect();
        match words[..] {
            ["group", _, "binding", _, "var", "uniform", ..] => {}
            ["group", _, "binding", _, "var", "storage", ..] => {
                let number = item.split("@binding(").nth(1)?.split(')').next()?.parse::<usize>().ok()?;
                let (name, element) =
                    item.split_once('>')?.1.trim().trim_end_matches(';').split_once(": ")?;
                buffers.push((number, (name, element)));
            }
            ["var", "workgroup", ..] => module.shared.push(item),
            ["fn" | "const" | "struct", name, ..] => module.items.push((name, item)),
            ["compute", ..] => {
                let size = item.split("workgroup_size(").nth(1)?.split(')').next()?;
                let named = module.items.iter().find(|(name, _)| *name == size);
                let size = named.map_or(Some(size), |(_, text)| text.split('=').nth(1))?;
                let digits = size.trim().trim_end_matches([';', 'u']);
                module.group = digits.parse().ok()?;
                module.entry = entry(item)?;
            }
            _ => return None,
        }
    }
    buffers.sort_unstable_by_key(|b| b.0);
    module.buffers = buffers.into_iter().map(|b| b.1).collect();
    (module.group > 0 && module.buffers.len() == source.reads + source.writes).then_some(module)
}

/// The names of the three built-ins that every kernel takes, and the body.
fn entry(item: &str) -> Option<([&str; 3], &str)> {
    let (head, body) = item.split_once('{')?;
    let mut names = [""; 3];
    let mut count = 0;
    for piece in head.split("@builtin(").skip(1) {
        let mut words = identifiers(piece);
        let at = ["workgroup_id", "num_workgroups", "local_invocation_index"];
        let builtin = words.next()?;
        names[at.iter().position(|b| *b == builtin)?] = words.next()?;
        count += 1;
    }
    (count == 3).then_some((names, body.trim_end().strip_suffix('}')?))
}

/// The declarations of a module, in order, each with its line end.
fn items(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            '\n' if depth == 0 && text[start..at].ends_with([';', '}']) => {
                out.push(&text[start..=at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out.retain(|item| !item.trim().is_empty());
    out
}

/// Replaces names, and moves the parameters by `base` vectors; `None` if a parameter's number is computed.
fn rename(text: &str, names: &[(&str, String)], base: usize) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    for word in identifiers(text) {
        // A parameter's number is taken with its name.
        let Some(at) = (word.as_ptr() as usize).checked_sub(rest.as_ptr() as usize) else { continue };
        out += &rest[..at];
        rest = &rest[at + word.len()..];
        let field = out.ends_with('.');
        match names.iter().find(|(name, _)| *name == word) {
            Some((_, new)) if !field => out += new,
            _ => out += word,
        }
        if word == "params" && !field {
            let (number, after) = rest.strip_prefix('[')?.split_once(']')?;
            out += &format!("[{}]", number.parse::<usize>().ok()? + base);
            rest = after;
        }
    }
    Some(out + rest)
}

#[cfg(test)]
mod tests {
    use super::super::check::{check_kernel, row_sums};
    use super::*;
    use crate::{Caps, Class, program_wgsl};

    #[test]
    fn sums_share_a_launch() {
        for class in [Class::Discrete, Class::Software] {
            let kernels: Vec<KernelSource> = [[4, 100], [3, 7], [200, 30]]
                .map(|[r, c]| program_wgsl(&row_sums(r, c), "sum", &Caps::webgpu(class)))
                .into();
            let buffers = [vec![0, 10], vec![1, 11], vec![1, 12]];
            let parts: Vec<_> = kernels.iter().zip(buffers).collect();
            let (joined, order) = join("sums", &parts).unwrap_or_else(|| panic!("{}", kernels[0].wgsl));
            assert_eq!(order, [0, 1, 10, 11, 12]);
            assert_eq!(joined.grid[0], kernels.iter().map(|k| k.grid[0]).sum::<u32>());
            check_kernel(&joined);
        }
    }

    #[test]
    fn what_one_part_writes_another_does_not_read() {
        let kernel = program_wgsl(&row_sums(4, 8), "sum", &Caps::webgpu(Class::Discrete));
        assert!(join("sums", &[(&kernel, vec![0, 1]), (&kernel, vec![1, 2])]).is_none());
    }
}
