//! From a loop plan to strip code, where the plan's vector loop is plain: f32, booleans and i32, contiguous or constant
//! along the loop, guards that do not move with it, comparisons of the loop's index.

use super::code::{Action, Code, Combination, Element, Invariant, ROWS_TOGETHER, Shape, Stream, Value};
use super::frame::combining;
use crate::loops::{AFTER_ACCUMULATION, BodyPlan, LoadPlan, LoopPlan, LoopSet, Which};
use crate::math::Math;
use crate::simd::{Op1, Op2, Relation, Simd};
use gradc_ir::lower::{Affine, BinaryFn, CompareFn, Scalar, ScalarId, UnaryFn};
use gradc_ir::types::DType;
use std::collections::HashMap;

/// What a stream of a strip is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamSource {
    /// Elements that a load reads.
    Load(ScalarId),
    /// A result, by position.
    Store(usize),
    /// The partial results of columns, of the value with this position.
    Sums(usize),
}

/// What a uniform value of a strip is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UniformSource {
    /// A scalar of the body.
    Scalar(ScalarId),
    /// An integer of the body, limited to what i32 holds.
    Limited(ScalarId),
    /// The index of the strip's first point.
    FirstIndex,
    /// Whether a guarded load is in bounds.
    InBounds(ScalarId),
}

/// A strip and what its caller hands over.
#[derive(Clone, Debug)]
pub(crate) struct Strip {
    /// The code.
    pub code: Code,
    /// The body the scalars below are of.
    pub which: Which,
    /// One per stream.
    pub streams: Vec<StreamSource>,
    /// One per uniform value.
    pub uniforms: Vec<UniformSource>,
}

/// A loop's body on its way into strip code.
pub(super) struct Translator<'p> {
    plan: &'p LoopPlan,
    body: &'p BodyPlan,
    which: Which,
    /// The loop along the strip.
    vector: usize,
    /// The loop over the strip's rows.
    pub row: Option<usize>,
    /// The loop whose next trip reads what should be in the cache by then.
    pub ahead: Option<usize>,
    /// Rows between the strip's present one and the one whose values are computed.
    rows_ahead: u8,
    /// How the partial results are kept that the body reads.
    pub accumulated: Option<Combination>,
    code: Code,
    streams: Vec<StreamSource>,
    uniforms: Vec<UniformSource>,
    known: HashMap<ScalarId, Value>,
    /// The index along the strip.
    index: Option<Value>,
}

