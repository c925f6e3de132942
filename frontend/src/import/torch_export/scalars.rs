//! Integers that a program computes from sizes; they are known during import.

use super::fault::Fault;

/// An operand of a scalar node.
pub enum Operand {
    Int(i64),
    /// Shape of a tensor.
    Shape(Vec<usize>),
}

/// Nodes that check sizes when the program runs; sizes are fixed here and checked by the ops.
pub fn is_assertion(target: &str) -> bool {
    const ASSERTIONS: [&str; 5] = [
        "torch.ops.aten._assert_async.msg",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten._assert_tensor_metadata.default",
        "torch.ops.aten.sym_constrain_range_for_size.default",
        "torch.ops.aten.sym_constrain_range.default",
    ];
    const COMPARISONS: [&str; 6] = ["eq", "ge", "gt", "le", "lt", "ne"];
    ASSERTIONS.contains(&target) || target.strip_prefix("_operator.").is_some_and(|op| COMPARISONS.contains(&op))
}

/// Whether a target computes an integer.
pub fn is_scalar(target: &str) -> bool {
    target == SYM_SIZE || target.starts_with("_operator.")
}

const SYM_SIZE: &str = "torch.ops.aten.sym_size.int";

/// The value of a scalar node.
pub fn evaluate(target: &str, operands: &[Operand]) -> Result<i64, Fault> {
    let value = match (target, operands) {
        (SYM_SIZE, [Operand::Shape(shape), Operand::Int(axis)]) => {
            let axis = super::call::normal_axis("dim", *axis, shape.len())?;
            shape.get(axis).and_then(|&extent| i64::try_from(extent).ok())
        }
        ("_operator.neg", [Operand::Int(a)]) => a.checked_neg(),
        (_, [Operand::Int(a), Operand::Int(b)]) => match target {
            "_operator.add" => a.checked_add(*b),
            "_operator.sub" => a.checked_sub(*b),
            "_operator.mul" => a.checked_mul(*b),
            // Python rounds down; with a positive divisor Euclid does too.
            "_operator.floordiv" if *b > 0 => a.checked_div_euclid(*b),
            "_operator.mod" if *b > 0 => a.checked_rem_euclid(*b),
            _ => None,
        },
        _ => None,
    };
    value.ok_or_else(|| Fault::new("unsupported-op", "an integer cannot be computed during import").found(target))
}
