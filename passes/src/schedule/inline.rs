//! Which maps are computed inside their users instead of being stored.

use super::forms::{Form, Forms, is_plain};
use crate::layout::loads;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::lower::{Body, Nest, Scalar, UnaryFn};

/// Largest number of scalars a fused body may have.
pub(crate) const MAX_BODY: usize = 64;

/// Arithmetic, in operations per element, that is repeated in each of several users rather than stored.
const CHEAP_OPERATIONS: usize = 4;

/// Evaluations per element up to which cheap arithmetic is repeated.
const CHEAP_REPETITION: usize = 4;

/// Marks the maps that are computed inside their users.
pub(crate) fn inlined(forms: &Forms) -> Vec<bool> {
    let graph = forms.graph;
    let users = graph.users();
    let stored = must_store(forms);
    let mut inlined = vec![false; graph.nodes().len()];
    let mut costs = vec![Cost::default(); graph.nodes().len()];
    for id in graph.node_ids() {
        let Form::Map(nest) = forms.get(id) else { continue };
        let operands = graph.node(id).operands.iter().filter(|v| inlined[v.node.index()]);
        costs[id.index()] = operands.fold(own_cost(nest), |sum, v| sum.plus(costs[v.node.index()]));
        inlined[id.index()] = !stored[id.index()] && may_inline(forms, id, &users[id.index()], costs[id.index()]);
    }
    inlined
}

/// Work of a body: scalars altogether, arithmetic, and whether a long polynomial is among it.
#[derive(Clone, Copy, Default)]
struct Cost {
    scalars: usize,
    operations: usize,
    polynomial: bool,
}

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            scalars: self.scalars + other.scalars,
            operations: self.operations + other.operations,
            polynomial: self.polynomial || other.polynomial,
        }
    }
}

fn own_cost(nest: &Nest) -> Cost {
    let polynomial = nest.body.scalars.iter().any(|(s, _)| is_polynomial(s));
    Cost { scalars: nest.body.scalars.len(), operations: operations(&nest.body), polynomial }
}

/// Arithmetic of a body, in operations per point.
pub(crate) fn operations(body: &Body) -> usize {
    let is_operation =
        |s: &Scalar| !matches!(s, Scalar::Const(_) | Scalar::LoopIndex(_) | Scalar::Load(_) | Scalar::Cast(_));
    body.scalars.iter().filter(|(s, _)| is_operation(s)).count()
}

/// Whether a scalar takes many instructions.
pub(crate) fn is_polynomial(scalar: &Scalar) -> bool {
    use UnaryFn::{Abs, Ceil, Floor, Neg, Not, Round, Sign};
    match scalar {
        Scalar::Unary(f, _) => !matches!(f, Neg | Abs | Not | Floor | Ceil | Round | Sign),
        Scalar::Binary(f, ..) => matches!(
            f,
            gradc_ir::lower::BinaryFn::Pow | gradc_ir::lower::BinaryFn::Div | gradc_ir::lower::BinaryFn::Rem
        ),
        _ => false,
    }
}

/// Nodes with a result that something other than a loop nest reads, or that leaves the graph.
fn must_store(forms: &Forms) -> Vec<bool> {
    let graph = forms.graph;
    let mut stored = vec![false; graph.nodes().len()];
    let mut mark = |value: Value| stored[forms.root(value).node.index()] = true;
    graph.outputs().iter().for_each(|o| mark(o.value));
    for id in graph.node_ids() {
        match forms.get(id) {
            Form::Map(_) | Form::Reduce(_) => {}
            Form::Alias(of) => mark(*of),
            _ => graph.node(id).operands.iter().for_each(|&v| mark(v)),
        }
    }
    stored
}

fn may_inline(forms: &Forms, id: NodeId, users: &[NodeId], cost: Cost) -> bool {
    let value = Value { node: id, result: 0 };
    let shape = forms.stored_shape(value);
    let elements = forms.graph.ty(value).elements().max(1);
    let mut evaluations = 0usize;
    for &user in users {
        let Some(nest) = forms.nest(user) else { return false };
        let operands = &forms.graph.node(user).operands;
        for access in loads(&nest.body).filter(|a| operands[a.operand] == value) {
            if !is_plain(access) || access.view != shape {
                return false;
            }
            evaluations += nest.space.iter().chain(&nest.reduce).product::<usize>();
        }
    }
    let once = evaluations <= elements;
    let cheap = cost.operations <= CHEAP_OPERATIONS && !cost.polynomial && evaluations <= CHEAP_REPETITION * elements;
    cost.scalars <= MAX_BODY / 2 && (cost.operations == 0 || once || cheap)
}
