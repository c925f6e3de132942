//! From a group of nodes to its kernels: fusion as composition of accesses.

use super::forms::{Form, Forms, is_plain};
use super::rows::row_kernel;
use gradc_ir::graph::{NodeId, Value};
use gradc_ir::kernel::{Accumulate, Kernel, KernelKind, LoopKernel};
use gradc_ir::lower::{Access, Affine, BinaryFn, Body, Contraction, Index, Lines, Nest, Scalar, ScalarId, Scatter};
use gradc_ir::plan::Group;
use gradc_ir::types::DType;
use std::collections::{BTreeSet, HashMap};

/// The kernels of a group, in order; more than one only for an op with several nests, none for a region.
pub(crate) fn kernels(forms: &Forms, group: &Group) -> Vec<Kernel> {
    if !group.steps.is_empty() {
        let steps = group.steps.iter().flat_map(|step| kernels(forms, step)).collect();
        return vec![row_kernel(forms, steps, &group.stored)];
    }
    let last = *group.nodes.last().expect("a group has a node");
    match forms.get(last) {
        Form::Nests(nests) => nest_kernels(forms, last, nests),
        Form::Scatter(scatter) => vec![scatter_kernel(forms, last, scatter)],
        Form::Lines(lines) => vec![lines_kernel(forms, last, lines)],
        Form::Region(_) => vec![],
        _ => vec![Fused::new(forms, group).finish(group)],
    }
}

/// The stored values behind the operands of a node.
pub(crate) fn roots(forms: &Forms, id: NodeId) -> Vec<Value> {
    forms.graph.node(id).operands.iter().map(|&v| forms.root(v)).collect()
}

fn nest_kernels(forms: &Forms, id: NodeId, nests: &[Nest]) -> Vec<Kernel> {
    let results: Vec<Value> = forms.results(id).collect();
    if let Some(loops) = joined(nests, forms.graph.node(id).operands.len()) {
        return vec![Kernel { kind: KernelKind::Loops(loops), operands: roots(forms, id), results }];
    }
    let operands: Vec<Value> = roots(forms, id).into_iter().chain(results).collect();
    let kernel = |(k, nest): (usize, &Nest)| Kernel {
        kind: KernelKind::Loops(nest_loops(nest)),
        operands: operands[..operands.len() - nests.len() + k].to_vec(),
        results: vec![Value { node: id, result: k as u16 }],
    };
    nests.iter().enumerate().map(kernel).collect()
}

/// Maps over one space as one kernel, where they read each other's results only at the point itself; `operands` is the
/// number of those that are not results.
fn joined(nests: &[Nest], operands: usize) -> Option<LoopKernel> {
    let space = &nests[0].space;
    let (mut body, mut stores) = (Body::default(), vec![]);
    for nest in nests {
        if nest.combine.is_some() || nest.space != *space {
            return None;
        }
        let mut renamed: Vec<ScalarId> = vec![];
        for (scalar, dtype) in &nest.body.scalars {
            renamed.push(match scalar {
                Scalar::Load(access) if access.operand >= operands => {
                    *stores.get(access.operand - operands).filter(|_| access.is_identity(space))?
                }
                _ => body.push(scalar.renamed(&renamed), *dtype),
            });
        }
        stores.push(renamed[nest.result.0 as usize]);
    }
    Some(LoopKernel { space: space.clone(), accumulate: None, body, stores })
}

fn nest_loops(nest: &Nest) -> LoopKernel {
    let Some(combine) = nest.combine else {
        return LoopKernel {
            space: nest.space.clone(),
            accumulate: None,
            body: nest.body.clone(),
            stores: vec![nest.result],
        };
    };
    let mut body = Body::default();
    let result = body.push(Scalar::Accumulated(0), nest.body.dtype(nest.result));
    let accumulate = Accumulate::Reduce {
        extents: nest.reduce.clone(),
        combine,
        body: nest.body.clone(),
        values: vec![nest.result],
    };
    LoopKernel { space: nest.space.clone(), accumulate: Some(accumulate), body, stores: vec![result] }
}

