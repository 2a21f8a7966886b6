//! Folding: the same program over the fewest dimensions.
//!
//! Neighbouring dimensions that every view of a program walks as one are merged and extents of 1 are
//! dropped, so a contiguous operation of any rank has the text and the inner loop of rank 1. Row-major
//! linear indices of `rows` and `cols` do not change, so neither do bounds, column numbers or results.

use crate::{Block, InstrKind, Program, Shape, Step, View};

/// A folded dimension: its extent, and the innermost original dimension, whose stride it takes.
struct Merged {
    extent: usize,
    inner: usize,
}

/// The program over merged dimensions; `rows` and `cols` are folded separately.
///
/// Parts of views that have no meaning are dropped on the way, since they would hinder merging: the guards of
/// stores and of `Index`, the strides of `InBounds`. The work is otherwise the same, instruction by instruction.
pub fn fold(p: &Program) -> Program {
    let mut folded = p.clone();
    for_each_block(&mut folded, |block, _| strip(block));
    let rank = p.rows.rank();
    let mut forms = (Vec::new(), Vec::new());
    for_each_block(&mut folded, |block, is_col| {
        for_each_view(block, |view| {
            let all = std::iter::once(&view.strides).chain(view.guards.iter().map(|g| &g.strides));
            for strides in all {
                forms.0.push(strides[..rank].to_vec());
                if is_col {
                    forms.1.push(strides[rank..].to_vec());
                }
            }
        });
    });
    let rows = merge(&p.rows, &forms.0);
    let cols = merge(&p.cols, &forms.1);
    folded.rows = shape_of(rows.iter());
    folded.cols = shape_of(cols.iter());
    for_each_block(&mut folded, |block, is_col| {
        let cols = if is_col { &cols[..] } else { &[] };
        let shape = shape_of(rows.iter().chain(cols));
        let pick = |s: &[isize]| -> Vec<isize> {
            let outer = rows.iter().map(|m| s[m.inner]);
            outer.chain(cols.iter().map(|m| s[rank + m.inner])).collect()
        };
        for_each_view(block, |view| {
            view.shape = shape;
            view.strides = pick(&view.strides);
            for guard in &mut view.guards {
                guard.strides = pick(&guard.strides);
            }
        });
    });
    folded
}

/// The merged dimensions of a domain that is walked by all of `forms`.
fn merge(domain: &Shape, forms: &[Vec<isize>]) -> Vec<Merged> {
    if domain.numel() == 0 {
        // No coordinate is ever visited: one dimension of extent 0 says it all.
        return vec![Merged { extent: 0, inner: domain.rank() - 1 }];
    }
    let mut out: Vec<Merged> = Vec::new();
    for (dim, &extent) in domain.iter().enumerate() {
        if extent == 1 {
            continue;
        }
        match out.last_mut() {
            Some(last) if forms.iter().all(|f| f[last.inner] == f[dim] * extent as isize) => {
                last.extent *= extent;
                last.inner = dim;
            }
            _ => out.push(Merged { extent, inner: dim }),
        }
    }
    out
}

fn shape_of<'a>(dims: impl Iterator<Item = &'a Merged>) -> Shape {
    let dims: Vec<usize> = dims.map(|m| m.extent).collect();
    Shape::new(&dims).expect("folding never adds a dimension")
}

/// Calls `f` with every block, and whether it belongs to a `Col` step.
fn for_each_block(p: &mut Program, mut f: impl FnMut(&mut Block, bool)) {
    for step in &mut p.steps {
        match step {
            Step::Row(block) => f(block, false),
            Step::Col(block, _) => f(block, true),
        }
    }
}

fn for_each_view(block: &mut Block, mut f: impl FnMut(&mut View)) {
    for instr in &mut block.instrs {
        match &mut instr.kind {
            InstrKind::Load { view, .. }
            | InstrKind::LoadAt { view, .. }
            | InstrKind::Index(view)
            | InstrKind::InBounds(view) => f(view),
            _ => {}
        }
    }
    block.stores.iter_mut().for_each(|s| f(&mut s.view));
}

