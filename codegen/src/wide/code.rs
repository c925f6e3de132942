//! Straight-line vector code of a strip, before registers are given out.

use super::allocate::Lanes;
use crate::simd::{Op1, Op2, Simd};
use gradc_ir::lower::Combine;

/// Rows of columns that may be combined with each other before they are with the partial results.
pub(crate) const ROWS_TOGETHER: u8 = 8;

/// A value of strip code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// What the step with this number computes.
    Step(u32),
    /// Equal in all lanes and at all points of the strip; counts [`Code::invariants`].
    Invariant(u32),
    /// A running partial result; counts [`Shape`]'s partials.
    Partial(u32),
    /// The lanes of the last, incomplete vector that are inside the strip.
    Inside,
}

/// A value that never changes while a strip runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// 32 bits in every lane.
    Word(u32),
    /// The bits of an f64 in every wide lane.
    Wide(u64),
    /// The number of the lane, as i32.
    LaneNumber,
    /// 32 bits handed over by the caller, by position.
    Uniform(u32),
}

/// What a stream holds and how it moves; streams are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// What it holds.
    pub element: Element,
    /// Bytes to the next row of a [`Shape::Rows`], [`Shape::ShortRows`] or [`Shape::Columns`].
    pub row_bytes: i32,
    /// Bytes to what the second-level cache fetches as a vector is read; 0 where nothing is.
    pub ahead_bytes: i32,
    /// Whether whole vectors may be read and written at the strip's end.
    pub padded: bool,
}

/// Elements of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// f32 or i32, one per point.
    Float,
    /// Bytes that are 0 or not, one per point.
    Bool,
    /// f64, one per point.
    Wide,
    /// One f32 or i32 for all points of a row, or the lower half of an i64.
    RowFloat,
}

/// One computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A vector of a stream: its words, or bytes widened to i32.
    Load(u32),
    /// As `Load`, so many rows further on.
    LoadRow(u32, u8),
    /// The lower or upper half of a vector's points of a stream of f64.
    LoadWide(u32, u8),
    /// In every lane the number of the vector's first point in the strip, as i32.
    FirstPoint,
    /// An operation.
    Op1(Op1, Value),
    /// An operation.
    Op2(Op2, Value, Value),
    /// `x · y + z`
    MultiplyAdd(Value, Value, Value),
    /// `mask ? x : y`
    Select(Value, Value, Value),
    /// Lanes swapped with those this many 32-bit lanes away, a power of two.
    Exchange(u8, Value),
    /// Writes words to a stream.
    Store(u32, Value),
    /// Writes a mask to a stream of bytes.
    StoreMask(u32, Value),
    /// Hands lane 0 to the caller, as f64 or as f32.
    Result(Value, bool),
    /// Writes lane 0 to a stream that has one f32 for each row.
    StoreRow(u32, Value),
}

impl Action {
    /// The values read, in the order they are written above.
    pub fn sources(&self) -> Vec<Value> {
        match *self {
            Action::Load(_) | Action::LoadRow(..) | Action::LoadWide(..) | Action::FirstPoint => vec![],
            Action::Op1(_, x) | Action::Exchange(_, x) | Action::Store(_, x) => vec![x],
            Action::StoreMask(_, x) | Action::Result(x, _) | Action::StoreRow(_, x) => vec![x],
            Action::Op2(_, x, y) => vec![x, y],
            Action::MultiplyAdd(x, y, z) | Action::Select(x, y, z) => vec![x, y, z],
        }
    }
}

/// A computation and where its result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What is computed.
    pub action: Action,
    /// The partial result it becomes the next value of, if any.
    pub partial: Option<u32>,
}

/// What loops a strip has and what leaves it apart from stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Points are computed and stored.
    Map,
    /// Points of as many rows as the caller says are computed and stored, one row after the other.
    Rows {
        /// Points of each row.
        points: usize,
    },
    /// Values of all points are combined into one.
    Row(Combination),
    /// Values of all points of each row are combined into one, of as many rows as the caller says: they go to the first
    /// streams, one for each value.
    ShortRows {
        /// How.
        combination: Combination,
        /// Points of each row.
        points: usize,
    },
    /// Values of as many rows as the caller says are combined point by point, into a stream of partial results each.
    Columns {
        /// How.
        combination: Combination,
        /// The first of the streams.
        sums: u32,
        /// Whether the streams hold partial results already.
        continued: bool,
    },
}

