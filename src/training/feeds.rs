//! From data to the inputs of a step.

use super::split::stream;
use crate::step::{EntryInfo, HostInput};
use gradc_frontend::data::Columns;
use gradc_frontend::data::text::Text;
use gradc_frontend::recipe::{Column, PerChannel, name_or_only};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use gradc_ir::types::DType;
use rand::RngExt;
use std::collections::BTreeMap;

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Columns of data files.
    Columns(Columns),
    /// Windows of a text; the target is the next character at every position.
    Text(Text),
}

/// Makes batches for an entry.
#[derive(Clone, Debug)]
pub struct Feeds {
    source: Source,
    fields: Vec<Field>,
    /// Rows per batch.
    batch: usize,
    /// What was decided for the user, to be told.
    pub notes: Vec<String>,
}

/// One input and where its values come from.
#[derive(Clone, Debug)]
struct Field {
    input: HostInput,
    /// Column name; of a text, unused.
    column: String,
    /// Factor and summand of every element, one of each per channel.
    scale: Vec<f64>,
    offset: Vec<f64>,
    /// Places later that a value is taken from: 1 for the next character of a text.
    shift: usize,
}

impl Feeds {
    /// Connects a source to the data inputs of an entry. `target` is the loss's target input.
    pub fn new(
        source: Source,
        entry: &EntryInfo,
        target: Option<&str>,
        mapping: &BTreeMap<String, Column>,
    ) -> Result<Self, Diagnostic> {
        let inputs: Vec<&HostInput> = entry.inputs.iter().filter(|i| i.default.is_none()).collect();
        let by_input = by_input(mapping, &inputs, target)?;
        let (mut notes, mut fields) = (Vec::new(), Vec::new());
        for &input in &inputs {
            let is_target = target == Some(input.name.as_str());
            let map = by_input.get(&input.name).copied();
            fields.push(field(&source, input, is_target, map, &mut notes)?);
        }
        let lead = fields.iter().find(|f| target != Some(f.input.name.as_str()));
        let batch = lead.and_then(|f| f.input.ty.shape.first().copied()).unwrap_or(1);
        let feeds = Feeds { source, fields, batch, notes };
        feeds.fields.iter().try_for_each(|f| feeds.check_field(f))?;
        Ok(feeds)
    }

    /// Rows a step takes.
    pub fn batch_size(&self) -> usize {
        self.batch
    }

    /// Rows of the source.
    pub fn rows(&self) -> usize {
        match &self.source {
            Source::Columns(columns) => columns.rows(),
            // One window is kept free, so that every epoch can start its windows at another character.
            Source::Text(text) => ((text.ids.len().saturating_sub(1)) / self.window()).saturating_sub(1),
        }
    }

    /// Characters per row of a text.
    fn window(&self) -> usize {
        let of = |f: &Field| f.input.ty.elements() / self.batch.max(1);
        self.fields.iter().map(of).max().unwrap_or(1).max(1)
    }

    /// Where the windows of an epoch start, in characters; 0 for columns and for evaluation (`epoch == None`).
    pub fn phase(&self, seed: u64, epoch: Option<usize>) -> usize {
        match (&self.source, epoch) {
            (Source::Text(_), Some(epoch)) => stream(seed ^ 0x7465_7874, epoch as u64).random_range(0..self.window()),
            _ => 0,
        }
    }

    /// The inputs for `rows`, of which there are [`Feeds::batch_size`].
    pub fn batch(&self, rows: &[usize], phase: usize) -> Vec<(String, HostTensor)> {
        debug_assert_eq!(rows.len(), self.batch);
        self.fields.iter().map(|f| (f.input.name.clone(), self.tensor(f, rows, phase))).collect()
    }

    fn tensor(&self, field: &Field, rows: &[usize], phase: usize) -> HostTensor {
        let ty = &field.input.ty;
        let mut tensor = HostTensor::splat(ty.clone(), 0.0);
        let per_row = ty.elements() / self.batch.max(1);
        let channels = field.scale.len();
        let mut write = |at: usize, value: f64| {
            let channel = at % per_row * channels / per_row;
            write_element(tensor.bytes_mut(), ty.dtype, at, value * field.scale[channel] + field.offset[channel]);
        };
        for (k, &row) in rows.iter().enumerate() {
            match &self.source {
                Source::Columns(columns) => {
                    let column = columns.get(&field.column).expect("fields name columns that exist");
                    (0..per_row).for_each(|e| write(k * per_row + e, read_element(column, row * per_row + e)));
                }
                Source::Text(text) => {
                    let start = phase + row * self.window() + field.shift;
                    (0..per_row).for_each(|e| write(k * per_row + e, text.ids[start + e] as f64));
                }
            }
        }
        tensor
    }

