//! Recurrent layers: the plain one, LSTM (Hochreiter and Schmidhuber, 1997; with forget gates, Gers et al., 2000) and
//! GRU (Cho et al., 2014, in PyTorch's form).

use std::panic::Location;

use versant_graph::{DType, GraphError, Tensor, scan, scan_reversed};

use super::weights::Origin;
use super::{Dropout, Mode, Module};
use crate::fault::invalid;
use crate::mixed::{kept, operand};
use crate::{Init, Param, Scope};

/// What a recurrent layer carries from one sequence to the next.
#[derive(Clone, Debug)]
pub struct RnnState {
    /// The hidden state, `[layers, batch, hidden]`; with two directions there are two for each layer, the one from the
    /// front first.
    pub hidden: Tensor,
    /// The cell state of an LSTM.
    pub cell: Option<Tensor>,
}

impl RnnState {
    /// The same values, through which no gradient flows: the start of the next piece of a long sequence in truncated
    /// backpropagation through time.
    #[must_use]
    pub fn detach(&self) -> RnnState {
        RnnState { hidden: self.hidden.detach(), cell: self.cell.as_ref().map(Tensor::detach) }
    }

    /// Everything of which is an error, or a zero where there is no cell state.
    fn failed(x: &Tensor, error: GraphError) -> (Tensor, RnnState) {
        let failed = Tensor::failed(x.device(), error);
        (failed.clone(), RnnState { hidden: failed, cell: None })
    }
}

/// What a recurrent layer may be given beside the sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence<'a> {
    /// The state before the first step; zero without one.
    pub state: Option<&'a RnnState>,
    /// How many steps of each sample there are, integers `[batch]`. Beyond them results are zero and the state stays, in
    /// both directions.
    pub lengths: Option<&'a Tensor>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Tanh,
    Relu,
    Lstm,
    Gru,
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Tanh | Cell::Relu => 1,
            Cell::Gru => 3,
            Cell::Lstm => 4,
        }
    }
}

/// The parameters of one direction of a layer.
#[derive(Debug)]
struct Direction {
    input: Param,
    hidden: Param,
    bias: Option<[Param; 2]>,
    /// The map to a shorter hidden state.
    projection: Option<Param>,
}

/// What all recurrent layers are.
#[derive(Debug)]
struct Recurrent {
    scope: Scope,
    origin: Origin,
    cell: Cell,
    inputs: usize,
    hidden: usize,
    /// Elements of the hidden state if they are fewer than those of the cell state.
    projection: Option<usize>,
    layers: usize,
    directions: usize,
    has_bias: bool,
    batch_first: bool,
    dropout: Option<Dropout>,
    made: Result<Vec<Direction>, GraphError>,
}

impl Recurrent {
    fn new(scope: &Scope, origin: Origin, cell: Cell, inputs: usize, hidden: usize) -> Recurrent {
        let mut layer = Recurrent {
            scope: scope.clone(),
            origin,
            cell,
            inputs,
            hidden,
            projection: None,
            layers: 1,
            directions: 1,
            has_bias: true,
            batch_first: false,
            dropout: None,
            made: Ok(Vec::new()),
        };
        layer.declare();
        layer
    }

    /// Elements of the hidden state and of a result.
    fn outputs(&self) -> usize {
        self.projection.unwrap_or(self.hidden)
    }

    /// Declares the parameters anew.
    fn declare(&mut self) {
        if let Ok(all) = std::mem::replace(&mut self.made, Ok(Vec::new())) {
            for Direction { input, hidden, bias, projection } in all {
                [input, hidden]
                    .into_iter()
                    .chain(bias.into_iter().flatten())
                    .chain(projection)
                    .for_each(|p| self.scope.retract(p));
            }
        }
        let (inputs, hidden, layers) = (self.inputs, self.hidden, self.layers);
        if inputs == 0 || hidden == 0 || layers == 0 {
            let why =
                format!("inputs, hidden and layers must be positive, not {inputs}, {hidden} and {layers}");
            self.made = Err(self.origin.error(why));
            return;
        }
        if self.projection.is_some_and(|p| p == 0 || p >= hidden) {
            let why = format!("a projection is to less than the {hidden} hidden elements, and not to none");
            self.made = Err(self.origin.error(why));
            return;
        }
        let outputs = self.outputs();
        let rows = self.cell.gates() * hidden;
        let of = |name: &str, suffix: &str, shape: &[usize]| {
            self.scope.parameter(&format!("{name}_{suffix}"), shape, Init::FanIn { fan_in: hidden })
        };
        let direction = |i: usize| {
            let (layer, back) = (i / self.directions, i % self.directions == 1);
            let suffix = format!("l{layer}{}", if back { "_reverse" } else { "" });
            let width = if layer == 0 { inputs } else { self.directions * outputs };
            let input = of("weight_ih", &suffix, &[rows, width]);
            let recurrent = of("weight_hh", &suffix, &[rows, outputs]);
            let bias = self.has_bias.then(|| ["bias_ih", "bias_hh"].map(|name| of(name, &suffix, &[rows])));
            let projection = self.projection.map(|p| of("weight_hr", &suffix, &[p, hidden]));
            Direction { input, hidden: recurrent, bias, projection }
        };
        self.made = Ok((0..layers * self.directions).map(direction).collect());
    }

