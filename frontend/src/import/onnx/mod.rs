//! ONNX files, as PyTorch's two exporters and others write them.
//!
//! A file is decoded once and walked twice, for the training and for the inference graph. Shapes are inferred, never
//! taken from the file, so a model can be imported at another batch size. [`roles`] says which tensors train.

mod constants;
mod fault;
mod lost;
mod node;
mod ops;
pub mod proto;
mod provenance;
mod roles;
mod signature;
mod tensors;
mod walk;

use crate::model::{ImportOptions, Model};
use constants::Tensors;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::Role;
use prost::Message;
use proto::{GraphProto, ModelProto};
use roles::Roles;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tensors::TensorReader;
use walk::{Mode, Source, Walked, walk};

pub use ops::names as operators;

/// Versions of the standard operator set whose definitions the rules follow.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;

/// Reads a model from the bytes of an ONNX file; external data is looked for beside `path`.
///
/// # Errors
/// Every problem found: a damaged file, tensors that do not fit their types, operators and attributes that are not
/// supported, shapes that do not match.
pub fn import(path: &Path, bytes: Vec<u8>, options: &ImportOptions) -> Result<Model, Diagnostics> {
    let in_file = |d: Diagnostic| if d.loc.is_unknown() { d.in_file(file_name(path)) } else { d };
    import_inner(path, bytes, options).map_err(|all| Diagnostics(all.0.into_iter().map(in_file).collect()))
}

fn import_inner(path: &Path, bytes: Vec<u8>, options: &ImportOptions) -> Result<Model, Diagnostics> {
    if options.weights.is_some() {
        return Err(Diagnostic::new("unused-weights", "an ONNX file brings its own weights").into());
    }
    let mut model = decode(&bytes)?;
    drop(bytes);
    let opset = opset(&model)?;
    let mut graph = model.graph.take().ok_or_else(|| Diagnostic::new("invalid-onnx", "the file holds no graph"))?;
    let problems = check(&model, &graph);
    let mut reader = TensorReader::new(path);
    let Initializers { mut tensors, roles, lost } = read_initializers(&mut graph, &mut reader)?;
    let signature = signature::read(&graph, &tensors, options)?;
    let source = |inputs| Source {
        file: file_name(path),
        name: crate::import::model_name(path),
        opset,
        nodes: &graph.node,
        inputs,
        initializers: roles.clone(),
        outputs: graph.output.iter().map(|o| o.name.as_str()).collect(),
    };
    let recorded = match signature.own_inputs {
        None => None,
        Some(own) => {
            let walked = walk(&source(own), Mode::Infer, options, None, &mut tensors, &mut reader);
            Some(with_problems(&problems, walked)?.shapes)
        }
    };
    let source = source(signature.inputs);
    let mut graphs = Vec::new();
    for mode in [Mode::Train, Mode::Infer] {
        let walked = walk(&source, mode, options, recorded.as_ref(), &mut tensors, &mut reader);
        graphs.push(with_problems(&problems, walked)?);
    }
    Ok(Model { lost, ..assemble(&source, graphs, tensors)? })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |f| f.to_string_lossy().into_owned())
}

fn decode(bytes: &[u8]) -> Result<ModelProto, Diagnostic> {
    ModelProto::decode(bytes).map_err(|e| {
        Diagnostic::new("invalid-onnx", format!("the file is not a readable ONNX model: {e}"))
            .help("the file may be damaged or cut short; export it again")
    })
}

fn opset(model: &ModelProto) -> Result<i64, Diagnostic> {
    let standard = model.opset_import.iter().find(|o| is_standard(&o.domain));
    let version = standard.map(|o| o.version).ok_or_else(|| {
        Diagnostic::new("unsupported-opset", "the file imports no version of the standard operator set")
    })?;
    if OPSETS.contains(&version) {
        return Ok(version);
    }
    Err(Diagnostic::new("unsupported-opset", "the version of the operator set is not supported")
        .expected(format!("{} to {}", OPSETS.start(), OPSETS.end()))
        .found(version)
        .help("export with `opset_version=18`"))
}

/// Whether a domain is that of the standard operators.
fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Operators that exporters write for loops and branches, and for ops that ONNX lacks (`embedding_bag`).
const CONTROL_FLOW: [&str; 4] = ["If", "Loop", "Scan", "SequenceEmpty"];

const NO_CONTROL_FLOW: &str = "loops and branches of an ONNX file are not read: save the model with `torch.export.save` \
                               as .pt2, or with static shapes, so that its exporter needs none";