fn scatter_kernel(forms: &Forms, id: NodeId, scatter: &Scatter) -> Kernel {
    Kernel {
        kind: KernelKind::Scatter(scatter.clone()),
        operands: roots(forms, id),
        results: forms.graph.results(id).collect(),
    }
}

fn lines_kernel(forms: &Forms, id: NodeId, lines: &Lines) -> Kernel {
    Kernel {
        kind: KernelKind::Lines(lines.clone()),
        operands: roots(forms, id),
        results: forms.graph.results(id).collect(),
    }
}

/// A fused kernel under construction.
struct Fused<'a> {
    forms: &'a Forms<'a>,
    /// Nodes computed in this kernel.
    members: BTreeSet<NodeId>,
    /// The members that accumulate, all over the same.
    anchors: Vec<NodeId>,
    operands: Vec<Value>,
}

impl<'a> Fused<'a> {
    fn new(forms: &'a Forms<'a>, group: &Group) -> Self {
        let anchors = group.nodes.iter().copied().filter(|&id| forms.accumulates(id)).collect();
        Fused { forms, members: group.nodes.iter().copied().collect(), anchors, operands: vec![] }
    }

    fn finish(mut self, group: &Group) -> Kernel {
        let space = self.forms.space(group.stored[0].node).expect("members of a fused group are loops").to_vec();
        let accumulate = self.accumulate();
        let mut code = Code::new(space.len());
        let identity = code.identity();
        let stores = group.stored.iter().map(|&v| self.value(&mut code, v, &identity, true)).collect();
        let kernel = LoopKernel { space, accumulate, body: code.body, stores };
        Kernel { kind: KernelKind::Loops(kernel), operands: self.operands, results: group.stored.clone() }
    }

    fn accumulate(&mut self) -> Option<Accumulate> {
        let &first = self.anchors.first()?;
        Some(match self.forms.get(first) {
            Form::Contract(contraction) => Accumulate::Contract(self.contraction(first, contraction)),
            Form::Reduce(nest) => self.reductions(nest),
            other => unreachable!("an anchor accumulates, found {other:?}"),
        })
    }

    /// All anchors, the first of which is of this form: they share what they read and compute alike.
    fn reductions(&mut self, first: &Nest) -> Accumulate {
        let mut code = Code::new(first.rank());
        let identity = code.identity();
        let mut values = vec![];
        for id in self.anchors.clone() {
            let nest = self.forms.nest(id).expect("what accumulates together reduces");
            values.push(self.splice(&mut code, id, nest, &identity, false));
        }
        let combine = first.combine.expect("a reduction combines");
        Accumulate::Reduce { extents: first.reduce.clone(), combine, body: code.body, values }
    }

    fn contraction(&mut self, id: NodeId, contraction: &Contraction) -> Contraction {
        let operands = &self.forms.graph.node(id).operands;
        let mut bound = contraction.clone();
        bound.lhs.operand = self.operand(operands[contraction.lhs.operand]);
        bound.rhs.operand = self.operand(operands[contraction.rhs.operand]);
        bound
    }

    fn operand(&mut self, value: Value) -> usize {
        let root = self.forms.root(value);
        self.operands.iter().position(|&v| v == root).unwrap_or_else(|| {
            self.operands.push(root);
            self.operands.len() - 1
        })
    }

    /// The member whose value this is under the same shape, through nodes that only rename it; else the value itself.
    fn member_behind(&self, value: Value) -> Value {
        let root = self.forms.root(value);
        let same = self.forms.stored_shape(root) == self.forms.stored_shape(value);
        if same && self.members.contains(&root.node) { root } else { value }
    }

    /// Code for element `at` of a value; `accumulated` says whether what the anchors accumulate is at hand.
    fn value(&mut self, code: &mut Code, value: Value, at: &[Affine], accumulated: bool) -> ScalarId {
        let key = (value, at.to_vec());
        if let Some(&known) = code.known.get(&key) {
            return known;
        }
        let dtype = self.forms.graph.ty(value).dtype;
        let scalar = if !self.members.contains(&value.node) {
            let operand = self.operand(value);
            code.body.load(dtype, Access::new(operand, &self.forms.stored_shape(value), at.to_vec()))
        } else if let Some(number) = self.anchors.iter().position(|&id| accumulated && id == value.node) {
            code.body.push(Scalar::Accumulated(number), dtype)
        } else {
            let nest = self.forms.nest(value.node).expect("members other than the anchors are maps");
            self.splice(code, value.node, nest, at, accumulated)
        };
        code.known.insert(key, scalar);
        scalar
    }

