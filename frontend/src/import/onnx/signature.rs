//! Data inputs of a file, at the sizes asked for.

use super::constants::Tensors;
use super::proto::{DimensionProto, GraphProto, ValueInfoProto};
use super::tensors::dtype;
use crate::import::contradicting_sizes;
use crate::model::ImportOptions;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics, Loc};
use gradc_ir::types::{DType, TensorType, TypeError};
use std::collections::BTreeSet;

/// Named types of the data inputs.
pub type Inputs<'a> = Vec<(&'a str, TensorType)>;

/// Data inputs of a file.
pub struct Signature<'a> {
    /// Types at the sizes asked for.
    pub inputs: Inputs<'a>,
    /// Types at the file's own batch size, when that is known and another one is asked for.
    pub own_inputs: Option<Inputs<'a>>,
}

/// An input as the file declares it; an extent is `None` when it is symbolic and no size was given for it.
struct Declared<'a> {
    name: &'a str,
    dtype: DType,
    extents: Vec<Extent<'a>>,
}

/// Size (or `None`) and symbolic name (or an empty one) of an axis.
type Extent<'a> = (Option<usize>, &'a str);

/// Reads the types of all graph inputs that are not initializers.
///
/// `options.batch` replaces the leading extent of the first input, and that of every input with the same one.
///
/// # Errors
/// One diagnostic per input without a usable type, and per name in `options.dims` that the file does not use.
pub fn read<'a>(
    graph: &'a GraphProto,
    tensors: &Tensors,
    options: &ImportOptions,
) -> Result<Signature<'a>, Diagnostics> {
    let data = graph.input.iter().filter(|i| !tensors.by_name.contains_key(&i.name));
    let (mut declared, mut problems) = (Vec::new(), Vec::new());
    for info in data {
        match declare(info, options) {
            Ok(input) => declared.push(input),
            Err(error) => problems.push(invalid(&info.name, error)),
        }
    }
    problems.extend(unknown_dims(graph, options));
    let batch_axis = declared.iter().find_map(|d| d.extents.first().copied());
    let batch = options.batch.zip(batch_axis);
    if let Some((new, (Some(size), name))) = batch
        && size != new
        && options.dims.contains_key(name)
    {
        problems.push(contradicting_sizes(name, size, new));
    }
    let mut inputs = Vec::new();
    for input in &declared {
        match input.sized(batch) {
            Ok(ty) => inputs.push((input.name, ty)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    let changed = batch.is_some_and(|(new, (old, _))| old != Some(new));
    let own = || declared.iter().map(|input| Some((input.name, input.sized(None).ok()?))).collect();
    Ok(Signature { inputs, own_inputs: if changed { own() } else { None } })
}

fn invalid(name: &str, error: TypeError) -> Diagnostic {
    let error = TypeError { message: format!("input `{name}`: {}", error.message), ..error };
    Diagnostic::from_type_error("invalid-input", error, Loc::default())
}

fn declare<'a>(info: &'a ValueInfoProto, options: &ImportOptions) -> Result<Declared<'a>, TypeError> {
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| TypeError::new("the input has no type or is not a tensor"))?;
    let shape = tensor.shape.as_ref().ok_or_else(|| TypeError::new("the input has no shape"))?;
    let extents = shape.dim.iter().map(|dim| extent(dim, options)).collect::<Result<_, _>>()?;
    Ok(Declared { name: &info.name, dtype: dtype(tensor.elem_type)?, extents })
}

fn extent<'a>(dim: &'a DimensionProto, options: &ImportOptions) -> Result<Extent<'a>, TypeError> {
    let name = dim.dim_param.as_deref().unwrap_or_default();
    match dim.dim_value {
        None => Ok((options.dims.get(name).copied(), name)),
        Some(size) => match usize::try_from(size) {
            Ok(size) => Ok((Some(size), name)),
            Err(_) => Err(TypeError::new("an extent is negative").found(size)),
        },
    }
}

impl Declared<'_> {
    /// The type, with extents equal to the old batch's replaced along the leading axis.
    fn sized(&self, batch: Option<(usize, Extent)>) -> Result<TensorType, Diagnostic> {
        let mut sizes: Vec<Option<usize>> = self.extents.iter().map(|(size, _)| *size).collect();
        if let (Some((new, old)), Some(leading)) = (batch, self.extents.first())
            && *leading == old
        {
            sizes[0] = Some(new);
        }
        let unknown = || self.extents.iter().zip(&sizes).find(|(_, size)| size.is_none()).map_or("", |((_, n), _)| n);
        let shape: Option<Vec<usize>> = sizes.iter().copied().collect();
        let shape = shape.ok_or_else(|| {
            let error = TypeError::new(format!("the extent `{}` has no size", unknown()));
            invalid(self.name, error).help(format!("give it with `--dim {}=N`, or the batch size", unknown()))
        })?;
        TensorType::checked(self.dtype, shape).map_err(|e| invalid(self.name, e))
    }
}

fn unknown_dims(graph: &GraphProto, options: &ImportOptions) -> Vec<Diagnostic> {
    let shapes = graph.input.iter().filter_map(|i| i.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref());
    let names: BTreeSet<&str> = shapes.flat_map(|s| &s.dim).filter_map(|d| d.dim_param.as_deref()).collect();
    let unknown = options.dims.keys().filter(|name| !names.contains(name.as_str()));
    let problem = |name: &String| {
        Diagnostic::new("unknown-dim", format!("no input has an extent called `{name}`")).expected(format!("{names:?}"))
    };
    unknown.map(problem).collect()
}
