//! CSV with a header: one column of numbers each, i64 where all are integers, else f32.

use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::tensor::HostTensor;
use std::collections::BTreeMap;

/// The columns of a CSV file.
pub(super) fn read_csv(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, Diagnostic> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let malformed = |e: csv::Error| Diagnostic::new("malformed-csv", e.to_string());
    let names: Vec<String> = reader.headers().map_err(malformed)?.iter().map(str::to_string).collect();
    let mut columns: Vec<Vec<f64>> = vec![vec![]; names.len()];
    for (row, record) in reader.records().enumerate() {
        for ((column, name), cell) in columns.iter_mut().zip(&names).zip(&record.map_err(malformed)?) {
            column.push(number(cell, row, name)?);
        }
    }
    let mut tensors = BTreeMap::new();
    for (name, values) in names.into_iter().zip(columns) {
        if tensors.insert(name.clone(), column_tensor(&values)?).is_some() {
            return Err(Diagnostic::new("duplicate-column", format!("two columns are called `{name}`")));
        }
    }
    Ok(tensors)
}

fn number(cell: &str, row: usize, name: &str) -> Result<f64, Diagnostic> {
    cell.parse().map_err(|_| {
        let message = format!("row {} of column `{name}` is not a number", row + 1);
        Diagnostic::new("malformed-csv", message).found(format!("{cell:?}")).help("encode categories as integers first")
    })
}

fn column_tensor(values: &[f64]) -> Result<HostTensor, Diagnostic> {
    let integral = values.iter().all(|v| v.fract() == 0.0 && v.abs() < 9e15);
    let tensor = if integral {
        HostTensor::from_i64([values.len()], &values.iter().map(|&v| v as i64).collect::<Vec<_>>())
    } else {
        HostTensor::from_f32([values.len()], &values.iter().map(|&v| v as f32).collect::<Vec<_>>())
    };
    tensor.map_err(|e| Diagnostic::from_type_error("data-shape", e, Default::default()))
}
