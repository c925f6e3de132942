//! Lowered forms: all that code generation knows about an op.
//!
//! A nest, contraction or scatter reads operands through [`Access`]es whose indices are affine in the
//! loop indices, so fusion is composition of accesses and codegen needs no op.

use crate::attr::{Float, attr_words};
use crate::band::LoopBand;
use crate::builder::Builder;
use crate::graph::Value;
use crate::ops::Op;
use crate::region::Region;
use crate::types::{DType, TypeError, row_major_strides};

/// What an op is to code generation.
#[derive(Clone, Debug)]
pub enum Lowering {
    /// One loop nest per result. Nest `k` may read results `0..k` as operands `n_operands..`.
    Nests(Vec<Nest>),
    /// A sum of products over strided windows of two operands, f32.
    Contraction(Contraction),
    /// An update of computed places in a copy of operand 0.
    Scatter(Scatter),
    /// Built from other ops, always.
    Expand(Expansion),
    /// Control flow around closed functions, or built from other ops where that is better.
    Region(Region),
    /// Work along each line of an axis, whose elements depend on each other.
    Lines(Lines),
}

/// What a routine of its own does along each line of an axis of operand 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lines {
    /// Shape of the operand.
    pub shape: Vec<usize>,
    /// The axis along which lines run.
    pub axis: usize,
    /// What becomes of a line.
    pub work: LineWork,
}

/// What becomes of each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineWork {
    /// The first elements in order, and their i64 places in the line; NaN is greater than all else, of equal elements the
    /// one with the lower place comes first.
    Sort {
        /// Largest first.
        descending: bool,
        /// How many there are in the results.
        count: usize,
    },
    /// The sums of the elements up to each; of floats in f64.
    CumulativeSum {
        /// From the last element on.
        reverse: bool,
    },
}

/// Builds the results of an op from other ops.
pub type Expansion = fn(&Op, &mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>;

/// `base + Σ coeffs[d] · i[d]` over the loop indices of a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Affine {
    /// Constant term.
    pub base: i64,
    /// One coefficient per loop index.
    pub coeffs: Vec<i64>,
}

impl Affine {
    /// A constant over `rank` loop indices.
    pub fn constant(rank: usize, base: i64) -> Self {
        Affine { base, coeffs: vec![0; rank] }
    }

    /// The loop index `dim` of `rank`.
    pub fn dim(rank: usize, dim: usize) -> Self {
        Affine::constant(rank, 0).plus(dim, 1)
    }

    /// Adds `coeff · i[dim]`.
    pub fn plus(mut self, dim: usize, coeff: i64) -> Self {
        self.coeffs[dim] += coeff;
        self
    }

    /// Adds a constant.
    pub fn offset(mut self, by: i64) -> Self {
        self.base += by;
        self
    }

    /// Value at given loop indices.
    pub fn at(&self, index: &[usize]) -> i64 {
        self.base + self.coeffs.iter().zip(index).map(|(&c, &i)| c * i as i64).sum::<i64>()
    }
}

/// Index into one axis of a view: `affine / divisor + loaded`.
///
/// With a divisor above 1 the access is out of bounds wherever the division leaves a remainder
/// (the holes of a transposed, strided window).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Index {
    /// The affine part.
    pub affine: Affine,
    /// Divisor, at least 1.
    pub divisor: i64,
    /// An integer scalar of the same body that is added (gathers).
    pub loaded: Option<ScalarId>,
}

impl From<Affine> for Index {
    fn from(affine: Affine) -> Self {
        Index { affine, divisor: 1, loaded: None }
    }
}

/// A read of an operand at computed indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Which operand; earlier results of the same op follow the operands.
    pub operand: usize,
    /// Shape the operand is read as; the operand's own, or another of as many elements for reshapes.
    pub view: Vec<usize>,
    /// One index per axis of `view`.
    pub indices: Vec<Index>,
    /// What is read where an index is out of bounds; `None` promises that none is.
    ///
    /// Exception: indices with a `loaded` part are clamped into the view by the generated code.
    pub fill: Option<Float>,
}