impl<'p> Translator<'p> {
    /// For a strip along the kernel's vector loop, if that has so many points.
    pub fn new(plan: &'p LoopPlan, which: Which, shape: Shape, shortest: usize) -> Option<Translator<'p>> {
        let vector = plan.vector.filter(|&v| plan.extents[v] >= shortest)?;
        Translator::along(vector, plan, which, shape)
    }

    /// For a strip along a loop.
    pub fn along(vector: usize, plan: &'p LoopPlan, which: Which, shape: Shape) -> Option<Translator<'p>> {
        let body = match which {
            Which::Reduced => &plan.reduction.as_ref()?.body,
            Which::Point => &plan.body,
        };
        Some(Translator {
            plan,
            body,
            which,
            vector,
            row: None,
            ahead: None,
            rows_ahead: 0,
            accumulated: None,
            code: Code::new(shape),
            streams: vec![],
            uniforms: vec![],
            known: HashMap::new(),
            index: None,
        })
    }

    pub fn finish(mut self) -> Strip {
        self.code.tail = self.code.steps.clone();
        self.finish_with_tail()
    }

    pub fn finish_with_tail(self) -> Strip {
        Strip { code: self.code, which: self.which, streams: self.streams, uniforms: self.uniforms }
    }

    pub fn stream(&mut self, source: StreamSource, element: Element, row_bytes: i32) -> u32 {
        self.streams.push(source);
        self.code.stream(element, row_bytes, matches!(source, StreamSource::Sums(_)))
    }

    /// Adds the streams of partial results, the first of the strip.
    pub fn sums(&mut self, combination: Combination) {
        let element = if combination.long { Element::Wide } else { Element::Float };
        for value in 0..combination.values {
            self.stream(StreamSource::Sums(value), element, 0);
        }
    }

    /// A stream of elements that a load reads, the same for all rows.
    fn read_stream(&mut self, id: ScalarId, element: Element, row_bytes: i32) -> u32 {
        let source = StreamSource::Load(id);
        match self.streams.iter().position(|&s| s == source) {
            Some(known) => known as u32,
            None => self.stream(source, element, row_bytes),
        }
    }

    fn uniform(&mut self, source: UniformSource) -> Value {
        if let Some(known) = self.uniforms.iter().position(|&s| s == source) {
            return self.code.invariant(Invariant::Uniform(known as u32));
        }
        self.uniforms.push(source);
        self.code.uniform()
    }

    /// The values of several rows, each added in f32 before their sum is to the f64: rounding errors stay those of a few
    /// terms, and little is converted.
    pub fn rows_together(&mut self, combination: Combination, values: &[ScalarId]) -> Option<()> {
        // The next rows are fetched while these are combined.
        let fits = |s: &Stream| s.row_bytes.checked_mul(2 * i32::from(ROWS_TOGETHER)).is_some();
        if !self.code.streams.iter().all(fits) {
            return Some(());
        }
        let single = std::mem::take(&mut self.code.steps);
        self.known.retain(|_, known| matches!(known, Value::Invariant(_)));
        self.index = None;
        let mut sums = values.iter().map(|&value| self.value(value)).collect::<Option<Vec<_>>>()?;
        for row in 1..ROWS_TOGETHER {
            self.at_row(row);
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum = self.added(sum, value)?;
            }
        }
        sums.into_iter().enumerate().for_each(|(number, sum)| self.combine(combination, number, sum));
        self.code.together = std::mem::replace(&mut self.code.steps, single);
        Some(())
    }

    /// Goes to a row of those that are combined with each other.
    fn at_row(&mut self, row: u8) {
        let by_row: LoopSet = self.row.map_or(0, |r| 1 << r);
        let loops = &self.body.loops;
        self.known.retain(|id, known| matches!(known, Value::Invariant(_)) || loops[id.0 as usize] & by_row == 0);
        self.rows_ahead = row;
    }

    /// A sum and a scalar: one operation where it is a product.
    fn added(&mut self, sum: &Value, id: ScalarId) -> Option<Value> {
        match self.body.scalars[id.0 as usize] {
            (Scalar::Binary(BinaryFn::Mul, a, b), DType::F32) => {
                let (x, y) = (self.value(a)?, self.value(b)?);
                Some(self.code.multiply_add(&x, &y, sum))
            }
            _ => {
                let next = self.value(id)?;
                Some(self.code.op2(Op2::Add, sum, &next))
            }
        }
    }

    /// Whether a scalar differs between points of the strip.
    fn varies(&self, id: ScalarId) -> bool {
        let row = self.row.map_or(0, |r| 1 << r);
        let accumulated = if self.accumulated.is_some() { AFTER_ACCUMULATION } else { 0 };
        let loops: LoopSet = 1 << self.vector | row | accumulated;
        self.body.loops[id.0 as usize] & loops != 0
    }

    /// All stores, after everything that is read.
    pub fn stores(&mut self) -> Option<()> {
        let stores = &self.plan.stores;
        let values = stores.iter().map(|&id| self.value(id)).collect::<Option<Vec<_>>>()?;
        for (k, (&id, value)) in stores.iter().zip(values).enumerate() {
            let (source, dtype) = (StreamSource::Store(k), self.body.dtype(id));
            let row_bytes = self.row_bytes(&self.plan.result, dtype)?;
            let action = match dtype {
                DType::F32 | DType::I32 => Action::Store(self.stream(source, Element::Float, row_bytes), value),
                DType::Bool => Action::StoreMask(self.stream(source, Element::Bool, row_bytes), value),
                _ => return None,
            };
            self.code.push(action);
        }
        // Pieces of a kernel may make every second element of its results.
        (self.plan.result.coeffs[self.vector] == 1).then_some(())
    }

    /// Bytes from one row of a tensor to the next; `None` if too many.
    fn row_bytes(&self, flat: &Affine, dtype: DType) -> Option<i32> {
        i32::try_from(self.row.map_or(0, |r| flat.coeffs[r] * dtype.size_bytes() as i64)).ok()
    }

    /// Combines values along the strip, of its last vector the lanes inside.
    pub fn combine_vectors(&mut self, combination: Combination, values: &[ScalarId]) -> Option<()> {
        let values = values.iter().map(|&value| self.value(value)).collect::<Option<Vec<Value>>>()?;
        let shared = self.code.steps.clone();
        values.iter().enumerate().for_each(|(number, &value)| self.combine(combination, number, value));
        let steps = std::mem::replace(&mut self.code.steps, shared);
        let start = self.code.word(combination.start().to_bits());
        for (number, value) in values.iter().enumerate() {
            let inside = self.code.select(&Value::Inside, value, &start);
            self.combine(combination, number, inside);
        }
        self.code.tail = std::mem::replace(&mut self.code.steps, steps);
        Some(())
    }

    /// Combines a value into its partial results, those of the value with this position.
    pub fn combine(&mut self, combination: Combination, number: usize, value: Value) {
        let first = (number * combination.halves()) as u32;
        if combination.long {
            for (partial, half) in (first..).zip([Op1::WidenLow, Op1::WidenHigh]) {
                let wide = self.code.op1(half, &value);
                self.code.op2(Op2::AddWide, &Value::Partial(partial), &wide);
                self.code.carry(partial);
            }
        } else {
            self.code.binary(combining(combination.combine), &value, &Value::Partial(first));
            self.code.carry(first);
        }
    }

    pub fn value(&mut self, id: ScalarId) -> Option<Value> {
        if let Some(&known) = self.known.get(&id) {
            return Some(known);
        }
        let (scalar, dtype) = &self.body.scalars[id.0 as usize];
        let value = match (scalar, dtype) {
            (_, DType::F32 | DType::Bool | DType::I32) => self.scalar(id, scalar, *dtype)?,
            _ => return None,
        };
        self.known.insert(id, value);
        Some(value)
    }

    fn scalar(&mut self, id: ScalarId, scalar: &Scalar, dtype: DType) -> Option<Value> {
        if let Scalar::Const(c) = scalar {
            return Some(self.code.word(word(dtype, c.get())));
        }
        if !self.varies(id) {
            return Some(self.uniform(UniformSource::Scalar(id)));
        }
        match *scalar {
            Scalar::Load(_) => self.load(id, dtype),
            Scalar::Accumulated(number) => self.accumulated.map(|c| self.accumulated_value(c, number as u32)),
            Scalar::Unary(UnaryFn::Not, a) => {
                let (x, ones) = (self.value(a)?, self.code.word(mask_bits(true)));
                Some(self.code.op2(Op2::Xor, &x, &ones))
            }
            Scalar::Unary(f, a) if dtype == DType::F32 => {
                let x = self.value(a)?;
                Some(self.code.unary(f, &x))
            }
            Scalar::Binary(f, a, b) => self.binary(f, a, b, dtype),
            Scalar::Compare(f, a, b) if self.body.dtype(a) == DType::F32 => {
                let (x, y) = (self.value(a)?, self.value(b)?);
                Some(self.code.compare(f.into(), &x, &y))
            }
            Scalar::Compare(f, a, b) => self.compare_integers(f, a, b),
            Scalar::Select(c, a, b) => {
                let (mask, x, y) = (self.value(c)?, self.value(a)?, self.value(b)?);
                Some(self.code.select(&mask, &x, &y))
            }
            Scalar::Cast(a) => self.cast(a, dtype),
            _ => None,
        }
    }

    fn binary(&mut self, f: BinaryFn, a: ScalarId, b: ScalarId, dtype: DType) -> Option<Value> {
        use BinaryFn::{Add, And, Div, Max, Min, Mul, Or, Pow, Sub, Xor};
        let (x, y) = (self.value(a)?, self.value(b)?);
        let op = match (f, dtype) {
            (Add | Sub | Mul | Div | Max | Min | Pow, DType::F32) => return Some(self.code.binary(f, &x, &y)),
            (Add, DType::I32) => Op2::AddInt,
            (Sub, DType::I32) => Op2::SubInt,
            (And, _) => Op2::And,
            (Or, _) => Op2::Or,
            (Xor, _) => Op2::Xor,
            _ => return None,
        };
        Some(self.code.op2(op, &x, &y))
    }

    /// A comparison of integers: i32, the index along the strip, or what does not change along it.
    fn compare_integers(&mut self, f: CompareFn, a: ScalarId, b: ScalarId) -> Option<Value> {
        let (x, y) = (self.integer(a)?, self.integer(b)?);
        let (above, below) = (self.code.op2(Op2::GreaterInt, &x, &y), self.code.op2(Op2::GreaterInt, &y, &x));
        let differ = self.code.op2(Op2::Or, &above, &below);
        let (positive, negated) = match f {
            CompareFn::Gt => (above, false),
            CompareFn::Lt => (below, false),
            CompareFn::Ne => (differ, false),
            CompareFn::Le => (above, true),
            CompareFn::Ge => (below, true),
            CompareFn::Eq => (differ, true),
        };
        if !negated {
            return Some(positive);
        }
        let ones = self.code.word(mask_bits(true));
        Some(self.code.op2(Op2::Xor, &positive, &ones))
    }

    /// As i32: equal where both are in its range, and as far as order goes limits stand for what is beyond.
    fn integer(&mut self, id: ScalarId) -> Option<Value> {
        let (scalar, dtype) = &self.body.scalars[id.0 as usize];
        let is_index = |id: ScalarId| self.body.scalars[id.0 as usize].0 == Scalar::LoopIndex(self.vector);
        match *scalar {
            Scalar::Cast(a) if is_index(a) => self.index(),
            _ if is_index(id) => self.index(),
            _ if *dtype == DType::I32 => self.value(id),
            _ if *dtype == DType::I64 && !self.varies(id) => Some(self.uniform(UniformSource::Limited(id))),
            _ => None,
        }
    }

    /// The index along the strip; below the limit of i32, which stands for all that is larger.
    fn index(&mut self) -> Option<Value> {
        if self.plan.extents[self.vector] >= i32::MAX as usize {
            return None;
        }
        if let Some(index) = self.index {
            return Some(index);
        }
        let (first, lane) = (self.code.push(Action::FirstPoint), self.code.invariant(Invariant::LaneNumber));
        let in_strip = self.code.op2(Op2::AddInt, &first, &lane);
        let start = self.uniform(UniformSource::FirstIndex);
        self.index = Some(self.code.op2(Op2::AddInt, &in_strip, &start));
        self.index
    }

    fn cast(&mut self, a: ScalarId, to: DType) -> Option<Value> {
        if (self.body.dtype(a), to) == (DType::I64, DType::I32) {
            return self.lower_half(a);
        }
        let x = self.value(a)?;
        match (self.body.dtype(a), to) {
            (DType::Bool, DType::F32) => {
                let one = self.code.constant(1.0);
                Some(self.code.op2(Op2::And, &x, &one))
            }
            (DType::F32, DType::Bool) => Some(self.code.compare_with(Relation::Ne, &x, 0.0)),
            (DType::I32, DType::F32) => Some(self.code.op1(Op1::FloatOfInt, &x)),
            (from, to) => (from == to).then_some(x),
        }
    }

    /// An i64 that a row has for all its points, as i32: the lower half of what is in memory.
    fn lower_half(&mut self, id: ScalarId) -> Option<Value> {
        let load = self.body.loads[id.0 as usize].as_ref()?;
        if !load.axes.is_empty() || load.flat.coeffs[self.vector] != 0 {
            return None;
        }
        let stream = self.read_stream(id, Element::RowFloat, self.row_bytes(&load.flat, DType::I64)?);
        Some(self.code.push(Action::Load(stream)))
    }

    fn load(&mut self, id: ScalarId, dtype: DType) -> Option<Value> {
        let load = self.body.loads[id.0 as usize].as_ref().expect("every load has a plan");
        if [Some(self.vector), self.row].into_iter().flatten().any(|d| load.axes_move_with(self.body, d)) {
            return None;
        }
        let element = match (dtype, load.flat.coeffs[self.vector]) {
            (DType::F32 | DType::I32, 1) => Element::Float,
            // The rows of columns are counted in a register that streams of bytes need.
            (DType::Bool, 1) if !matches!(self.code.shape, Shape::Columns { .. }) => Element::Bool,
            (DType::F32 | DType::I32, 0) => Element::RowFloat,
            _ => return None,
        };
        let row_bytes = self.row_bytes(&load.flat, dtype)?;
        let stream = self.read_stream(id, element, row_bytes);
        if let (Element::Float, Some(row)) = (element, self.ahead) {
            let ahead_bytes = load.flat.coeffs[row] * dtype.size_bytes() as i64;
            // With the place of a vector it is to fit the displacement of an instruction.
            let fits = ahead_bytes.unsigned_abs() < 1 << 30;
            self.code.streams[stream as usize].ahead_bytes = if fits { ahead_bytes as i32 } else { 0 };
        }
        let mut value = self.code.push(match self.rows_ahead {
            0 => Action::Load(stream),
            rows => Action::LoadRow(stream, rows),
        });
        if element == Element::Bool {
            let zero = self.code.word(0);
            value = self.code.op2(Op2::GreaterInt, &value, &zero);
        }
        match load.fill.filter(|_| is_guarded(load)) {
            None => Some(value),
            Some(fill) => {
                let (inside, fill) = (self.uniform(UniformSource::InBounds(id)), self.code.word(word(dtype, fill)));
                Some(self.code.select(&inside, &value, &fill))
            }
        }
    }

    /// The partial results of the columns, met, of the value with this position.
    fn accumulated_value(&mut self, combination: Combination, number: u32) -> Value {
        if !combination.long {
            return self.code.push(Action::Load(number));
        }
        let [low, high] = [0, 1].map(|half| {
            let wide = self.code.push(Action::LoadWide(number, half));
            self.code.op1(Op1::Narrow, &wide)
        });
        self.code.op2(Op2::Join, &low, &high)
    }
}

/// The bits of a constant in a lane.
fn word(dtype: DType, value: f64) -> u32 {
    match dtype {
        DType::F32 => (value as f32).to_bits(),
        DType::I32 => (value as i32).cast_unsigned(),
        _ => mask_bits(value != 0.0),
    }
}

fn mask_bits(set: bool) -> u32 {
    if set { u32::MAX } else { 0 }
}

/// Whether a load has an axis that may be out of bounds; clamped ones are not.
fn is_guarded(load: &LoadPlan) -> bool {
    load.axes.iter().any(|a| a.index.loaded.is_none() || a.index.divisor != 1)
}