/// Clears what the meaning of an instruction ignores.
fn strip(block: &mut Block) {
    for instr in &mut block.instrs {
        match &mut instr.kind {
            InstrKind::Index(view) => view.guards.clear(),
            InstrKind::InBounds(view) => {
                view.strides.fill(0);
                view.offset = 0;
            }
            _ => {}
        }
    }
    for store in &mut block.stores {
        store.view.guards.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::ProgramBinding;
    use crate::{DType, Guard, Instr, ReduceKind, ReduceOut, Store};

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).expect("small rank")
    }

    fn load(reg: u32, binding: usize, view: View) -> Instr {
        Instr { reg, dtype: DType::F32, kind: InstrKind::Load { binding, view } }
    }

    fn store(view: View) -> Store {
        Store { binding: 2, view, value: 0, dtype: DType::F32 }
    }

    fn elementwise(rows: Shape, views: &[View], out: View) -> Program {
        let instrs = views.iter().enumerate().map(|(i, v)| load(i as u32, i, v.clone())).collect();
        Program {
            rows,
            cols: Shape::SCALAR,
            bindings: [false, false, true]
                .map(|written| ProgramBinding { dtype: DType::F32, written })
                .to_vec(),
            steps: vec![Step::Row(Block { instrs, stores: vec![store(out)] })],
            regs: views.len() as u32,
        }
    }

    /// Offset at every linear index, with the outcome of every guard.
    fn walk(view: &View) -> Vec<(isize, Vec<bool>)> {
        let dense = view.shape.strides();
        (0..view.shape.numel())
            .map(|i| {
                let at = |strides: &[isize], start: isize| {
                    (0..view.shape.rank()).fold(start, |sum, k| {
                        sum + strides[k] * ((i / dense[k] as usize) % view.shape[k]) as isize
                    })
                };
                let inside = |g: &Guard| (0..g.extent as isize).contains(&at(&g.strides, g.offset));
                let guards = view.guards.iter().map(inside).collect();
                (at(&view.strides, view.offset), guards)
            })
            .collect()
    }

    fn views(p: &Program) -> Vec<View> {
        let mut p = p.clone();
        let mut out = Vec::new();
        for_each_block(&mut p, |b, _| for_each_view(b, |v| out.push(v.clone())));
        out
    }

    fn assert_same_walk(p: &Program) -> Program {
        let folded = fold(p);
        for (before, after) in views(p).iter().zip(&views(&folded)) {
            assert_eq!(walk(before), walk(after), "{before:?} became {after:?}");
        }
        folded
    }

    #[test]
    fn contiguous_of_any_rank_becomes_one_dimension() {
        for dims in [&[7][..], &[2, 3], &[2, 1, 3, 4], &[1, 5, 1], &[2, 3, 4, 5, 2]] {
            let dense = View::contiguous(shape(dims));
            let p = elementwise(shape(dims), &[dense.clone(), dense.clone()], dense);
            let folded = assert_same_walk(&p);
            assert_eq!(folded.rows, shape(&[dims.iter().product()]));
        }
        let one = View::contiguous(shape(&[1, 1]));
        let p = elementwise(shape(&[1, 1]), std::slice::from_ref(&one), one.clone());
        assert_eq!(assert_same_walk(&p).rows, Shape::SCALAR);
    }

    #[test]
    fn dimensions_merge_only_where_every_view_allows_it() {
        let dense = View::contiguous(shape(&[4, 3, 5]));
        let bias = View::contiguous(shape(&[3, 5])).broadcast(shape(&[4, 3, 5]));
        let p = elementwise(shape(&[4, 3, 5]), &[dense.clone(), bias], dense.clone());
        assert_eq!(assert_same_walk(&p).rows, shape(&[4, 15]));
        let turned = View::contiguous(shape(&[3, 4, 5])).permute(&[1, 0, 2]);
        let p = elementwise(shape(&[4, 3, 5]), &[turned], dense.clone());
        assert_eq!(assert_same_walk(&p).rows, shape(&[4, 3, 5]));
        let flipped = dense.slice(&[3, 2, 4], &[-1, -1, -1], shape(&[4, 3, 5]));
        let p = elementwise(shape(&[4, 3, 5]), std::slice::from_ref(&flipped), flipped.clone());
        assert_eq!(assert_same_walk(&p).rows, shape(&[60]));
        let p = elementwise(shape(&[4, 3, 5]), &[flipped], dense);
        assert_eq!(assert_same_walk(&p).rows, shape(&[60]));
    }

    #[test]
    fn guards_hold_their_dimension_apart() {
        let padded = View::contiguous(shape(&[2, 3, 4])).pad(&[0, 1, 0], shape(&[2, 5, 4]));
        let p = elementwise(
            shape(&[2, 5, 4]),
            std::slice::from_ref(&padded),
            View::contiguous(shape(&[2, 5, 4])),
        );
        // The guard steps with the middle coordinate only, so nothing merges across it.
        assert_eq!(assert_same_walk(&p).rows, shape(&[2, 5, 4]));
        // On a store the same guard has no meaning and must not hinder.
        let p = elementwise(shape(&[2, 5, 4]), &[], padded);
        assert_eq!(fold(&p).rows, shape(&[2, 20]));
    }

    #[test]
    fn rows_and_cols_fold_apart() {
        let all = View::contiguous(shape(&[2, 3, 4, 5]));
        let p = Program {
            steps: vec![
                Step::Col(
                    Block { instrs: vec![load(0, 0, all)], stores: vec![] },
                    vec![ReduceOut { kind: ReduceKind::Sum, value: 0, dtype: DType::F32, out: 1 }],
                ),
                Step::Row(Block { instrs: vec![], stores: vec![store(View::contiguous(shape(&[2, 3])))] }),
            ],
            cols: shape(&[4, 5]),
            ..elementwise(shape(&[2, 3]), &[], View::splat(shape(&[2, 3])))
        };
        let folded = assert_same_walk(&p);
        assert_eq!((folded.rows, folded.cols), (shape(&[6]), shape(&[20])));
        assert_eq!(views(&folded)[0].strides, [20, 1]);
    }

    #[test]
    fn empty_domains_fold_to_extent_zero() {
        let dims = shape(&[3, 0, 2]);
        let p = elementwise(dims, &[View::splat(dims)], View::contiguous(dims));
        assert_eq!(fold(&p).rows, shape(&[0]));
    }
}
