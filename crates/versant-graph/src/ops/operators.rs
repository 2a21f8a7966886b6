//! Broadcasting of elementwise operands, and the arithmetic operators.

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::panic::Location;

use versant_kernels::{DType, Shape};

use crate::Tensor;
use crate::op::{Movement, Op};
use crate::ops::elementwise::Elementwise;

/// The shape to which all of these broadcast, or `None`.
pub(crate) fn broadcast_shape(shapes: &[&Shape]) -> Option<Shape> {
    let rank = shapes.iter().map(|s| s.rank()).max()?;
    let mut dims = vec![1; rank];
    for shape in shapes {
        for (dim, &have) in dims[rank - shape.rank()..].iter_mut().zip(shape.iter()) {
            if *dim == 1 {
                *dim = have;
            } else if have != 1 && have != *dim {
                return None;
            }
        }
    }
    Shape::new(&dims)
}

impl Tensor {
    /// Records a row of the elementwise table, or one of your own: this tensor is the first operand. The
    /// first operand of a ternary row is a truth value. Operands broadcast.
    #[track_caller]
    #[must_use]
    pub fn apply(&self, row: &'static Elementwise, others: &[&Tensor]) -> Tensor {
        let all: Vec<&Tensor> = std::iter::once(self).chain(others.iter().copied()).collect();
        Tensor::map(row, &all)
    }

    #[track_caller]
    pub(crate) fn map(row: &'static Elementwise, operands: &[&Tensor]) -> Tensor {
        let location = Location::caller();
        let name = row.f.name;
        if operands.len() != row.f.arity {
            let why = format!("takes {} operands", row.f.arity);
            return Tensor::invalid(name, operands, location, why);
        }
        // The condition of a select is the only operand whose type differs from the others'.
        let skip = usize::from(operands.len() == 3);
        let dtype = operands[skip].dtype();
        if skip == 1 && operands[0].dtype() != DType::Bool {
            return Tensor::invalid(name, operands, location, "the condition must be bool");
        }
        if operands[skip..].iter().any(|t| t.dtype() != dtype) {
            return Tensor::invalid(name, operands, location, "operands differ in type; cast one");
        }
        if !row.types.contains(&dtype) {
            return Tensor::invalid(name, operands, location, format!("not defined for {dtype}"));
        }
        let result = if row.is_test { DType::Bool } else { dtype };
        let first = operands[0].dims();
        if operands.iter().all(|t| t.dims() == first) {
            return Tensor::record(Op::Map(row), operands, first, result, location);
        }
        let shapes: Vec<Shape> = operands.iter().map(|t| t.dims()).collect();
        let Some(shape) = broadcast_shape(&shapes.iter().collect::<Vec<_>>()) else {
            return Tensor::invalid(name, operands, location, "shapes do not broadcast together");
        };
        let wide: Vec<Tensor> = operands.iter().map(|t| t.broadcast_for_map(shape, location)).collect();
        let wide: Vec<&Tensor> = wide.iter().collect();
        Tensor::record(Op::Map(row), &wide, shape, result, location)
    }

    /// Rank 0 broadcasts by itself inside a map; everything else gets a view.
    fn broadcast_for_map(&self, shape: Shape, location: &'static Location<'static>) -> Tensor {
        if self.rank() == 0 || self.dims() == shape {
            return self.clone();
        }
        self.moved(Movement::Broadcast, shape, location)
    }
}

/// An operator on tensors by reference and by value, and with an `f32` on either side.
macro_rules! operator {
    ($($trait:ident $method:ident;)*) => {$(
        impl $trait<&Tensor> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor { Tensor::$method(self, other) }
        }
        impl $trait<Tensor> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor { Tensor::$method(self, &other) }
        }
        impl $trait<&Tensor> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor { Tensor::$method(&self, other) }
        }
        impl $trait<Tensor> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor { Tensor::$method(&self, &other) }
        }
        impl $trait<f32> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f32) -> Tensor {
                Tensor::$method(self, &Tensor::number(self, other))
            }
        }
        impl $trait<f32> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: f32) -> Tensor {
                Tensor::$method(&self, &Tensor::number(&self, other))
            }
        }
        impl $trait<&Tensor> for f32 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Tensor {
                Tensor::$method(&Tensor::number(other, self), other)
            }
        }
        impl $trait<Tensor> for f32 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: Tensor) -> Tensor {
                Tensor::$method(&Tensor::number(&other, self), &other)
            }
        }
    )*};
}

operator! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
}

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        Tensor::neg(self)
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        Tensor::neg(&self)
    }
}
