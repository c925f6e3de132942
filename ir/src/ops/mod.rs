//! The ops: one file each, and this list. Everything else learns about an op through its rules.

use crate::attr::{Attr, AttrReader, Attrs};
use crate::lower::Lowering;
use crate::op::{Cotangent, EvalError, Numerics, OpAttrs, OpDef, Sample, VjpContext};
use crate::tensor::Tensor;
use crate::types::{TensorType, TypeError};
use std::fmt;

mod conv_shape;
mod elementwise;
mod index_runs;
mod reduction;
mod region;
mod structural;
mod windows;

macro_rules! ops {
    ($($module:ident::$ty:ident),+ $(,)?) => {
        $(mod $module; pub use $module::$ty;)+

        /// Any op.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op { $(#[doc = concat!("See [`", stringify!($ty), "`](struct@", stringify!($ty), ").")] $ty($ty)),+ }

        impl Op {
            /// Names of all ops.
            pub const NAMES: &'static [&'static str] = &[$(<$ty as OpAttrs>::NAME),+];

            /// Name in the text format.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$ty(_) => <$ty as OpAttrs>::NAME),+ }
            }

            /// Reads an op from its name and attributes; `None` when no op has the name.
            pub fn parse(name: &str, attrs: Vec<(String, Attr)>) -> Option<Result<Op, TypeError>> {
                $(if name == <$ty as OpAttrs>::NAME {
                    return Some(<$ty as OpAttrs>::parse(AttrReader::new(<$ty as OpAttrs>::NAME, attrs)).map(Op::$ty));
                })+
                None
            }

            /// The attributes in declaration order.
            pub fn attrs(&self) -> Attrs {
                match self { $(Op::$ty(op) => op.attrs()),+ }
            }

            /// See [`OpDef::infer`].
            pub fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, TypeError> {
                match self { $(Op::$ty(op) => op.infer(inputs)),+ }
            }

            /// See [`OpDef::vjp`].
            pub fn vjp(&self, cx: &mut VjpContext) -> Result<Vec<Cotangent>, TypeError> {
                match self { $(Op::$ty(op) => op.vjp(cx)),+ }
            }

            /// See [`OpDef::eval`].
            pub fn eval(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>, EvalError> {
                match self { $(Op::$ty(op) => op.eval(inputs)),+ }
            }

            /// See [`OpDef::lower`].
            pub fn lower(&self, inputs: &[&TensorType], outputs: &[TensorType]) -> Lowering {
                match self { $(Op::$ty(op) => op.lower(inputs, outputs)),+ }
            }

            /// See [`OpDef::numerics`].
            pub fn numerics(&self) -> Numerics {
                match self { $(Op::$ty(op) => op.numerics()),+ }
            }

            /// The samples of every op, in list order.
            pub fn all_samples() -> Vec<Sample> {
                let mut all = Vec::new();
                $(all.extend(<$ty as OpDef>::samples());)+
                all
            }
        }
    };
}

ops! {
    abs::Abs,
    add::Add,
    and::And,
    barrier::Barrier,
    broadcast::Broadcast,
    call::Call,
    cast::Cast,
    ceil::Ceil,
    compare::Compare,
    concat::Concat,
    cond::Cond,
    constant::Constant,
    convolution::Convolution,
    convolution_input_grad::ConvolutionInputGrad,
    convolution_weight_grad::ConvolutionWeightGrad,
    copy::Copy,
    cos::Cos,
    cumulative_sum::CumulativeSum,
    div::Div,
    dot_general::DotGeneral,
    erf::Erf,
    exp::Exp,
    floor::Floor,
    gather::Gather,
    index_copy::IndexCopy,
    index_select::IndexSelect,
    iota::Iota,
    iterate::Iterate,
    iterate_until::IterateUntil,
    log::Log,
    logistic::Logistic,
    max_pool::MaxPool,
    max_pool_grad::MaxPoolGrad,
    maximum::Maximum,
    minimum::Minimum,
    mul::Mul,
    neg::Neg,
    not::Not,
    or::Or,
    pad::Pad,
    pow::Pow,
    random_uniform::RandomUniform,
    recip::Recip,
    reduce_max::ReduceMax,
    reduce_min::ReduceMin,
    reduce_prod::ReduceProd,
    reduce_sum::ReduceSum,
    rem::Rem,
    reshape::Reshape,
    reverse::Reverse,
    round::Round,
    rsqrt::Rsqrt,
    scan::Scan,
    scan_blocks::ScanBlocks,
    scatter_add::ScatterAdd,
    select::Select,
    shl::Shl,
    shr::Shr,
    sign::Sign,
    sin::Sin,
    slice::Slice,
    sort::Sort,
    sqrt::Sqrt,
    stop_gradient::StopGradient,
    sub::Sub,
    sum_pool::SumPool,
    sum_pool_grad::SumPoolGrad,
    tanh::Tanh,
    transpose::Transpose,
    xor::Xor,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::text::write_op(f, self, &|_| "@?".to_string())
    }
}