/// How values meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Combination {
    /// The operation.
    pub combine: Combine,
    /// Whether sums are kept in f64.
    pub long: bool,
    /// How many values are combined, each by itself.
    pub values: usize,
}

impl Combination {
    /// Registers for the partial results of one vector of a value.
    pub fn halves(self) -> usize {
        if self.long { 2 } else { 1 }
    }

    /// Registers for the partial results of one vector of each value.
    pub fn partials(self) -> usize {
        self.halves() * self.values
    }

    /// What partial results start from, in f32.
    pub fn start(self) -> f32 {
        match self.combine {
            Combine::Sum => 0.0,
            Combine::Prod => 1.0,
            Combine::Max => f32::NEG_INFINITY,
            Combine::Min => f32::INFINITY,
        }
    }
}

impl Shape {
    /// How values meet, if they do.
    pub fn combination(&self) -> Option<Combination> {
        match *self {
            Shape::Map | Shape::Rows { .. } => None,
            Shape::Row(combination) | Shape::ShortRows { combination, .. } | Shape::Columns { combination, .. } => {
                Some(combination)
            }
        }
    }

    /// Registers for the partial results of one vector of each value.
    pub fn partials(&self) -> usize {
        self.combination().map_or(0, Combination::partials)
    }
}

/// Code of a strip.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// Computations at a vector of points; values come before their users.
    pub steps: Vec<Step>,
    /// The same for the last vector of a strip, of which only the lanes of [`Value::Inside`] count.
    pub tail: Vec<Step>,
    /// Computations at a vector of points of [`ROWS_TOGETHER`] rows of a [`Shape::Columns`]; none where rows are combined
    /// one by one.
    pub together: Vec<Step>,
    /// Invariant values.
    pub invariants: Vec<Invariant>,
    /// Streams.
    pub streams: Vec<Stream>,
    /// Number of uniform values handed over.
    pub uniforms: usize,
    /// Loops and results.
    pub shape: Shape,
}

impl Code {
    /// Code without steps.
    pub fn new(shape: Shape) -> Code {
        let [steps, tail, together] = [vec![], vec![], vec![]];
        Code { steps, tail, together, invariants: vec![], streams: vec![], uniforms: 0, shape }
    }

    /// The computations for these lanes of a vector.
    pub fn steps_of(&self, lanes: Lanes) -> &[Step] {
        if lanes == Lanes::All { &self.steps } else { &self.tail }
    }

    /// An invariant value.
    pub fn invariant(&mut self, invariant: Invariant) -> Value {
        let at = self.invariants.iter().position(|i| *i == invariant).unwrap_or_else(|| {
            self.invariants.push(invariant);
            self.invariants.len() - 1
        });
        Value::Invariant(at as u32)
    }

    /// A new uniform value.
    pub fn uniform(&mut self) -> Value {
        self.uniforms += 1;
        self.invariant(Invariant::Uniform(self.uniforms as u32 - 1))
    }

    /// A new stream.
    pub fn stream(&mut self, element: Element, row_bytes: i32, padded: bool) -> u32 {
        self.streams.push(Stream { element, row_bytes, ahead_bytes: 0, padded });
        self.streams.len() as u32 - 1
    }

    /// Appends a computation.
    pub fn push(&mut self, action: Action) -> Value {
        self.steps.push(Step { action, partial: None });
        Value::Step(self.steps.len() as u32 - 1)
    }

    /// Makes the last computation the next value of a partial result.
    pub fn carry(&mut self, partial: u32) {
        self.steps.last_mut().expect("a partial result was just computed").partial = Some(partial);
    }
}

impl Simd for Code {
    type Vector = Value;

    fn word(&mut self, bits: u32) -> Value {
        self.invariant(Invariant::Word(bits))
    }

    fn wide_constant(&mut self, x: f64) -> Value {
        self.invariant(Invariant::Wide(x.to_bits()))
    }

    fn op1(&mut self, op: Op1, x: &Value) -> Value {
        self.push(Action::Op1(op, *x))
    }

    fn op2(&mut self, op: Op2, x: &Value, y: &Value) -> Value {
        self.push(Action::Op2(op, *x, *y))
    }

    fn multiply_add(&mut self, x: &Value, y: &Value, z: &Value) -> Value {
        self.push(Action::MultiplyAdd(*x, *y, *z))
    }

    fn select(&mut self, mask: &Value, x: &Value, y: &Value) -> Value {
        self.push(Action::Select(*mask, *x, *y))
    }
}