    /// Appends a nest's body with its loop indices replaced by `at`.
    fn splice(&mut self, code: &mut Code, id: NodeId, nest: &Nest, at: &[Affine], accumulated: bool) -> ScalarId {
        let mut renamed: Vec<ScalarId> = Vec::with_capacity(nest.body.scalars.len());
        for (scalar, dtype) in &nest.body.scalars {
            let next = match scalar {
                Scalar::LoopIndex(dim) => affine_scalar(&mut code.body, &at[*dim]),
                Scalar::Load(access) => self.load(code, id, access, *dtype, at, &renamed, accumulated),
                _ => code.body.push(scalar.renamed(&renamed), *dtype),
            };
            renamed.push(next);
        }
        renamed[nest.result.0 as usize]
    }

    #[allow(clippy::too_many_arguments, reason = "the context of one scalar of a spliced body")]
    fn load(
        &mut self,
        code: &mut Code,
        id: NodeId,
        access: &Access,
        dtype: DType,
        at: &[Affine],
        renamed: &[ScalarId],
        accumulated: bool,
    ) -> ScalarId {
        let value = self.member_behind(self.forms.graph.node(id).operands[access.operand]);
        let composed: Vec<Affine> = access.indices.iter().map(|i| compose(&i.affine, at, code.rank)).collect();
        if self.members.contains(&value.node) {
            debug_assert!(is_plain(access), "a member is read by plain accesses");
            return self.value(code, value, &composed, accumulated);
        }
        let indices = access.indices.iter().zip(composed).map(|(index, affine)| Index {
            affine,
            divisor: index.divisor,
            loaded: index.loaded.map(|s| renamed[s.0 as usize]),
        });
        let access = Access {
            operand: self.operand(value),
            view: access.view.clone(),
            indices: indices.collect(),
            fill: access.fill,
        };
        code.body.load(dtype, access)
    }
}

/// A body and the values already computed in it.
struct Code {
    /// Number of loop indices.
    rank: usize,
    body: Body,
    known: HashMap<(Value, Vec<Affine>), ScalarId>,
}

impl Code {
    fn new(rank: usize) -> Self {
        Code { rank, body: Body::default(), known: HashMap::new() }
    }

    fn identity(&self) -> Vec<Affine> {
        (0..self.rank).map(|d| Affine::dim(self.rank, d)).collect()
    }
}

/// `outer` with each loop index replaced by an affine function of `rank` other loop indices.
fn compose(outer: &Affine, at: &[Affine], rank: usize) -> Affine {
    let mut composed = Affine::constant(rank, outer.base);
    for (&coeff, inner) in outer.coeffs.iter().zip(at) {
        composed.base += coeff * inner.base;
        composed.coeffs.iter_mut().zip(&inner.coeffs).for_each(|(c, i)| *c += coeff * i);
    }
    composed
}

/// The value of an affine function as an i64 scalar.
fn affine_scalar(body: &mut Body, affine: &Affine) -> ScalarId {
    let mut sum: Option<ScalarId> = None;
    for (dim, &coeff) in affine.coeffs.iter().enumerate().filter(|(_, c)| **c != 0) {
        let index = body.push(Scalar::LoopIndex(dim), DType::I64);
        let term = scaled(body, index, coeff);
        sum = Some(sum.map_or(term, |s| body.binary(BinaryFn::Add, s, term)));
    }
    let base = affine.base as f64;
    match sum {
        None => body.constant(DType::I64, base),
        Some(sum) if affine.base == 0 => sum,
        Some(sum) => {
            let base = body.constant(DType::I64, base);
            body.binary(BinaryFn::Add, sum, base)
        }
    }
}

fn scaled(body: &mut Body, index: ScalarId, coeff: i64) -> ScalarId {
    if coeff == 1 {
        return index;
    }
    let coeff = body.constant(DType::I64, coeff as f64);
    body.binary(BinaryFn::Mul, index, coeff)
}
