//! The step of a loop, linearised at a point: `Φ = ∂f/∂x` and `Ψ = ∂f/∂c`, both transposed.

use super::activity::Activity;
use super::split::{Again, Residual, Split};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Function, Value};
use gradc_ir::ops::Scan;
use gradc_ir::types::{TensorType, TypeError};

/// The derivative of one step of a loop without scanned operands and stacked results, at one point.
///
/// Vectors have one part per carry that has a cotangent.
#[derive(Clone)]
pub(super) struct Linearised<'a> {
    scan: &'a Scan,
    activity: &'a Activity,
    split: Split,
    /// What the derivative reads: forward values at the point, and constants.
    pub given: Vec<Value>,
    /// The point, all carries of it.
    point: Vec<Value>,
    /// The step's result at the point, all carries of it.
    image: Vec<Value>,
    /// The constants of the loop.
    consts: Vec<Value>,
}

impl<'a> Linearised<'a> {
    /// At the carries `point`, with the constants `consts`.
    pub fn new(
        b: &mut Builder,
        scan: &'a Scan,
        activity: &'a Activity,
        point: &[Value],
        consts: &[Value],
    ) -> Result<Self, TypeError> {
        let split = Split::new(scan, activity, Again::Cheap)?;
        let results = b.inline(&split.forward, &[point, consts].concat())?;
        let residual = |residual: &Residual| match *residual {
            Residual::Result(k) | Residual::NextCarry(k) => results[k],
        };
        let arguments = split.arguments.iter().map(|&k| consts[k - scan.carries]);
        let given = split.residuals.iter().map(residual).chain(arguments).collect();
        let (point, image) = (point.to_vec(), results[..scan.carries].to_vec());
        Ok(Linearised { scan, activity, split, given, point, image, consts: consts.to_vec() })
    }

    /// The derivative in a body, where what it reads is an argument.
    pub fn given(&self, given: &[Value]) -> Self {
        Linearised { given: given.to_vec(), ..self.clone() }
    }

    /// Types of the parts of a vector.
    pub fn types(&self) -> Vec<TensorType> {
        let body = &self.scan.body;
        self.activity.seeds.iter().map(|&k| body.ty(body.inputs()[k].value).clone()).collect()
    }

    /// Whether the derivative is the same at every point.
    pub fn is_constant(&self) -> bool {
        self.split.residuals.is_empty()
    }

    /// The parts of the point that have cotangents.
    pub fn point(&self) -> Vec<Value> {
        self.activity.seeds.iter().map(|&k| self.point[k]).collect()
    }

    /// The parts of the step's result that have cotangents.
    pub fn image(&self) -> Vec<Value> {
        self.activity.seeds.iter().map(|&k| self.image[k]).collect()
    }

    /// Whether every comparison that the derivative selects by comes out the same at the point and one step on.
    pub fn same_piece(&self, b: &mut Builder) -> Result<Value, TypeError> {
        let here = b.inline(&self.split.kinks, &[&self.point[..], &self.consts].concat())?;
        let there = b.inline(&self.split.kinks, &[&self.image[..], &self.consts].concat())?;
        let mut same = b.scalar(gradc_ir::types::DType::Bool, 1.0)?;
        for (here, there) in here.into_iter().zip(there) {
            let differs = b.xor(here, there)?;
            let agree = none(b, differs)?;
            same = b.and(same, agree)?;
        }
        Ok(same)
    }

    /// `(w…, given…) → Φᵀw`.
    pub fn transposed(&self, b: &mut Builder) -> Result<Function, TypeError> {
        let vector = self.types();
        let given = self.given.iter().map(|&v| b.ty(v).clone()).collect();
        Builder::function(&self.split.backward.name, &[vector.clone(), given].concat(), |b, x| {
            let (w, given) = x.split_at(vector.len());
            self.apply(b, w, given, &self.activity.seeds)
        })
    }

    /// `Ψᵀv`, one part per constant that a gradient reaches.
    pub fn const_gradients(&self, b: &mut Builder, v: &[Value]) -> Result<Vec<Value>, TypeError> {
        self.apply(b, v, &self.given, &self.activity.consts(self.scan))
    }

    /// The gradients of some arguments for a cotangent of the step's result.
    fn apply(&self, b: &mut Builder, w: &[Value], given: &[Value], of: &[usize]) -> Result<Vec<Value>, TypeError> {
        let body = &self.scan.body;
        let ty = |k: usize| body.ty(body.inputs()[k].value);
        let sums = self.activity.consts(self.scan).into_iter().map(|k| b.splat(ty(k), -0.0));
        let sums = sums.collect::<Result<Vec<_>, _>>()?;
        let gradients = b.inline(&self.split.backward, &[given, w, &sums].concat())?;
        let gradient = |k: &usize| match self.activity.reached.iter().position(|r| r == k) {
            Some(at) => Ok(gradients[at]),
            None => b.splat(ty(*k), 0.0),
        };
        of.iter().map(gradient).collect()
    }
}

/// Whether no element of a boolean tensor holds, as a boolean scalar.
pub(super) fn none(b: &mut Builder, flags: Value) -> Result<Value, TypeError> {
    let axes: Vec<usize> = (0..b.shape(flags).len()).collect();
    let numbers = b.cast(flags, gradc_ir::types::DType::F32)?;
    let largest = b.reduce_max(numbers, &axes)?;
    let zero = b.full_like(largest, 0.0)?;
    b.compare(gradc_ir::lower::CompareFn::Le, largest, zero)
}