    fn check_field(&self, field: &Field) -> Result<(), Diagnostic> {
        let Source::Columns(columns) = &self.source else { return self.check_vocabulary(field) };
        let column = columns.get(&field.column).expect("fields name columns that exist");
        let per_row: usize = column.ty().shape[1..].iter().product();
        let needed = field.input.ty.elements() / self.batch.max(1);
        if per_row == needed && field.input.ty.elements().is_multiple_of(self.batch.max(1)) {
            return Ok(());
        }
        let message = format!("rows of column `{}` do not fit input `{}`", field.column, field.input.name);
        Err(Diagnostic::new("data-shape", message)
            .expected(format!("{needed} elements per row, for {}", field.input.ty))
            .found(format!("{per_row} elements per row, in {}", column.ty())))
    }

    fn check_vocabulary(&self, field: &Field) -> Result<(), Diagnostic> {
        let (Source::Text(text), Some(range)) = (&self.source, &field.input.range) else { return Ok(()) };
        if (text.vocabulary.len() as i64) <= range.max + 1 {
            return Ok(());
        }
        let message = format!("the text has more distinct characters than input `{}` accepts", field.input.name);
        Err(Diagnostic::new("vocabulary", message)
            .expected(format!("at most {}", range.max + 1))
            .found(text.vocabulary.len()))
    }
}

/// The recipe's columns by the entry's own input names.
fn by_input<'m>(
    mapping: &'m BTreeMap<String, Column>,
    inputs: &[&HostInput],
    target: Option<&str>,
) -> Result<BTreeMap<String, &'m Column>, Diagnostic> {
    let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).filter(|n| Some(*n) != target).collect();
    let own_name = |name: &str| match target {
        Some(target) if name == target => Ok(name.to_string()),
        _ => name_or_only("input", name, &names).map(|(found, _)| found.to_string()),
    };
    let mut found = BTreeMap::new();
    for (name, column) in mapping {
        let own = own_name(name)?;
        if found.insert(own.clone(), column).is_some() {
            return Err(Diagnostic::new(
                "duplicate-column",
                format!("the recipe's `data` says twice where input `{own}` comes from"),
            ));
        }
    }
    Ok(found)
}

fn field(
    source: &Source,
    input: &HostInput,
    is_target: bool,
    map: Option<&Column>,
    notes: &mut Vec<String>,
) -> Result<Field, Diagnostic> {
    let column = match source {
        Source::Text(_) => String::new(),
        Source::Columns(columns) => find_column(columns, input, is_target, map.map(|m| m.column.as_str()), notes)?,
    };
    let default_shift = usize::from(is_target && matches!(source, Source::Text(_)));
    let shift = map.map_or(default_shift, |m| m.shift);
    let (scale, offset) = affine(input, map)?;
    Ok(Field { input: input.clone(), column, scale, offset, shift })
}

/// (value · scale − mean) / std as a factor and a summand per channel.
fn affine(input: &HostInput, map: Option<&Column>) -> Result<(Vec<f64>, Vec<f64>), Diagnostic> {
    let Some(map) = map else { return Ok((vec![1.0], vec![0.0])) };
    check_declared(input, map)?;
    let mean = per_channel(map.mean.as_ref(), 0.0);
    let std = per_channel(map.std.as_ref(), 1.0);
    let channels = mean.len().max(std.len());
    let pick = |values: &[f64], c: usize| values[if values.len() == 1 { 0 } else { c }];
    let example: &[usize] = map.reshape.as_deref().unwrap_or(input.ty.shape.get(1..).unwrap_or(&[]));
    let fits = channels == 1
        || (example.first() == Some(&channels) && (mean.len() == 1 || std.len() == 1 || mean.len() == std.len()));
    if !fits {
        let message = format!("`mean` or `std` of input `{}` has the wrong number of channels", input.name);
        return Err(Diagnostic::new("data-channels", message)
            .expected(format!("one per channel of {example:?}"))
            .found(channels));
    }
    let scale = map.scale.unwrap_or(1.0);
    Ok((0..channels).map(|c| (scale / pick(&std, c), -pick(&mean, c) / pick(&std, c))).unzip())
}

