//! Parameters that an exporter has optimized away.
//!
//! PyTorch's dynamo exporter computes what can be computed from initializers (transposed weights), and keeps one of
//! several initializers with equal contents (the weights of fresh normalisations), unless it is called with
//! `optimize=False`. The older one computes too, unless it is called with `do_constant_folding=False`. Training such a
//! file would leave most weights as they are, or train two as one, in silence.

use super::proto::{GraphProto, lookup};
use super::provenance::layer_of;
use super::roles::Roles;
use gradc_ir::graph::Role;
use gradc_ir::tensor::HostTensor;
use std::collections::{BTreeMap, BTreeSet};

/// Names of what the exporter made constants of, or merged.
///
/// Without its own list of parameters, those that the older exporter's folding names after their reader
/// (`onnx::MatMul_41`). With one, the listed parameters that are no initializers, where some initializer is not listed
/// (so it was computed) or has several readers although all its elements are equal (so it was merged), or where a node
/// says that others were fused into it: that a listed one is missing is no sign by itself, for tied and unused parameters
/// are missing too.
pub fn lost_parameters(
    graph: &GraphProto,
    roles: &Roles,
    initializers: &[(String, Role)],
    tensors: &BTreeMap<String, HostTensor>,
) -> BTreeSet<String> {
    let names = initializers.iter().map(|(name, _)| name.as_str());
    if !roles.has_signature() {
        return names.filter(|name| is_folded(name, tensors)).map(str::to_string).collect();
    }
    let is_computed = |name: &str| tensors[name].ty().dtype.is_float() && !roles.is_listed(name);
    if names.clone().any(is_computed) || is_any_merged(graph, initializers, tensors) || is_any_fused(graph) {
        let missing = roles.listed_parameters().filter(|name| !tensors.contains_key(*name));
        return missing.map(str::to_string).collect();
    }
    BTreeSet::new()
}

fn is_folded(name: &str, tensors: &BTreeMap<String, HostTensor>) -> bool {
    name.starts_with("onnx::") && tensors[name].ty().dtype.is_float()
}

/// Whether a parameter or buffer whose elements are all equal is read in several layers, or twice by a node, as the
/// variance and weight of a fresh batch normalisation are.
fn is_any_merged(graph: &GraphProto, initializers: &[(String, Role)], tensors: &BTreeMap<String, HostTensor>) -> bool {
    let trained = initializers.iter().filter(|(_, role)| role.is_persistent());
    let even: BTreeSet<&str> = trained.map(|(name, _)| name.as_str()).filter(|name| is_even(&tensors[*name])).collect();
    let mut layers: BTreeMap<&str, String> = BTreeMap::new();
    graph.node.iter().any(|node| {
        let layer = layer_of(node);
        let mut read = node.input.iter().map(String::as_str).filter(|name| even.contains(name));
        let twice = node
            .input
            .iter()
            .enumerate()
            .any(|(k, name)| even.contains(name.as_str()) && node.input[..k].contains(name));
        twice || read.any(|name| *layers.entry(name).or_insert_with(|| layer.clone()) != layer)
    })
}

/// Whether a node says that a rule such as `FuseBatchNormIntoConv` made it, which computes one parameter from others and
/// keeps its name.
fn is_any_fused(graph: &GraphProto) -> bool {
    let rules = |node| lookup(node, "pkg.onnxscript.rewriter.rule_name");
    graph.node.iter().any(|node| rules(&node.metadata_props).is_some_and(|rules| rules.contains("Fuse")))
}

fn is_even(tensor: &HostTensor) -> bool {
    let mut elements = tensor.bytes().chunks_exact(tensor.ty().dtype.size_bytes());
    let first = elements.next();
    elements.all(|element| Some(element) == first)
}