    /// Results and the last state, or why there are none.
    fn run(
        &self,
        x: &Tensor,
        given: &Sequence<'_>,
        mode: Mode,
        location: &'static Location<'static>,
    ) -> (Tensor, RnnState) {
        let all = match &self.made {
            Ok(all) => all,
            Err(error) => return RnnState::failed(x, error.clone()),
        };
        if let Some(error) = self.mistake(x, given, location).and_then(|failed| failed.error()) {
            return RnnState::failed(x, error);
        }
        let mut y = if self.batch_first { x.transpose(0, 1) } else { x.clone() };
        let (steps, batch) = (y.shape()[0], y.shape()[1]);
        let there = given.lengths.map(|lengths| {
            let step = Tensor::arange(x.device(), steps, lengths.dtype()).unsqueeze(1);
            step.lt(&lengths.unsqueeze(0)).unsqueeze(2)
        });
        let start = |part: Option<&Tensor>, i: usize, width: usize| match part {
            Some(all) => all.narrow(0, i, 1).squeeze(0),
            None => Tensor::zeros(x.device(), &[batch, width]),
        };
        let mut last: [Vec<Tensor>; 2] = Default::default();
        for layer in 0..self.layers {
            if let (Some(dropout), true) = (&self.dropout, layer > 0) {
                y = dropout.forward(&y, mode);
            }
            let mut sides = Vec::with_capacity(self.directions);
            for side in 0..self.directions {
                let i = layer * self.directions + side;
                let mut init = vec![start(given.state.map(|s| &s.hidden), i, self.outputs())];
                if self.cell == Cell::Lstm {
                    init.push(start(given.state.and_then(|s| s.cell.as_ref()), i, self.hidden));
                }
                let (ends, stack) = self.direction(&all[i], &y, &init, there.as_ref(), side == 1);
                last.iter_mut().zip(ends).for_each(|(list, end)| list.push(end));
                sides.push(stack);
            }
            y = if let [only] = &sides[..] { only.clone() } else { Tensor::cat(&[&sides[0], &sides[1]], 2) };
        }
        let y = if self.batch_first { y.transpose(0, 1) } else { y };
        let stacked = |list: &[Tensor]| Tensor::stack(&list.iter().collect::<Vec<_>>(), 0);
        let cell = (self.cell == Cell::Lstm).then(|| stacked(&last[1]));
        let cell = cell.map(Tensor::alongside);
        (y, RnnState { hidden: stacked(&last[0]).alongside(), cell })
    }

    /// What does not fit, as a failed tensor.
    fn mistake(
        &self,
        x: &Tensor,
        given: &Sequence<'_>,
        location: &'static Location<'static>,
    ) -> Option<Tensor> {
        let name = self.origin.layer;
        if x.error().is_some() || x.rank() != 3 || x.shape()[2] != self.inputs || x.dtype() != DType::F32 {
            let why = format!("needs f32 of three dimensions, the last of {}", self.inputs);
            return Some(invalid(name, &[x], location, why));
        }
        let batch = x.shape()[usize::from(!self.batch_first)];
        let shape = [self.layers * self.directions, batch, self.outputs()];
        if let Some(state) = given.state {
            let parts: Vec<&Tensor> = std::iter::once(&state.hidden).chain(&state.cell).collect();
            let widths = [shape[2], self.hidden];
            let fits =
                |(t, width): (&&Tensor, usize)| t.error().is_none() && t.shape() == [shape[0], batch, width];
            if !parts.iter().zip(widths).all(fits) || state.cell.is_some() != (self.cell == Cell::Lstm) {
                let why = format!("needs a state of {shape:?}, with a cell state for an LSTM only");
                return Some(invalid(name, &parts, location, why));
            }
        }
        let lengths = given.lengths?;
        let integers = matches!(lengths.dtype(), DType::I32 | DType::U32);
        let fits = lengths.error().is_none() && integers && lengths.shape() == [batch];
        (!fits).then(|| invalid(name, &[lengths], location, format!("needs integer lengths of [{batch}]")))
    }