/// What needs no walk to be found: operators without a rule, and parts of the format that are not supported.
fn check(model: &ModelProto, graph: &GraphProto) -> Vec<Diagnostic> {
    let mut problems: Vec<Diagnostic> = Vec::new();
    if !model.training_info.is_empty() {
        problems.push(Diagnostic::new("unsupported", "ONNX training graphs are not supported"));
    }
    if !graph.sparse_initializer.is_empty() {
        problems.push(Diagnostic::new("unsupported", "sparse initializers are not supported"));
    }
    problems.extend(unknown_operators(graph));
    problems
}

/// A walk's result, or its problems together with those found before.
fn with_problems(before: &[Diagnostic], walked: Result<Walked, Diagnostics>) -> Result<Walked, Diagnostics> {
    match walked {
        Ok(walked) if before.is_empty() => Ok(walked),
        walked => Err(Diagnostics([before, &walked.err().unwrap_or_default().0].concat())),
    }
}

/// One diagnostic per operator that has no rule, naming its nodes.
fn unknown_operators(graph: &GraphProto) -> Vec<Diagnostic> {
    const NAMED_NODES: usize = 5;
    let mut unknown: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in graph.node.iter().filter(|n| ops::rule(n).is_none()) {
        let domain = if is_standard(&node.domain) { String::new() } else { format!("{}.", node.domain) };
        unknown.entry(domain + &node.op_type).or_default().push(provenance::name_of(node));
    }
    let diagnostic = |(op, nodes): (String, Vec<&str>)| {
        let names: Vec<String> = nodes.iter().take(NAMED_NODES).map(|n| format!("`{n}`")).collect();
        let more = if nodes.len() > NAMED_NODES { ", …" } else { "" };
        let found = format!("{} node(s): {}{more}", nodes.len(), names.join(", "));
        let diagnostic = Diagnostic::new("unknown-op", format!("operator `{op}` is not supported")).found(found);
        if CONTROL_FLOW.contains(&op.as_str()) { diagnostic.help(NO_CONTROL_FLOW) } else { diagnostic }
    };
    unknown.into_iter().map(diagnostic).collect()
}

/// What a file's initializers are.
struct Initializers {
    tensors: Tensors,
    /// Names and roles in file order.
    roles: Vec<(String, Role)>,
    /// Parameters that are among them no longer.
    lost: BTreeSet<String>,
}

fn read_initializers(graph: &mut GraphProto, reader: &mut TensorReader) -> Result<Initializers, Diagnostics> {
    let mut protos = std::mem::take(&mut graph.initializer);
    let roles = Roles::of(graph);
    let (mut tensors, mut initializers, mut problems) = (Tensors::default(), Vec::new(), Vec::new());
    for proto in &mut protos {
        match reader.read(proto) {
            Ok(tensor) => {
                initializers.push((proto.name.clone(), roles.role(&proto.name, tensor.ty().dtype)));
                if tensors.by_name.insert(proto.name.clone(), tensor).is_some() {
                    let twice = format!("two initializers are called `{}`", proto.name);
                    problems.push(Diagnostic::new("duplicate-name", twice));
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    let lost = lost::lost_parameters(graph, &roles, &initializers, &tensors.by_name);
    Ok(Initializers { tensors, roles: initializers, lost })
}

/// Folds both graphs and keeps the tensors that either still uses.
fn assemble(source: &Source, mut graphs: Vec<Walked>, mut tensors: Tensors) -> Result<Model, Diagnostics> {
    let mut kept = BTreeSet::new();
    for Walked { graph, known, .. } in &mut graphs {
        let needed = known.needed(graph, &tensors);
        let trained = graph.inputs().iter().filter(|i| i.role.is_persistent() && needed.contains(&i.value));
        kept.extend(trained.map(|i| i.name.clone()));
    }
    let mut notes = BTreeSet::new();
    let mut folded = Vec::new();
    for Walked { graph, mut known, notes: more, .. } in graphs {
        notes.extend(more);
        let graph = known.fold(&graph, &mut tensors, &kept);
        folded.push(graph.map_err(|e| Diagnostic::from_type_error("invalid-onnx", e, Default::default()))?);
    }
    let unused = source.initializers.iter().filter(|(n, role)| role.is_persistent() && !kept.contains(n));
    notes.extend(unused.map(|(n, _)| format!("initializer `{n}` has no influence on the outputs and is left out")));
    let held = |name: &String| folded.iter().any(|g| g.input_named(name).is_some());
    tensors.by_name.retain(|name, _| held(name));
    let [train, infer] = <[_; 2]>::try_from(folded).expect("two graphs were walked");
    Ok(Model {
        name: source.name.clone(),
        train,
        infer,
        tensors: tensors.by_name,
        frozen: BTreeSet::new(),
        aliases: BTreeMap::new(),
        lost: BTreeSet::new(),
        notes: notes.into_iter().collect(),
    })
}
