//! Which maps pass sums on: `f(Σ x) = Σ f(x)`.

use gradc_ir::lower::{Access, BinaryFn, Combine, Nest, Scalar, ScalarId, UnaryFn};

/// How a scalar depends on what is summed.
#[derive(Clone, Copy, PartialEq)]
enum Degree {
    /// It is zero.
    Zero,
    /// Not at all.
    Free,
    /// As a linear function does.
    Linear,
    /// Otherwise.
    Other,
}

/// Whether the result of a nest is a linear function of what is read of sums, other reads being fixed.
pub(super) fn is_linear(nest: &Nest, is_sum: &dyn Fn(&Access) -> bool) -> bool {
    let mut degrees: Vec<Degree> = vec![];
    for (scalar, dtype) in &nest.body.scalars {
        let of = |id: &ScalarId| degrees[id.0 as usize];
        degrees.push(match scalar {
            Scalar::Const(value) if value.get() == 0.0 => Degree::Zero,
            Scalar::Const(_) | Scalar::LoopIndex(_) => Degree::Free,
            Scalar::Load(access) => load(access, is_sum(access), &of),
            Scalar::Unary(UnaryFn::Neg, a) => of(a),
            Scalar::Cast(a) if dtype.is_float() && nest.body.dtype(*a).is_float() => of(a),
            Scalar::Binary(f, a, b) => binary(*f, of(a), of(b)),
            Scalar::Select(c, a, b) => select(of(c), of(a), of(b)),
            Scalar::Unary(_, a) | Scalar::Cast(a) => fixed(&[of(a)]),
            Scalar::Compare(_, a, b) => fixed(&[of(a), of(b)]),
            Scalar::Accumulated(_) => Degree::Other,
        });
    }
    let adds = matches!(nest.combine, None | Some(Combine::Sum));
    adds && degrees[nest.result.0 as usize] == Degree::Linear
}

fn load(access: &Access, is_sum: bool, of: &dyn Fn(&ScalarId) -> Degree) -> Degree {
    let places: Vec<Degree> = access.indices.iter().filter_map(|i| i.loaded).map(|id| of(&id)).collect();
    let fills_zero = access.fill.is_none_or(|fill| fill.get() == 0.0);
    match fixed(&places) {
        Degree::Free if is_sum && fills_zero => Degree::Linear,
        Degree::Free if !is_sum => Degree::Free,
        _ => Degree::Other,
    }
}

/// Free where all is free.
fn fixed(degrees: &[Degree]) -> Degree {
    let is_free = |d: &Degree| matches!(d, Degree::Zero | Degree::Free);
    if degrees.iter().all(is_free) { Degree::Free } else { Degree::Other }
}

fn binary(f: BinaryFn, a: Degree, b: Degree) -> Degree {
    match (f, a, b) {
        (BinaryFn::Add | BinaryFn::Sub, a, b) => join(a, b),
        (BinaryFn::Mul, Degree::Linear, Degree::Free) | (BinaryFn::Mul, Degree::Free, Degree::Linear) => Degree::Linear,
        (BinaryFn::Div, Degree::Linear, Degree::Free) => Degree::Linear,
        (_, a, b) => fixed(&[a, b]),
    }
}

fn select(condition: Degree, a: Degree, b: Degree) -> Degree {
    if fixed(&[condition]) == Degree::Free { join(a, b) } else { Degree::Other }
}

/// Of both or one of two.
fn join(a: Degree, b: Degree) -> Degree {
    match (a, b) {
        (Degree::Linear, Degree::Linear | Degree::Zero) | (Degree::Zero, Degree::Linear) => Degree::Linear,
        (a, b) => fixed(&[a, b]),
    }
}