    /// One direction of a layer: last states, and the results of all steps.
    fn direction(
        &self,
        weights: &Direction,
        x: &Tensor,
        init: &[Tensor],
        there: Option<&Tensor>,
        reverse: bool,
    ) -> (Vec<Tensor>, Tensor) {
        // The inputs of all steps in one product.
        let mut projected = operand(x).matmul(&operand(&weights.input.get()).t());
        let recurrent = weights.hidden.get().t();
        let projection = weights.projection.as_ref().map(|p| p.get().t());
        let mut inside = None;
        if let Some([input, hidden]) = &weights.bias {
            projected = projected + input.get();
            // That of a GRU is scaled by the reset gate.
            match self.cell {
                Cell::Gru => inside = Some(hidden.get()),
                _ => projected = projected + hidden.get(),
            }
        }
        let projected = kept(&projected);
        let init: Vec<&Tensor> = init.iter().collect();
        let xs: Vec<&Tensor> = std::iter::once(&projected).chain(there).collect();
        let body = |carry: &[Tensor], x: &[Tensor]| {
            let product = carry[0].matmul(&recurrent);
            let mut next = self.step(carry, &x[0], &product, inside.as_ref());
            if let Some(projection) = &projection {
                next[0] = next[0].matmul(projection);
            }
            let mut out = next[0].clone();
            if let Some(there) = x.get(1) {
                out = there.select(&out, &Tensor::constant(out.device(), 0.0f32));
                next = next.iter().zip(carry).map(|(new, old)| there.select(new, old)).collect();
            }
            (next, vec![out])
        };
        let run = if reverse { scan_reversed(&init, &xs, body) } else { scan(&init, &xs, body) };
        let (last, mut stacks) = run;
        (last, stacks.remove(0))
    }

    /// The next states from the present ones, the projected input and the product with the hidden state.
    fn step(&self, carry: &[Tensor], x: &Tensor, product: &Tensor, bias: Option<&Tensor>) -> Vec<Tensor> {
        let gate = |of: &Tensor, i: usize| of.narrow(1, i * self.hidden, self.hidden);
        match self.cell {
            Cell::Tanh => vec![(x + product).tanh()],
            Cell::Relu => vec![(x + product).relu()],
            Cell::Lstm => {
                let gates = x + product;
                let c = gate(&gates, 1).sigmoid() * &carry[1]
                    + gate(&gates, 0).sigmoid() * gate(&gates, 2).tanh();
                vec![gate(&gates, 3).sigmoid() * c.tanh(), c]
            }
            Cell::Gru => {
                let product = bias.map_or_else(|| product.clone(), |bias| product + bias);
                let sum = |i: usize| gate(x, i) + gate(&product, i);
                let (reset, update) = (sum(0).sigmoid(), sum(1).sigmoid());
                let new = (gate(x, 2) + reset * gate(&product, 2)).tanh();
                vec![&new + update * (&carry[0] - &new)]
            }
        }
    }
}