fn per_channel(values: Option<&PerChannel>, default: f64) -> Vec<f64> {
    match values {
        None => vec![default],
        Some(PerChannel::All(value)) => vec![*value],
        Some(PerChannel::Each(values)) => values.clone(),
    }
}

/// What the recipe says of shape and dtype must be what the model takes.
fn check_declared(input: &HostInput, map: &Column) -> Result<(), Diagnostic> {
    let example = input.ty.shape.get(1..).unwrap_or(&[]);
    if let Some(shape) = &map.reshape
        && shape != example
    {
        let message = format!("`reshape` does not fit input `{}`", input.name);
        return Err(Diagnostic::new("data-shape", message)
            .expected(format!("{example:?}"))
            .found(format!("{shape:?}")));
    }
    match map.cast.map(|name| name.0) {
        Some(dtype) if dtype != input.ty.dtype => {
            let message = format!("`cast` does not fit input `{}`", input.name);
            Err(Diagnostic::new("data-dtype", message).expected(input.ty.dtype).found(dtype))
        }
        _ => Ok(()),
    }
}

/// The column of an input's own name, or the only one it can be.
fn find_column(
    columns: &Columns,
    input: &HostInput,
    is_target: bool,
    named: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<String, Diagnostic> {
    let wanted = named.unwrap_or(&input.name);
    if columns.get(wanted).is_some() {
        return Ok(wanted.to_string());
    }
    let names: Vec<&str> = columns.names().collect();
    let usual: &[&str] =
        if is_target { &["target", "y", "label", "labels"] } else { &["x", "input", "images", "data"] };
    match usual.iter().find(|u| names.contains(u)).filter(|_| named.is_none() && names.len() <= 2) {
        Some(name) => {
            notes.push(format!("input `{}` reads column `{name}`", input.name));
            Ok(name.to_string())
        }
        None => Err(Diagnostic::new("unknown-column", format!("the data has no column `{wanted}`"))
            .expected(format!("one of: {}", names.join(", ")))
            .help("name the column in the recipe's `data`, or rename it with --data COLUMN=FILE")),
    }
}

fn read_element(tensor: &HostTensor, at: usize) -> f64 {
    let (bytes, size) = (tensor.bytes(), tensor.ty().dtype.size_bytes());
    let word = &bytes[at * size..(at + 1) * size];
    let eight = |w: &[u8]| w.try_into().expect("an element of eight bytes");
    let four = |w: &[u8]| w.try_into().expect("an element of four bytes");
    match tensor.ty().dtype {
        DType::U8 | DType::Bool => word[0] as f64,
        DType::F32 => f32::from_le_bytes(four(word)) as f64,
        DType::I32 => i32::from_le_bytes(four(word)) as f64,
        DType::I64 => i64::from_le_bytes(eight(word)) as f64,
        DType::F64 => f64::from_le_bytes(eight(word)),
        DType::F16 => half::f16::from_le_bytes([word[0], word[1]]).to_f64(),
        DType::BF16 => half::bf16::from_le_bytes([word[0], word[1]]).to_f64(),
    }
}

fn write_element(bytes: &mut [u8], dtype: DType, at: usize, value: f64) {
    let size = dtype.size_bytes();
    let word = &mut bytes[at * size..(at + 1) * size];
    match dtype {
        DType::F32 => word.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::F64 => word.copy_from_slice(&value.to_le_bytes()),
        DType::F16 => word.copy_from_slice(&half::f16::from_f64(value).to_le_bytes()),
        DType::BF16 => word.copy_from_slice(&half::bf16::from_f64(value).to_le_bytes()),
        DType::I64 => word.copy_from_slice(&(value as i64).to_le_bytes()),
        DType::I32 => word.copy_from_slice(&(value as i32).to_le_bytes()),
        DType::U8 => word[0] = value as u8,
        DType::Bool => word[0] = (value != 0.0) as u8,
    }
}
