//! What the tensors of a file are to training: parameters, running statistics or constants.
//!
//! The format does not say which initializer trains, so the importer decides, in this order:
//!
//! 1. the running mean and variance of a `BatchNormalization` node are buffers;
//! 2. what the dynamo exporter's `graph_signature` lists as a parameter or buffer is a parameter or constant;
//! 3. tensors that are not floating point are constants;
//! 4. tensors under a name that an exporter generated (`onnx::MatMul_123`, `/l1/Constant_output_0`, `val_7`, `12`)
//!    are constants;
//! 5. every other initializer is a parameter.
//!
//! Tensors of `Constant` nodes are constants always.

use super::proto::{GraphProto, lookup};
use gradc_ir::graph::Role;
use gradc_ir::types::DType;
use std::collections::{HashMap, HashSet};

/// The roles of one file's initializers.
pub struct Roles<'a> {
    statistics: HashSet<&'a str>,
    signature: HashMap<&'a str, Role>,
}

impl<'a> Roles<'a> {
    /// Reads what the graph says about its initializers.
    pub fn of(graph: &'a GraphProto) -> Self {
        let signature = lookup(&graph.metadata_props, "pkg.torch.export.ExportedProgram.graph_signature");
        Roles { statistics: statistics(graph), signature: signature.map(parse_signature).unwrap_or_default() }
    }

    /// Role of the initializer called `name`.
    pub fn role(&self, name: &str, dtype: DType) -> Role {
        if self.statistics.contains(name) {
            return Role::Buffer;
        }
        let guess = if dtype.is_float() && !is_generated(name) { Role::Parameter } else { Role::Constant };
        self.signature.get(name).copied().unwrap_or(guess)
    }
}

/// Names that reach the running statistics of a batch normalisation, directly or through `Identity`.
fn statistics(graph: &GraphProto) -> HashSet<&str> {
    let mut names = HashSet::new();
    for node in graph.node.iter().rev() {
        let inputs = node.input.iter().map(String::as_str);
        match node.op_type.as_str() {
            "BatchNormalization" => names.extend(inputs.skip(3)),
            "Identity" if node.output.iter().any(|o| names.contains(o.as_str())) => names.extend(inputs),
            _ => {}
        }
    }
    names
}

/// Reads lines such as `p_fc_weight: PARAMETER target='fc.weight'`.
fn parse_signature(text: &str) -> HashMap<&str, Role> {
    let entry = |line| {
        let (_, rest) = str::split_once(line, ": ")?;
        let (kind, rest) = rest.split_once(" target='")?;
        let role = match kind {
            "PARAMETER" => Role::Parameter,
            "BUFFER" | "CONSTANT_TENSOR" => Role::Constant,
            _ => return None,
        };
        Some((rest.split('\'').next()?, role))
    };
    text.lines().filter_map(entry).collect()
}

fn is_generated(name: &str) -> bool {
    let counter = name.strip_prefix("val_").unwrap_or(name);
    let is_counter = !counter.is_empty() && counter.bytes().all(|c| c.is_ascii_digit());
    name.contains("::") || name.starts_with('/') || is_counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_told_from_parameter_names() {
        for name in ["onnx::MatMul_123", "/l1/Constant_output_0", "val_7", "12"] {
            assert!(is_generated(name), "{name}");
        }
        for name in ["fc.weight", "D", "log_lam", "layers.0", "val_", "val_x"] {
            assert!(!is_generated(name), "{name}");
        }
    }

    #[test]
    fn the_signature_overrides_the_guess() {
        let text = "# inputs\np_w: PARAMETER target='w'\nb_mask: BUFFER target='mask' persistent=False\nx: USER_INPUT";
        let roles = Roles { statistics: HashSet::new(), signature: parse_signature(text) };
        assert_eq!(
            ["w", "mask", "other"].map(|n| roles.role(n, DType::F32)),
            [Role::Parameter, Role::Constant, Role::Parameter]
        );
    }
}