macro_rules! layer {
    ($(#[$doc:meta])* $name:ident, $cell:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Recurrent);

        impl $name {
            /// One layer from the front to the back, over sequences `[steps, batch, inputs]`.
            #[track_caller]
            pub fn new(scope: &Scope, inputs: usize, hidden: usize) -> Self {
                let origin = Origin { layer: stringify!($name), location: Location::caller() };
                Self(Recurrent::new(scope, origin, $cell, inputs, hidden))
            }

            /// So many layers, each over the results of the one before.
            #[must_use]
            pub fn layers(mut self, layers: usize) -> Self {
                self.0.layers = layers;
                self.0.declare();
                self
            }

            /// Runs from the back to the front as well; results of both stand side by side.
            #[must_use]
            pub fn bidirectional(mut self) -> Self {
                self.0.directions = 2;
                self.0.declare();
                self
            }

            /// Does without the biases.
            #[must_use]
            pub fn no_bias(mut self) -> Self {
                self.0.has_bias = false;
                self.0.declare();
                self
            }

            /// Drops with this probability between layers.
            #[must_use]
            pub fn dropout(mut self, p: f32) -> Self {
                self.0.dropout = Some(Dropout::new(&self.0.scope, p));
                self
            }

            /// Sequences and results are `[batch, steps, ..]`.
            #[must_use]
            pub fn batch_first(mut self) -> Self {
                self.0.batch_first = true;
                self
            }

            /// Records the results of all steps and the state after the last one.
            #[track_caller]
            #[must_use]
            pub fn run(&self, x: &Tensor, given: &Sequence<'_>, mode: Mode) -> (Tensor, RnnState) {
                self.0.run(x, given, mode, Location::caller())
            }
        }

        impl Module for $name {
            fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
                self.run(x, &Sequence::default(), mode).0
            }
        }
    };
}

layer! {
    /// `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`: `[steps, batch, inputs] → [steps, batch, hidden]`.
    ///
    /// The body of a [`scan`]: in the forward pass one launch a step and layer on most devices. Parameters are PyTorch's,
    /// `weight_ih_l0` `[hidden, inputs]`, `weight_hh_l0` `[hidden, hidden]`, `bias_ih_l0` and `bias_hh_l0`, with `l1`, …
    /// for further layers and `_reverse` for the other direction, all uniform within `1 / sqrt(hidden)`.
    Rnn, Cell::Tanh
}

impl Lstm {
    /// Hands a linear map of the hidden state on, of so many elements, fewer than `hidden` (Sak et al., 2014): PyTorch's
    /// `proj_size`. Its parameters are `weight_hr_l0` `[outputs, hidden]` and so on; it is one more product a step.
    #[must_use]
    pub fn projection(mut self, outputs: usize) -> Self {
        self.0.projection = Some(outputs);
        self.0.declare();
        self
    }
}

impl Rnn {
    /// The rectifier in the place of the hyperbolic tangent.
    #[must_use]
    pub fn relu(mut self) -> Self {
        self.0.cell = Cell::Relu;
        self
    }
}

layer! {
    /// A long short-term memory: `[steps, batch, inputs] → [steps, batch, hidden]`.
    ///
    /// Two launches a step and layer in the forward pass. Parameters as those of [`Rnn`], with four times the rows: the
    /// gates stand in PyTorch's order, input, forget, cell, output.
    ///
    /// ```
    /// use versant_graph::{Device, Tensor};
    /// use versant_nn::layers::{Lstm, Mode, Sequence};
    /// use versant_nn::{Params, Seed};
    /// let dev = Device::cpu();
    /// let vs = Params::new(&dev, Seed(1));
    /// let layer = Lstm::new(&(&vs / "lstm"), 3, 8).layers(2).bidirectional();
    /// let x = Tensor::ones(&dev, &[20, 4, 3]);
    /// let lengths = Tensor::from_slice(&dev, &[20i32, 7, 1, 13], &[4]);
    /// let given = Sequence { lengths: Some(&lengths), ..Sequence::default() };
    /// let (y, state) = layer.run(&x, &given, Mode::Train);
    /// assert_eq!(y.shape(), [20, 4, 16]);
    /// assert_eq!(state.hidden.shape(), [4, 4, 8]);
    /// // The next piece of a long sequence; gradients end here.
    /// let state = state.detach();
    /// let (y, _) = layer.run(&x, &Sequence { state: Some(&state), ..given }, Mode::Train);
    /// assert!(y.sum_all().item::<f32>()?.is_finite());
    /// # Ok::<(), versant_graph::GraphError>(())
    /// ```
    Lstm, Cell::Lstm
}

layer! {
    /// A gated recurrent unit: `[steps, batch, inputs] → [steps, batch, hidden]`.
    ///
    /// Two launches a step and layer in the forward pass. Parameters as those of [`Rnn`], with three times the rows: the
    /// gates stand in PyTorch's order, reset, update, new, and the reset gate scales the hidden bias of the last, too.
    Gru, Cell::Gru
}
