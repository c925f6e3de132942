//! Which integer inputs are used as indices, and what they may be.
//!
//! Found in the lowered forms, so no op is named: an index loaded straight from an input must lie within the
//! axis it indexes. Values are checked before a step starts, so nothing is updated for bad data.

use gradc_ir::graph::{Graph, Value};
use gradc_ir::lower::{Body, Index, Lowering, Scalar, ScalarId};
use gradc_ir::region::RegionForm;
use gradc_ir::types::TensorType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values an index input may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRange {
    /// Smallest.
    pub min: i64,
    /// Largest.
    pub max: i64,
    /// One value outside the range that is accepted (ignored labels).
    pub also: Option<i64>,
}

/// Ranges by input value.
pub(crate) fn index_ranges(graph: &Graph) -> BTreeMap<Value, IndexRange> {
    let mut ranges: BTreeMap<Value, IndexRange> = BTreeMap::new();
    for id in graph.node_ids() {
        let Some(op) = graph.op(id) else { continue };
        let node = graph.node(id);
        let types: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
        for (operand, extent) in indexed_axes(&op.lower(&types, &node.types)) {
            let Some(input) = node.operands.get(operand).and_then(|&v| input_behind(graph, v)) else { continue };
            let max = extent as i64 - 1;
            let range = ranges.entry(input).or_insert(IndexRange { min: 0, max, also: None });
            range.max = range.max.min(max);
        }
    }
    ranges
}

/// The input whose elements a value is, through changes of shape.
fn input_behind(graph: &Graph, mut value: Value) -> Option<Value> {
    loop {
        if graph.input_of(value).is_some() {
            return Some(value);
        }
        let node = graph.node(value.node);
        let types: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
        let Lowering::Nests(nests) = graph.op(value.node)?.lower(&types, &node.types) else { return None };
        let Scalar::Load(access) = &nests[0].body.scalars[nests[0].result.0 as usize].0 else { return None };
        value = *node.operands.get(access.operand)?;
    }
}

/// (operand that holds indices, extent of the axis they index).
fn indexed_axes(lowering: &Lowering) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    match lowering {
        Lowering::Nests(nests) => {
            for nest in nests {
                for (scalar, _) in &nest.body.scalars {
                    if let Scalar::Load(access) = scalar {
                        found.extend(loaded_axes(&nest.body, &access.indices, &access.view));
                    }
                }
            }
        }
        Lowering::Scatter(scatter) => found.extend(loaded_axes(&scatter.body, &scatter.indices, &scatter.target)),
        Lowering::Region(region) => found.extend(region.form.bodies().iter().flat_map(|b| body_axes(&region.form, b))),
        Lowering::Contraction(_) | Lowering::Expand(_) | Lowering::Lines(_) => {}
    }
    found
}

/// What the arguments of a region's body index, by the region's operands.
fn body_axes(form: &RegionForm, body: &Graph) -> Vec<(usize, usize)> {
    let ranges = index_ranges(body);
    let arguments = body.inputs().iter().enumerate();
    arguments.filter_map(|(k, i)| Some((form.operand_of(k), ranges.get(&i.value)?.max as usize + 1))).collect()
}

fn loaded_axes(body: &Body, indices: &[Index], view: &[usize]) -> Vec<(usize, usize)> {
    let loaded = indices.iter().zip(view).filter_map(|(index, &extent)| Some((index.loaded?, extent)));
    loaded.filter_map(|(scalar, extent)| Some((load_behind(body, scalar)?, extent))).collect()
}

/// The operand a scalar is loaded from, through conversions.
fn load_behind(body: &Body, scalar: ScalarId) -> Option<usize> {
    match &body.scalars[scalar.0 as usize].0 {
        Scalar::Load(access) => Some(access.operand),
        Scalar::Cast(inner) => load_behind(body, *inner),
        _ => None,
    }
}
