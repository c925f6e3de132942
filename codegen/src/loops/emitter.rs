//! State of the emission of one kernel: open loops and what is known inside them.

use super::SimdOptions;
use super::plan::{AxisPlan, BodyPlan, LoopPlan};
use super::values::{Rep, to_lanes, to_mask, to_vector};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value};
use cranelift_frontend::FunctionBuilder;
use gradc_ir::lower::ScalarId;
use gradc_ir::types::DType;
use std::collections::HashMap;

/// Points handled together: `groups` vectors of `lanes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    /// 1 or [`LANES`].
    pub lanes: usize,
    /// Vectors interleaved.
    pub groups: usize,
}

impl Width {
    /// One point.
    pub const POINT: Width = Width { lanes: 1, groups: 1 };

    /// Number of points.
    pub fn points(self) -> usize {
        self.lanes * self.groups
    }
}

/// Which of a kernel's two bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    /// The body that is accumulated.
    Reduced = 0,
    /// The body per point.
    Point = 1,
}

/// End of a range of a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Known when the kernel is compiled.
    Static(i64),
    /// Known when it runs.
    Dynamic(Value),
}

/// What has been computed already where emission is; dropped when a loop is left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    reps: [HashMap<u32, Rep>; 2],
    pub pointers: HashMap<(usize, Vec<i64>), Value>,
    pub axes: HashMap<(Which, u32), UniformAxes>,
}

/// What the axes of a load add where they do not move with the vector loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UniformAxes {
    /// Bytes to add.
    pub offset_bytes: Option<Value>,
    /// Whether all guarded ones are in bounds.
    pub in_bounds: Option<Value>,
}

/// A buffer a kernel reads or writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// Address of the first element.
    pub base: Value,
    /// Element type.
    pub dtype: DType,
}

/// Emits a loop's body from its index and the values carried into a trip; gives those carried out.
pub(crate) type LoopBody<'a, 'e, 'f> = dyn FnMut(&mut Emitter<'e, 'f>, Value, Vec<Value>) -> Vec<Value> + 'a;

/// Emits one kernel.
pub(crate) struct Emitter<'e, 'f> {
    pub b: &'e mut FunctionBuilder<'f>,
    pub plan: &'e LoopPlan,
    /// Operands, then results.
    pub buffers: &'e [Buffer],
    /// The context all kernels get.
    pub context: Value,
    pub simd: SimdOptions,
    /// Current index of each loop that is open.
    pub index: Vec<Option<Value>>,
    /// Open loops, outermost first, without the vector loop.
    pub open: Vec<usize>,
    pub width: Width,
    pub known: Known,
    /// Code of the strips called so far.
    pub strips: Vec<Vec<u8>>,
    /// The loop whose next trip reads what should be in the cache by then.
    pub ahead: Option<usize>,
    /// Where stages hand over the sums of parts.
    pub shared_sums: Option<Value>,
    /// Which of the values that are accumulated is.
    pub combined: usize,
    /// The part that is summed and its rows, the first reduced loop's trips; `None` for all.
    pub part: Option<(Value, (Bound, Bound))>,
}

impl<'e, 'f> Emitter<'e, 'f> {
    pub fn new(
        b: &'e mut FunctionBuilder<'f>,
        plan: &'e LoopPlan,
        buffers: &'e [Buffer],
        context: Value,
        simd: SimdOptions,
    ) -> Self {
        let index = vec![None; plan.extents.len()];
        Emitter {
            b,
            plan,
            buffers,
            context,
            simd,
            index,
            open: vec![],
            width: Width::POINT,
            known: Known::default(),
            strips: vec![],
            ahead: None,
            shared_sums: None,
            combined: 0,
            part: None,
        }
    }

