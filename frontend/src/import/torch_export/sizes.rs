//! Sizes at export and at import: symbolic dimensions and another batch size.

use super::schema::{ExportedProgram, Hint, Size, TensorMeta};
use crate::import::contradicting_sizes;
use crate::model::ImportOptions;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::types::{DType, TensorType};
use std::collections::BTreeMap;

/// A size when exporting and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resized {
    /// When exporting.
    pub old: usize,
    /// Now.
    pub new: usize,
}

/// The sizes that may differ between export and import.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    symbols: BTreeMap<String, Symbol>,
    /// The batch, when it is a literal in the file and is to change.
    pub batch: Option<Resized>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Symbol {
    old: Option<usize>,
    new: Option<usize>,
}

impl Sizes {
    /// Reads the symbols of the user's inputs and applies `dims` and `batch` of the options to them.
    pub fn new(
        program: &ExportedProgram,
        inputs: &[&TensorMeta],
        options: &ImportOptions,
    ) -> Result<Sizes, Diagnostic> {
        let mut sizes = Sizes::default();
        for size in inputs.iter().flat_map(|meta| &meta.sizes) {
            if let Some(name) = symbol_name(size) {
                let old = hint(size).and_then(|h| usize::try_from(h).ok());
                sizes.symbols.insert(name.to_string(), Symbol { old, new: old });
            }
        }
        for (name, &value) in &options.dims {
            sizes.set_symbol(name, value)?;
        }
        if let Some(batch) = options.batch {
            sizes.set_batch(inputs, batch, options)?;
        }
        sizes.check_ranges(program)?;
        Ok(sizes)
    }

    fn set_symbol(&mut self, name: &str, value: usize) -> Result<(), Diagnostic> {
        let known = self.symbols.keys().cloned().collect::<Vec<_>>().join(", ");
        let symbol = self.symbols.get_mut(name).ok_or_else(|| {
            Diagnostic::new("unknown-dim", format!("the model has no symbolic dimension `{name}`"))
                .expected(if known.is_empty() { "none: all its sizes are fixed".into() } else { known })
        })?;
        symbol.new = Some(value);
        Ok(())
    }

    /// Changes the leading axis of the first input, and with it all equal ones.
    fn set_batch(&mut self, inputs: &[&TensorMeta], batch: usize, options: &ImportOptions) -> Result<(), Diagnostic> {
        let none = || Diagnostic::new("no-batch-axis", "the model has no input with a batch axis");
        let leading = inputs.iter().find_map(|meta| meta.sizes.first()).ok_or_else(none)?;
        if batch == 0 {
            return Err(Diagnostic::new("invalid-batch", "a batch must not be empty").expected("at least 1").found(0));
        }
        if let Some(name) = symbol_name(leading) {
            return match options.dims.get(name) {
                Some(&value) if value != batch => Err(contradicting_sizes(name, value, batch)),
                _ => self.set_symbol(name, batch),
            };
        }
        let old = match leading {
            Size::AsInt(old) => usize::try_from(*old).ok().filter(|&old| old > 0).ok_or_else(none)?,
            Size::AsExpr(_) => return Err(none()),
        };
        self.batch = (old != batch).then_some(Resized { old, new: batch });
        Ok(())
    }

    fn check_ranges(&self, program: &ExportedProgram) -> Result<(), Diagnostic> {
        for (name, symbol) in &self.symbols {
            let (Some(range), Some(value)) = (program.range_constraints.get(name), symbol.new) else { continue };
            let (min, max) = (range.min_val.unwrap_or(0), range.max_val.unwrap_or(i64::MAX));
            if i64::try_from(value).is_ok_and(|v| v < min || v > max) {
                return Err(Diagnostic::new("dimension-out-of-range", format!("dimension `{name}` is out of range"))
                    .expected(format!("{min} to {max}, as exported"))
                    .found(value));
            }
        }
        Ok(())
    }

    /// Every size that changed.
    pub fn changed(&self) -> impl Iterator<Item = Resized> + '_ {
        let symbols = self.symbols.values().filter_map(|s| Some(Resized { old: s.old?, new: s.new? }));
        self.batch.into_iter().chain(symbols.filter(|r| r.old != r.new && r.old > 0))
    }

    /// Shape of a model tensor or an input now; the batch is replaced for an input only.
    pub fn shape(&self, name: &str, meta: &TensorMeta, is_input: bool) -> Result<Vec<usize>, Diagnostic> {
        let mut shape = Vec::with_capacity(meta.sizes.len());
        for size in &meta.sizes {
            shape.push(self.now(size).ok_or_else(|| invalid_size(name, size))?);
        }
        match (self.batch, shape.first_mut()) {
            (Some(batch), Some(leading)) if is_input && *leading == batch.old => *leading = batch.new,
            _ => {}
        }
        Ok(shape)
    }

    fn now(&self, size: &Size) -> Option<usize> {
        match symbol_name(size) {
            Some(name) => self.symbols.get(name)?.new,
            None if matches!(size, Size::AsExpr(_)) && self.changed().next().is_some() => None,
            None => hint(size).and_then(|v| usize::try_from(v).ok()),
        }
    }
}

/// The shape a tensor had when it was exported; `None` when a size is not recorded or the whole is too large.
pub fn exported_shape(meta: &TensorMeta) -> Option<Vec<usize>> {
    let shape: Option<Vec<usize>> = meta.sizes.iter().map(|size| usize::try_from(hint(size)?).ok()).collect();
    shape.filter(|shape| TensorType::checked(DType::U8, shape.clone()).is_ok())
}

/// Whether a size is an expression without the value it had.
pub fn is_unrecorded(meta: &TensorMeta) -> bool {
    meta.sizes.iter().any(|size| hint(size).is_none())
}

fn hint(size: &Size) -> Option<i64> {
    match size {
        Size::AsInt(value) => Some(*value),
        Size::AsExpr(expression) => match expression.hint {
            Some(Hint::AsInt(value)) => Some(value),
            _ => None,
        },
    }
}

/// `s17` of `Symbol('s17', positive=True, integer=True)`; `None` for other expressions.
fn symbol_name(size: &Size) -> Option<&str> {
    let Size::AsExpr(expression) = size else { return None };
    let inside = expression.expr_str.strip_prefix("Symbol('")?;
    let (name, rest) = inside.split_once('\'')?;
    (rest.find(')') == Some(rest.len().checked_sub(1)?)).then_some(name)
}

fn invalid_size(name: &str, size: &Size) -> Diagnostic {
    match size {
        Size::AsInt(value) => Diagnostic::new("invalid-size", format!("tensor `{name}` has an impossible size"))
            .expected("non-negative sizes")
            .found(value),
        Size::AsExpr(e) => Diagnostic::new("symbolic-size", format!("a size of tensor `{name}` is not known"))
            .found(&e.expr_str)
            .help("give the dimension a size, or export with fixed sizes"),
    }
}
