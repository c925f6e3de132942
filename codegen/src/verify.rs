//! What must hold of a kernel before it is compiled, so that running it is safe.

use crate::fixed::Fixed;
use gradc_ir::band::LoopBand;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::kernel::{Accumulate, KernelKind, LoopKernel, RowKernel, RowStep, row_axes, stays_in_row};
use gradc_ir::lower::{Access, Affine, Body, Contraction, LineWork, Lines, Scalar, ScalarId, Scatter, UnaryFn};
use gradc_ir::types::{DType, TensorType};

/// Types of a kernel's operands and results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Signature {
    /// Types read.
    pub operands: Vec<TensorType>,
    /// Types made.
    pub results: Vec<TensorType>,
    /// Whether a library may read the operands: all are in memory that gradc aligns, none is the host's own.
    pub for_library: bool,
    /// Of a contraction in a loop, the operands that stay as they are while it runs; else empty.
    pub fixed: Vec<Option<Fixed>>,
}

/// Fails unless every access of the kernel stays inside its operand and every dtype can be computed with.
pub(crate) fn verify(kind: &KernelKind, signature: &Signature) -> Result<(), Diagnostic> {
    let check = Check { signature };
    check.dtypes()?;
    match kind {
        KernelKind::Loops(kernel) => check.loops(kernel),
        KernelKind::Rows(kernel) => check.rows(kernel),
        KernelKind::Scatter(scatter) => check.scatter(scatter),
        KernelKind::Lines(lines) => check.lines(lines),
    }
}

struct Check<'a> {
    signature: &'a Signature,
}

fn invalid(message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("invalid-kernel", message)
}