    pub fn body(&self, which: Which) -> &'e BodyPlan {
        match (which, &self.plan.reduction) {
            (Which::Reduced, Some(reduction)) => &reduction.body,
            _ => &self.plan.body,
        }
    }

    /// Emits `body` with what it computes forgotten afterwards, because later code may not be reached through it.
    pub fn scoped<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        let known = self.known.clone();
        let result = body(self);
        self.known = known;
        result
    }

    /// A loop from `low` to `high` by `step` that carries values; the body gets the index and returns the next ones.
    pub fn range(
        &mut self,
        (low, high): (Bound, Bound),
        step: usize,
        carried: Vec<Value>,
        body: &mut LoopBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let trips = match (low, high) {
            (Bound::Static(l), Bound::Static(h)) => Some((h - l).max(0) / step as i64),
            _ => None,
        };
        match trips {
            Some(0) => carried,
            Some(1) => {
                let index = self.bound(low);
                self.scoped(|e| body(e, index, carried))
            }
            _ => self.repeat((low, high), step, carried, trips.is_some(), body),
        }
    }

    fn repeat(
        &mut self,
        (low, high): (Bound, Bound),
        step: usize,
        carried: Vec<Value>,
        entered: bool,
        body: &mut LoopBody<'_, 'e, 'f>,
    ) -> Vec<Value> {
        let (head, exit) = (self.b.create_block(), self.b.create_block());
        self.b.append_block_param(head, I64);
        for &v in &carried {
            let ty = self.b.func.dfg.value_type(v);
            self.b.append_block_param(head, ty);
            self.b.append_block_param(exit, ty);
        }
        let (low, high) = (self.bound(low), self.bound(high));
        let arguments = |first: Option<Value>, rest: &[Value]| -> Vec<BlockArg> {
            first.iter().chain(rest).map(|&v| BlockArg::from(v)).collect()
        };
        if entered {
            self.b.ins().jump(head, &arguments(Some(low), &carried));
        } else {
            let any = self.b.ins().icmp(IntCC::SignedLessThan, low, high);
            self.b.ins().brif(any, head, &arguments(Some(low), &carried), exit, &arguments(None, &carried));
        }
        self.b.switch_to_block(head);
        let parameters = self.b.block_params(head).to_vec();
        let next = self.scoped(|e| body(e, parameters[0], parameters[1..].to_vec()));
        let index = self.b.ins().iadd_imm_s(parameters[0], step as i64);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, index, high);
        self.b.ins().brif(again, head, &arguments(Some(index), &next), exit, &arguments(None, &next));
        self.b.switch_to_block(exit);
        self.b.block_params(exit).to_vec()
    }

    pub fn bound(&mut self, bound: Bound) -> Value {
        match bound {
            Bound::Static(n) => self.b.ins().iconst(I64, n),
            Bound::Dynamic(v) => v,
        }
    }

    /// Opens a loop at an index for the time of `body`.
    pub fn at<R>(&mut self, dim: usize, index: Value, body: impl FnOnce(&mut Self) -> R) -> R {
        let vector = self.plan.vector == Some(dim);
        self.index[dim] = Some(index);
        if !vector {
            self.open.push(dim);
        }
        let result = body(self);
        if !vector {
            self.open.pop();
        }
        self.index[dim] = None;
        result
    }

    /// Emits what does not change inside the loops still to be opened: scalars, addresses, guards.
    pub fn hoist(&mut self, which: Which) {
        let body = self.body(which);
        let open = self.open.iter().fold(0, |set, d| set | 1 << d);
        for at in 0..body.scalars.len() {
            let id = ScalarId(at as u32);
            if let Some(load) = &body.loads[at] {
                self.pointer(load.operand, &load.flat);
                let ready = |a: &AxisPlan| {
                    let own = (0..a.index.affine.coeffs.len()).filter(|&d| a.index.affine.coeffs[d] != 0);
                    let loaded = a.index.loaded.map_or(0, |s| body.loops[s.0 as usize]);
                    own.fold(loaded, |set, d| set | 1 << d) & !open == 0
                };
                if !load.axes.is_empty() && load.axes.iter().all(ready) {
                    self.uniform_axes(which, id, load);
                }
            }
            let constant = matches!(body.scalars[at].0, gradc_ir::lower::Scalar::Const(_));
            if body.loops[at] & !open == 0 && !constant {
                self.rep(which, id);
            }
        }
    }

    /// Whether a scalar is the same at all points of the block.
    pub fn is_uniform(&self, which: Which, id: ScalarId) -> bool {
        self.width.lanes == 1 || !self.plan.vector.is_some_and(|v| self.body(which).depends_on(id, v))
    }

    /// The registers of a scalar, computed now if they are not there yet.
    pub fn rep(&mut self, which: Which, id: ScalarId) -> Rep {
        if let Some(rep) = self.known.reps[which as usize].get(&id.0) {
            return rep.clone();
        }
        let rep = self.compute(which, id);
        self.set_rep(which, id, rep.clone());
        rep
    }

    /// Makes known what a scalar is.
    pub fn set_rep(&mut self, which: Which, id: ScalarId, rep: Rep) {
        self.known.reps[which as usize].insert(id.0, rep);
    }

    /// A scalar as vectors of f32.
    pub fn vector(&mut self, which: Which, id: ScalarId) -> Vec<Value> {
        let rep = self.rep(which, id);
        to_vector(self.b, &rep)
    }

    /// A scalar as masks.
    pub fn mask(&mut self, which: Which, id: ScalarId) -> Vec<Value> {
        let rep = self.rep(which, id);
        to_mask(self.b, &rep)
    }

    /// A scalar as one value per point, or one if it is uniform.
    pub fn lanes(&mut self, which: Which, id: ScalarId) -> Vec<Value> {
        let rep = self.rep(which, id);
        let uniform = self.is_uniform(which, id);
        to_lanes(self.b, &rep, uniform)
    }
}
