//! Vector arithmetic that code of loops is written in, whatever emits it: Cranelift in four lanes (`loops/lanes.rs`) or
//! strips in eight or sixteen (`wide/`).

use gradc_ir::lower::CompareFn;

/// A comparison of f32; all but `Ne` and the unordered ones are false for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Either is NaN.
    Unordered,
    /// Below, or either is NaN.
    UnorderedOrLess,
}

impl From<CompareFn> for Relation {
    fn from(f: CompareFn) -> Relation {
        match f {
            CompareFn::Eq => Relation::Eq,
            CompareFn::Ne => Relation::Ne,
            CompareFn::Lt => Relation::Lt,
            CompareFn::Le => Relation::Le,
            CompareFn::Gt => Relation::Gt,
            CompareFn::Ge => Relation::Ge,
        }
    }
}

/// Operations on one vector. A vector has 32-bit lanes: f32, i32 or a mask, all bits of a lane equal; the *wide* ones
/// are f64 in half as many lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op1 {
    Sqrt,
    Floor,
    Ceil,
    /// To the nearest integer, ties to even.
    Round,
    /// i32, by a constant.
    ShiftLeft(u8),
    /// i32 with its sign, by a constant.
    ShiftRight(u8),
    /// i32 to f32.
    FloatOfInt,
    /// The lower half of the lanes as f64.
    WidenLow,
    /// The upper half of the lanes as f64.
    WidenHigh,
    FloorWide,
    RoundWide,
    /// f64 as f32 in the lower half of the lanes.
    Narrow,
}

/// Operations on two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op2 {
    Add,
    Sub,
    Mul,
    Div,
    /// `x > y ? x : y`
    Greater,
    /// `x < y ? x : y`
    Less,
    And,
    Or,
    Xor,
    AddInt,
    SubInt,
    /// Mask of the lanes where i32 `x > y`.
    GreaterInt,
    Compare(Relation),
    AddWide,
    MulWide,
    /// The lower half of the lanes of both.
    Join,
}

/// What emits vector code.
pub(crate) trait Simd {
    /// A value in registers; masks and integers are vectors too.
    type Vector: Clone;

    /// The same 32 bits in every lane.
    fn word(&mut self, bits: u32) -> Self::Vector;

    /// The same f64 in every wide lane.
    fn wide_constant(&mut self, x: f64) -> Self::Vector;

    /// An operation on one vector.
    fn op1(&mut self, op: Op1, x: &Self::Vector) -> Self::Vector;

    /// An operation on two vectors.
    fn op2(&mut self, op: Op2, x: &Self::Vector, y: &Self::Vector) -> Self::Vector;

    /// `x · y + z`, rounded once where the machine can.
    fn multiply_add(&mut self, x: &Self::Vector, y: &Self::Vector, z: &Self::Vector) -> Self::Vector;

    /// `mask ? x : y` per lane.
    fn select(&mut self, mask: &Self::Vector, x: &Self::Vector, y: &Self::Vector) -> Self::Vector;
}
