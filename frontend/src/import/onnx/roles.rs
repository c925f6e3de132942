//! What the tensors of a file are to training: parameters, running statistics or constants.
//!
//! The format does not say which initializer trains, so the importer decides, in this order:
//!
//! 1. the running mean and variance of a `BatchNormalization` node are buffers;
//! 2. what only says how operators work (the scales of `Resize`) is a constant;
//! 3. what the dynamo exporter's `graph_signature` lists as a parameter or buffer is a parameter or constant;
//! 4. what that list leaves out, the exporter has computed, so it is a constant;
//! 5. tensors that are not floating point are constants;
//! 6. tensors under a name that an exporter generated (`onnx::MatMul_123`, `/l1/Constant_output_0`, `val_7`, `12`)
//!    are constants;
//! 7. every other initializer is a parameter.
//!
//! Tensors of `Constant` nodes are constants always.

use super::proto::{GraphProto, lookup};
use gradc_ir::graph::Role;
use gradc_ir::types::DType;
use std::collections::{HashMap, HashSet};

/// The roles of one file's initializers.
#[derive(Default)]
pub struct Roles<'a> {
    statistics: HashSet<&'a str>,
    settings: HashSet<&'a str>,
    signature: HashMap<&'a str, Role>,
}

impl<'a> Roles<'a> {
    /// Reads what the graph says about its initializers.
    pub fn of(graph: &'a GraphProto) -> Self {
        let signature = lookup(&graph.metadata_props, "pkg.torch.export.ExportedProgram.graph_signature");
        let signature = signature.map(parse_signature).unwrap_or_default();
        Roles { statistics: statistics(graph), settings: settings(graph), signature }
    }

    /// Whether the exporter listed the program's inputs.
    pub fn has_signature(&self) -> bool {
        !self.signature.is_empty()
    }

    /// Whether a tensor is in the exporter's list.
    pub fn is_listed(&self, name: &str) -> bool {
        self.signature.contains_key(name)
    }

    /// The parameters in the exporter's list.
    pub fn listed_parameters(&self) -> impl Iterator<Item = &'a str> {
        self.signature.iter().filter(|(_, role)| **role == Role::Parameter).map(|(name, _)| *name)
    }

    /// Role of the initializer called `name`.
    pub fn role(&self, name: &str, dtype: DType) -> Role {
        if self.statistics.contains(name) {
            return Role::Buffer;
        }
        if self.settings.contains(name) {
            return Role::Constant;
        }
        let is_own = dtype.is_float() && !is_generated(name) && !self.has_signature();
        let guess = if is_own { Role::Parameter } else { Role::Constant };
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

/// Operands that are floats and say how an operator works.
const SETTINGS: [(&str, &[usize]); 6] = [
    ("Clip", &[1, 2]),
    ("Dropout", &[1]),
    ("Pad", &[2]),
    ("Range", &[0, 1, 2]),
    ("Resize", &[1, 2]),
    ("Upsample", &[1]),
];

/// Names that are read as settings and as nothing else.
fn settings(graph: &GraphProto) -> HashSet<&str> {
    let (mut settings, mut others) = (HashSet::new(), HashSet::new());
    for node in &graph.node {
        let places = SETTINGS.iter().find(|(op, _)| *op == node.op_type).map_or(&[][..], |(_, places)| places);
        for (at, name) in node.input.iter().enumerate() {
            if places.contains(&at) {
                settings.insert(name.as_str())
            } else {
                others.insert(name.as_str())
            };
        }
    }
    settings.retain(|name| !others.contains(name));
    settings
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
    use crate::import::onnx::proto::NodeProto;

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
    fn what_says_how_an_operator_works_does_not_train() {
        let node = |op: &str, input: &[&str]| NodeProto {
            op_type: op.into(),
            input: input.iter().map(|name| name.to_string()).collect(),
            ..NodeProto::default()
        };
        let nodes = vec![node("Upsample", &["x", "scales"]), node("Clip", &["x", "low"]), node("Mul", &["x", "low"])];
        let graph = GraphProto { node: nodes, ..GraphProto::default() };
        let roles = Roles::of(&graph);
        assert_eq!(["scales", "low"].map(|n| roles.role(n, DType::F32)), [Role::Constant, Role::Parameter]);
    }

    #[test]
    fn the_signature_overrides_the_guess() {
        let text = "# inputs\np_w: PARAMETER target='w'\nb_mask: BUFFER target='mask' persistent=False\nx: USER_INPUT";
        let mut roles = Roles { signature: parse_signature(text), ..Roles::default() };
        let found = |roles: &Roles| ["w", "mask", "other"].map(|n| roles.role(n, DType::F32));
        assert_eq!(found(&roles), [Role::Parameter, Role::Constant, Role::Constant]);
        roles.signature.clear();
        assert_eq!(found(&roles), [Role::Parameter; 3]);
    }
}