impl Check<'_> {
    fn dtypes(&self) -> Result<(), Diagnostic> {
        let all = self.signature.operands.iter().chain(&self.signature.results);
        match all.into_iter().find(|t| matches!(t.dtype, DType::F16 | DType::BF16)) {
            None => Ok(()),
            Some(ty) => Err(Diagnostic::new("unsupported-dtype", "native code does not compute in half precision yet")
                .expected("f32, f64, i64, i32, u8 or bool")
                .found(ty)
                .help("cast to f32")),
        }
    }

    /// Operand and results may be of other shapes with as many elements.
    fn lines(&self, lines: &Lines) -> Result<(), Diagnostic> {
        let Signature { operands, results, .. } = self.signature;
        let is = |ty: &TensorType, extent: usize, dtype: DType| {
            let mut shape = lines.shape.clone();
            shape[lines.axis] = extent;
            ty.dtype == dtype && ty.elements() == shape.iter().product::<usize>()
        };
        let extent = *lines.shape.get(lines.axis).ok_or_else(|| invalid("lines run along no axis"))?;
        let fits = match (&lines.work, &operands[..], &results[..]) {
            (&LineWork::Sort { count, .. }, [x], [values, places]) => {
                let has_places = count <= extent && u32::try_from(extent).is_ok();
                has_places && is(x, extent, x.dtype) && is(values, count, x.dtype) && is(places, count, DType::I64)
            }
            (LineWork::CumulativeSum { .. }, [x], [sums]) => {
                x.dtype != DType::Bool && is(x, extent, x.dtype) && is(sums, extent, x.dtype)
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(invalid("lines do not fit operand and results")) }
    }

    fn loops(&self, kernel: &LoopKernel) -> Result<(), Diagnostic> {
        match &kernel.accumulate {
            None => {}
            Some(Accumulate::Reduce { extents, body, values, .. }) => {
                self.body(body, &[&kernel.space[..], extents].concat(), &[])?;
                values.iter().try_for_each(|&value| exists(body, value))?;
                if values.is_empty() || values.iter().any(|&value| body.dtype(value) != body.dtype(values[0])) {
                    return Err(invalid("what is accumulated together is at least one value, all of one dtype"));
                }
            }
            Some(Accumulate::Contract(contraction)) => self.contraction(contraction, &kernel.space)?,
        }
        let accumulated = match &kernel.accumulate {
            None => vec![],
            Some(Accumulate::Reduce { body, values, .. }) => values.iter().map(|&value| body.dtype(value)).collect(),
            Some(Accumulate::Contract(c)) => vec![self.operand(c.lhs.operand)?.dtype],
        };
        self.body(&kernel.body, &kernel.space, &accumulated)?;
        if kernel.stores.len() != self.signature.results.len() {
            return Err(invalid("a kernel stores as many scalars as it has results"));
        }
        let points: usize = kernel.space.iter().product();
        for (&id, ty) in kernel.stores.iter().zip(&self.signature.results) {
            exists(&kernel.body, id)?;
            if ty.elements() != points || ty.dtype != kernel.body.dtype(id) {
                return Err(invalid("a result does not have the type of what is stored")
                    .expected(format!("{points} elements of {}", kernel.body.dtype(id)))
                    .found(ty));
            }
        }
        Ok(())
    }

    fn rows(&self, kernel: &RowKernel) -> Result<(), Diagnostic> {
        let made = [&self.signature.results[..], &kernel.temporaries].concat();
        let operands = [&self.signature.operands[..], &made].concat();
        let mut is_made = vec![false; made.len()];
        let of_step = |step: &RowStep| step.makes.iter().map(|&k| made.get(k).cloned()).collect::<Option<Vec<_>>>();
        for step in &kernel.steps {
            let results = of_step(step).ok_or_else(|| invalid("a step makes what its kernel does not have"))?;
            let signature = Signature { operands: operands.clone(), results, ..self.signature.clone() };
            let check = Check { signature: &signature };
            check.dtypes()?;
            check.loops(&step.loops)?;
            self.step(kernel, step, &is_made)?;
            for &k in &step.makes {
                if std::mem::replace(&mut is_made[k], true) {
                    return Err(invalid("what a row kernel makes is made once"));
                }
            }
        }
        if is_made.iter().all(|made| *made) { Ok(()) } else { Err(invalid("a row kernel makes all of its results")) }
    }

    /// The rows of a step, and of what it reads among what steps before it have made.
    fn step(&self, kernel: &RowKernel, step: &RowStep, is_made: &[bool]) -> Result<(), Diagnostic> {
        let (rows, space) = (kernel.rows, &step.loops.space);
        if space.contains(&0) || row_axes(space, rows).is_none() {
            return Err(invalid("the first axes of a step are its kernel's rows")
                .expected(format!("{rows} rows"))
                .found(format!("{space:?}")));
        }
        for (access, reduced) in step.loops.reads() {
            let Some(made) = access.operand.checked_sub(self.signature.operands.len()) else { continue };
            if !is_made[made] || !stays_in_row(access, space, reduced, rows) {
                return Err(invalid("a step reads the row that it is at of what earlier steps have made"));
            }
        }
        Ok(())
    }

    fn contraction(&self, contraction: &Contraction, space: &[usize]) -> Result<(), Diagnostic> {
        let extents = [&contraction.space[..], &contraction.reduce].concat();
        if contraction.space != space {
            return Err(invalid("the space of a contraction is that of its kernel"));
        }
        let fits = |of: &LoopBand| {
            let extents = [of.row, of.column].map(|dim| extents.get(dim).copied());
            of.row != of.column && extents == [Some(of.band.rows()), Some(of.band.columns())]
        };
        if !contraction.bands.iter().all(fits) {
            return Err(invalid("a band is between two loops of its contraction, as long as its rows and columns"));
        }
        let dtypes = [self.operand(contraction.lhs.operand)?.dtype, self.operand(contraction.rhs.operand)?.dtype];
        if dtypes[0] != dtypes[1] || dtypes[0] == DType::Bool {
            return Err(invalid("a contraction multiplies numbers of one dtype"));
        }
        for access in [&contraction.lhs, &contraction.rhs] {
            if access.indices.iter().any(|i| i.loaded.is_some()) || access.fill.is_some_and(|f| f.get() != 0.0) {
                return Err(invalid("an access of a contraction has no loaded index and no fill but 0"));
            }
            self.access(access, &extents, &Body::default())?;
        }
        Ok(())
    }

    fn scatter(&self, scatter: &Scatter) -> Result<(), Diagnostic> {
        self.body(&scatter.body, &scatter.space, &[])?;
        exists(&scatter.body, scatter.update)?;
        let target: usize = scatter.target.iter().product();
        let update = scatter.body.dtype(scatter.update);
        let types =
            [self.operand(0)?, self.signature.results.first().ok_or_else(|| invalid("a scatter has a result"))?];
        if types.iter().any(|t| t.elements() != target || t.dtype != update) || update == DType::Bool {
            return Err(invalid("a scatter's base, result and updates are numbers of one type"));
        }
        if scatter.indices.len() != scatter.target.len() {
            return Err(invalid("a scatter has one index per axis of its target"));
        }
        scatter.indices.iter().filter_map(|i| i.loaded).try_for_each(|id| integer(&scatter.body, id))
    }

    fn operand(&self, operand: usize) -> Result<&TensorType, Diagnostic> {
        self.signature.operands.get(operand).ok_or_else(|| invalid(format!("there is no operand {operand}")))
    }

    fn body(&self, body: &Body, extents: &[usize], accumulated: &[DType]) -> Result<(), Diagnostic> {
        for (at, (scalar, dtype)) in body.scalars.iter().enumerate() {
            let known = |id: &ScalarId| (id.0 as usize) < at;
            let earlier = match scalar {
                Scalar::Unary(f, a) => known(a) && (dtype.is_float() || *f == UnaryFn::Not),
                Scalar::Cast(a) => known(a),
                Scalar::Binary(_, a, b) | Scalar::Compare(_, a, b) => known(a) && known(b),
                Scalar::Select(c, a, b) => known(c) && known(a) && known(b),
                Scalar::LoopIndex(dim) => *dim < extents.len() && *dtype == DType::I64,
                Scalar::Accumulated(number) => accumulated.get(*number) == Some(dtype),
                Scalar::Load(access) => access.indices.iter().filter_map(|i| i.loaded).all(|id| known(&id)),
                Scalar::Const(_) => true,
            };
            if !earlier {
                return Err(invalid(format!("scalar {at} of a body refers to what does not exist")));
            }
            if let Scalar::Load(access) = scalar {
                self.load(access, *dtype, extents, body)?;
            }
        }
        Ok(())
    }

    fn load(&self, access: &Access, dtype: DType, extents: &[usize], body: &Body) -> Result<(), Diagnostic> {
        let ty = self.operand(access.operand)?;
        if ty.dtype != dtype {
            return Err(invalid("a load has the dtype of its operand").expected(ty.dtype).found(dtype));
        }
        self.access(access, extents, body)
    }

    fn access(&self, access: &Access, extents: &[usize], body: &Body) -> Result<(), Diagnostic> {
        let ty = self.operand(access.operand)?;
        if access.view.iter().product::<usize>() != ty.elements() || access.view.len() != access.indices.len() {
            return Err(invalid("an access reads its operand under a view of as many elements")
                .expected(ty)
                .found(format!("{:?}", access.view)));
        }
        let never_runs = extents.contains(&0);
        for (index, &extent) in access.indices.iter().zip(&access.view) {
            if let Some(id) = index.loaded {
                integer(body, id)?;
            }
            let clamped = index.loaded.is_some() && extent > 0;
            if access.fill.is_some() || clamped || never_runs {
                continue;
            }
            let (low, high) = bounds(&index.affine, extents);
            let exact = index.divisor == 1;
            if !exact || low < 0 || high >= extent as i128 {
                return Err(invalid("an access leaves its operand")
                    .expected(format!("indices below {extent}"))
                    .found(format!("{low}..={high}")));
            }
        }
        Ok(())
    }
}

fn exists(body: &Body, id: ScalarId) -> Result<(), Diagnostic> {
    if (id.0 as usize) < body.scalars.len() { Ok(()) } else { Err(invalid("a body lacks the scalar it is read for")) }
}

fn integer(body: &Body, id: ScalarId) -> Result<(), Diagnostic> {
    exists(body, id)?;
    let dtype = body.dtype(id);
    if dtype.is_float() || dtype == DType::Bool {
        Err(invalid("a loaded index is an integer").found(dtype))
    } else {
        Ok(())
    }
}

/// Smallest and largest value over non-empty loops.
fn bounds(affine: &Affine, extents: &[usize]) -> (i128, i128) {
    let start = i128::from(affine.base);
    affine.coeffs.iter().zip(extents).fold((start, start), |(low, high), (&c, &n)| {
        let last = i128::from(c) * (n as i128 - 1);
        (low + last.min(0), high + last.max(0))
    })
}