impl Access {
    /// Reads operand `operand` of shape `view` at the given indices, all in bounds.
    pub fn new(operand: usize, view: &[usize], indices: Vec<Affine>) -> Self {
        debug_assert_eq!(view.len(), indices.len());
        Access { operand, view: view.to_vec(), indices: indices.into_iter().map(Index::from).collect(), fill: None }
    }

    /// Reads element `i` for loop index `i`: the first `view.len()` loop indices of `rank`.
    pub fn identity(operand: usize, view: &[usize], rank: usize) -> Self {
        Access::new(operand, view, (0..view.len()).map(|d| Affine::dim(rank, d)).collect())
    }

    /// Guards the access: out of bounds reads give `fill`.
    pub fn filled(mut self, fill: f64) -> Self {
        self.fill = Some(Float::new(fill));
        self
    }

    /// Whether loop index `i` reads element `i` of a view that is the whole space.
    pub fn is_identity(&self, space: &[usize]) -> bool {
        self.view == space
            && self.fill.is_none()
            && self.flat().is_some_and(|f| f == Access::identity(0, space, space.len()).flat_padded(f.coeffs.len()))
    }

    fn flat_padded(&self, rank: usize) -> Affine {
        let mut flat = self.flat().expect("an identity access is affine");
        flat.coeffs.resize(rank, 0);
        flat
    }

    /// The access as one affine offset into the row-major operand, in elements; `None` when it is not affine.
    pub fn flat(&self) -> Option<Affine> {
        let rank = self.indices.first().map_or(0, |i| i.affine.coeffs.len());
        let mut flat = Affine::constant(rank, 0);
        for (index, stride) in self.indices.iter().zip(row_major_strides(&self.view)) {
            if index.divisor != 1 || index.loaded.is_some() {
                return None;
            }
            flat.base += index.affine.base * stride as i64;
            flat.coeffs.iter_mut().zip(&index.affine.coeffs).for_each(|(f, c)| *f += c * stride as i64);
        }
        Some(flat)
    }
}

attr_words! {
    /// Scalar functions of one argument.
    pub enum UnaryFn {
        /// −x
        Neg = "neg",
        /// |x|
        Abs = "abs",
        /// eˣ
        Exp = "exp",
        /// natural logarithm
        Log = "log",
        /// hyperbolic tangent
        Tanh = "tanh",
        /// error function
        Erf = "erf",
        /// square root
        Sqrt = "sqrt",
        /// 1/√x
        Rsqrt = "rsqrt",
        /// 1/x
        Recip = "recip",
        /// sine
        Sin = "sin",
        /// cosine
        Cos = "cos",
        /// largest integer not above
        Floor = "floor",
        /// smallest integer not below
        Ceil = "ceil",
        /// nearest integer, ties to even
        Round = "round",
        /// −1, 0 or 1; 0 for 0, NaN for NaN
        Sign = "sign",
        /// boolean negation
        Not = "not",
    }
}

attr_words! {
    /// Scalar functions of two arguments of one dtype; [`crate::scalar`] defines them, integers wrapping to their dtype.
    pub enum BinaryFn {
        /// a + b
        Add = "add",
        /// a − b
        Sub = "sub",
        /// a · b
        Mul = "mul",
        /// a / b; integers truncate and wrap, and give −1 for b = 0
        Div = "div",
        /// remainder of truncated division; integers give a for b = 0
        Rem = "rem",
        /// larger, NaN if either is
        Max = "max",
        /// smaller, NaN if either is
        Min = "min",
        /// aᵇ
        Pow = "pow",
        /// bitwise and; booleans: both
        And = "and",
        /// bitwise or; booleans: either
        Or = "or",
        /// bitwise exclusive or
        Xor = "xor",
        /// shift left by b modulo the width
        Shl = "shl",
        /// logical shift right by b modulo the width
        Shr = "shr",
    }
}

attr_words! {
    /// Comparisons; NaN compares unequal to everything.
    pub enum CompareFn {
        /// a = b
        Eq = "eq",
        /// a ≠ b
        Ne = "ne",
        /// a < b
        Lt = "lt",
        /// a ≤ b
        Le = "le",
        /// a > b
        Gt = "gt",
        /// a ≥ b
        Ge = "ge",
    }
}

attr_words! {
    /// Associative combination over the reduced loop indices.
    pub enum Combine {
        /// Σ, starting from 0
        Sum = "sum",
        /// Π, starting from 1
        Prod = "prod",
        /// maximum, starting from the least value (−∞), NaN if any is
        Max = "max",
        /// minimum, starting from the greatest value (+∞), NaN if any is
        Min = "min",
    }
}

/// Index of a scalar in its [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScalarId(pub u32);

/// One scalar computation inside a nest; operands come earlier in the body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// A constant; integers and booleans as integral floats below 2⁵³.
    Const(Float),
    /// The loop index `dim` as i64.
    LoopIndex(usize),
    /// A read of an operand.
    Load(Access),
    /// f(a)
    Unary(UnaryFn, ScalarId),
    /// f(a, b)
    Binary(BinaryFn, ScalarId, ScalarId),
    /// a ⋈ b as bool
    Compare(CompareFn, ScalarId, ScalarId),
    /// c ? a : b
    Select(ScalarId, ScalarId, ScalarId),
    /// What a [`LoopKernel`](crate::kernel::LoopKernel) accumulated for this point, by position among its values; only
    /// in its body.
    Accumulated(usize),
    /// Conversion to the scalar's dtype: float→int truncates and saturates, bool→number 0 or 1, number→bool `≠ 0`.
    Cast(ScalarId),
}

impl Scalar {
    /// The same computation of other scalars: those that `names` has for its operands.
    pub fn renamed(&self, names: &[ScalarId]) -> Scalar {
        let of = |id: ScalarId| names[id.0 as usize];
        match self {
            Scalar::Const(_) | Scalar::LoopIndex(_) | Scalar::Accumulated(_) => self.clone(),
            Scalar::Load(access) => {
                let mut access = access.clone();
                access.indices.iter_mut().for_each(|index| index.loaded = index.loaded.map(of));
                Scalar::Load(access)
            }
            Scalar::Unary(f, a) => Scalar::Unary(*f, of(*a)),
            Scalar::Binary(f, a, b) => Scalar::Binary(*f, of(*a), of(*b)),
            Scalar::Compare(f, a, b) => Scalar::Compare(*f, of(*a), of(*b)),
            Scalar::Select(c, a, b) => Scalar::Select(of(*c), of(*a), of(*b)),
            Scalar::Cast(a) => Scalar::Cast(of(*a)),
        }
    }
}

/// Straight-line scalar code in SSA form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Body {
    /// Computations with their dtypes, operands before users.
    pub scalars: Vec<(Scalar, DType)>,
}

impl Body {
    /// Appends a computation, or finds an equal one.
    pub fn push(&mut self, scalar: Scalar, dtype: DType) -> ScalarId {
        let entry = (scalar, dtype);
        let at = self.scalars.iter().position(|s| *s == entry).unwrap_or_else(|| {
            self.scalars.push(entry);
            self.scalars.len() - 1
        });
        ScalarId(at as u32)
    }

    /// Dtype of a scalar.
    pub fn dtype(&self, id: ScalarId) -> DType {
        self.scalars[id.0 as usize].1
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, value: f64) -> ScalarId {
        self.push(Scalar::Const(Float::new(value)), dtype)
    }

    /// A read.
    pub fn load(&mut self, dtype: DType, access: Access) -> ScalarId {
        self.push(Scalar::Load(access), dtype)
    }

    /// The value of an affine function of the loop indices, as i64.
    pub fn affine(&mut self, affine: &Affine) -> ScalarId {
        let mut sum = self.constant(DType::I64, affine.base as f64);
        for (dim, &coeff) in affine.coeffs.iter().enumerate().filter(|&(_, &c)| c != 0) {
            let index = self.push(Scalar::LoopIndex(dim), DType::I64);
            let coeff = self.constant(DType::I64, coeff as f64);
            let term = self.binary(BinaryFn::Mul, index, coeff);
            sum = self.binary(BinaryFn::Add, sum, term);
        }
        sum
    }

    /// f(a), of a's dtype.
    pub fn unary(&mut self, f: UnaryFn, a: ScalarId) -> ScalarId {
        self.push(Scalar::Unary(f, a), self.dtype(a))
    }

    /// f(a, b), of a's dtype.
    pub fn binary(&mut self, f: BinaryFn, a: ScalarId, b: ScalarId) -> ScalarId {
        self.push(Scalar::Binary(f, a, b), self.dtype(a))
    }

    /// a ⋈ b.
    pub fn compare(&mut self, f: CompareFn, a: ScalarId, b: ScalarId) -> ScalarId {
        self.push(Scalar::Compare(f, a, b), DType::Bool)
    }

    /// c ? a : b.
    pub fn select(&mut self, c: ScalarId, a: ScalarId, b: ScalarId) -> ScalarId {
        self.push(Scalar::Select(c, a, b), self.dtype(a))
    }

    /// Conversion.
    pub fn cast(&mut self, dtype: DType, a: ScalarId) -> ScalarId {
        if self.dtype(a) == dtype { a } else { self.push(Scalar::Cast(a), dtype) }
    }
}

/// A perfect loop nest that makes one dense result of shape `space`.
///
/// `out[i] = combine over r of body(i, r)`, loop indices being `i` (over `space`) followed by `r` (over `reduce`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nest {
    /// Extents of the result, row-major.
    pub space: Vec<usize>,
    /// Extents reduced over; empty with `combine == None`.
    pub reduce: Vec<usize>,
    /// How reduced values meet.
    pub combine: Option<Combine>,
    /// Scalar code per point.
    pub body: Body,
    /// The body's result.
    pub result: ScalarId,
}

impl Nest {
    /// A nest without reduction.
    pub fn map(space: &[usize], build: impl FnOnce(&mut Body) -> ScalarId) -> Self {
        let mut body = Body::default();
        let result = build(&mut body);
        Nest { space: space.to_vec(), reduce: vec![], combine: None, body, result }
    }

    /// A nest that combines over `reduce`.
    pub fn reduction(
        space: &[usize],
        reduce: &[usize],
        combine: Combine,
        build: impl FnOnce(&mut Body) -> ScalarId,
    ) -> Self {
        Nest { reduce: reduce.to_vec(), combine: Some(combine), ..Nest::map(space, build) }
    }

    /// Number of loop indices.
    pub fn rank(&self) -> usize {
        self.space.len() + self.reduce.len()
    }

    /// When the nest only renames its operand (same elements, same order), that operand.
    pub fn alias_of(&self) -> Option<usize> {
        match &self.body.scalars[self.result.0 as usize].0 {
            Scalar::Load(access) if self.combine.is_none() && access.is_identity(&self.space) => Some(access.operand),
            _ => None,
        }
    }
}

/// `out[i] = Σ_r lhs(i, r) · rhs(i, r)`: products, convolutions and both their adjoints.
///
/// Loop indices are `space` (the result's axes as the contraction sees them, row-major, possibly finer
/// than the result's own shape) followed by `reduce`. A loop index is *batch* when both accesses use it, *M* when
/// only the left does, *N* when only the right does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contraction {
    /// Extents of the result.
    pub space: Vec<usize>,
    /// Extents summed over.
    pub reduce: Vec<usize>,
    /// Reads operand 0; no loaded indices; fill is 0 or `None`.
    pub lhs: Access,
    /// Reads operand 1; no loaded indices; fill is 0 or `None`.
    pub rhs: Access,
    /// Outside of which terms are zero or sums are not read, so that they need not be computed; none in what an op is
    /// lowered to.
    pub bands: Vec<LoopBand>,
}

/// What a [`Scatter`] does with the element it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meeting {
    /// Adds to it.
    Add,
    /// Replaces it; no two updates meet the same element.
    Replace,
}

/// `out = copy of operand 0; for i in space, in row-major order: out[target(i)]` meets `body(i)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scatter {
    /// Extents of the updates.
    pub space: Vec<usize>,
    /// Shape of the result.
    pub target: Vec<usize>,
    /// One index per axis of `target`; loaded parts refer to `body`. Updates out of bounds are dropped.
    pub indices: Vec<Index>,
    /// Scalar code per update.
    pub body: Body,
    /// What is added or put there.
    pub update: ScalarId,
    /// Which of the two.
    pub meeting: Meeting,
}
