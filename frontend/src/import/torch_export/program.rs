//! An exported program that has been read and checked: what it declares, before its nodes are built.

use super::inline::inline_regions;
use super::schema::{Argument, ExportedProgram, InputSpec, NamedArgument, Node, Signature, TensorMeta};
use super::sizes::Sizes;
use super::stops::restore_stops;
use crate::model::ImportOptions;
use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
use gradc_ir::graph::Role;
use gradc_ir::types::{DType, TensorType};
use std::collections::BTreeSet;

/// The schema this importer was written against.
const SCHEMA: (u64, u64) = (8, 20);

/// A program and what it declares.
pub struct Program {
    /// The file.
    pub file: ExportedProgram,
    /// Inputs of the graph in order.
    pub declared: Vec<Declared>,
    /// Sizes at export and now.
    pub sizes: Sizes,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// An input of the graph.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name inside the graph: `p_layers_0_weight`.
    pub id: String,
    /// Its name in the model: `layers.0.weight`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its type now.
    pub ty: TensorType,
    /// Whether a gradient was asked for; means something for parameters only.
    pub requires_grad: bool,
}

impl Declared {
    /// Whether it is a parameter that the file marks as not training.
    pub fn is_frozen(&self) -> bool {
        self.role == Role::Parameter && !self.requires_grad
    }
}

impl Program {
    /// Reads a program and resolves the sizes of what it declares.
    pub fn parse(json: &[u8], options: &ImportOptions) -> Result<Program, Diagnostics> {
        let mut file = parse_json(json)?;
        let mut notes = check_schema(&file)?;
        inline_regions(&mut file.graph_module.graph, &buffers(&file.graph_module.signature))?;
        notes.extend(restore_stops(&mut file.graph_module.graph, &file.verifiers)?);
        let sizes = Sizes::new(&file, &user_inputs(&file), options)?;
        let mut program = Program { file, declared: vec![], sizes, notes };
        program.declare()?;
        Ok(program)
    }

    /// Declares every input of the signature; all problems together.
    fn declare(&mut self) -> Result<(), Diagnostics> {
        let (mut errors, mut ids, mut names) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut declared = Vec::new();
        for spec in &self.file.graph_module.signature.input_specs {
            match self.declare_one(spec) {
                Ok(None) => self.notes.push("a constant argument of the exported call is fixed in the graph".into()),
                Ok(Some(input)) if !ids.insert(input.id.clone()) || !names.insert(input.name.clone()) => {
                    errors.push(Diagnostic::new("duplicate-name", format!("two inputs are called `{}`", input.name)))
                }
                Ok(Some(input)) => declared.push(input),
                Err(error) => errors.push(error),
            }
        }
        self.declared = declared;
        if errors.is_empty() { Ok(()) } else { Err(Diagnostics(errors)) }
    }

    fn declare_one(&self, spec: &InputSpec) -> Result<Option<Declared>, Diagnostic> {
        let (id, name, role) = match spec {
            InputSpec::Parameter { arg, parameter_name } => (&arg.name, parameter_name, Role::Parameter),
            InputSpec::Buffer { arg, buffer_name, persistent } => {
                let role = if *persistent || self.is_mutated(&arg.name) { Role::Buffer } else { Role::Constant };
                (&arg.name, buffer_name, role)
            }
            InputSpec::TensorConstant { arg, tensor_constant_name } => {
                (&arg.name, tensor_constant_name, Role::Constant)
            }
            InputSpec::UserInput { arg: Argument::AsTensor(t) } => (&t.name, &t.name, Role::Input),
            InputSpec::UserInput { .. } | InputSpec::ConstantInput {} => return Ok(None),
            InputSpec::Unknown(kind) => {
                return Err(Diagnostic::new("unsupported-input", "an input of the program is of an unsupported kind")
                    .expected("tensors")
                    .found(kind.keys().cloned().collect::<String>()));
            }
        };
        let meta = self.meta(id).ok_or_else(|| dangling(id))?;
        let dtype = dtype(meta.dtype).ok_or_else(|| unsupported_dtype(name, meta.dtype))?;
        let shape = self.sizes.shape(name, meta, role == Role::Input)?;
        let ty =
            TensorType::checked(dtype, shape).map_err(|e| Diagnostic::new("invalid-size", format!("`{name}`: {e}")))?;
        let requires_grad = meta.requires_grad;
        Ok(Some(Declared { id: id.clone(), name: name.clone(), role, ty, requires_grad }))
    }

    /// Type of a tensor as recorded when exporting.
    pub fn meta(&self, id: &str) -> Option<&TensorMeta> {
        self.file.graph_module.graph.tensor_values.get(id)
    }

    /// The nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.file.graph_module.graph.nodes
    }

    /// Whether the graph overwrites the tensor: by an in-place node, or as running statistics.
    fn is_mutated(&self, id: &str) -> bool {
        const OVERWRITTEN: [&str; 2] = ["running_mean", "running_var"];
        let names = |arg: &Argument| matches!(arg, Argument::AsTensor(t) if t.name == id);
        self.nodes().iter().any(|node| {
            overwritten(node).is_some_and(|input| names(&input.arg))
                || node.inputs.iter().any(|input| names(&input.arg) && OVERWRITTEN.contains(&input.name.as_str()))
        })
    }
}

/// The argument that a node's target overwrites: its first operand in place, or `out`.
pub fn overwritten(node: &Node) -> Option<&NamedArgument> {
    match node.target.ends_with(OUT) {
        true => node.inputs.iter().find(|input| input.name == "out"),
        false => in_place_base(&node.target).and_then(|_| node.inputs.first()),
    }
}

/// The overload that writes its result to an argument.
pub const OUT: &str = ".out";

/// `add.Tensor` of `torch.ops.aten.add_.Tensor`, which overwrites its first operand; `None` for other targets.
pub fn in_place_base(target: &str) -> Option<String> {
    let (op, overload) = target.strip_prefix("torch.ops.aten.")?.split_once('.')?;
    let base = op.strip_suffix('_').filter(|base| !base.ends_with('_'))?;
    Some(format!("{base}.{overload}"))
}

/// The dtype behind a number of the export schema's `ScalarType`, which is not PyTorch's own numbering.
pub fn dtype(scalar_type: u32) -> Option<DType> {
    Some(match scalar_type {
        1 => DType::U8,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        12 => DType::Bool,
        13 => DType::BF16,
        _ => return None,
    })
}

/// A dtype that gradc does not have.
pub fn unsupported_dtype(name: &str, scalar_type: u32) -> Diagnostic {
    Diagnostic::new("unsupported-dtype", format!("tensor `{name}` has an unsupported dtype"))
        .expected("u8, i32, i64, f16, f32, f64, bool or bf16")
        .found(format!("ScalarType {scalar_type} of the export schema"))
}

/// A name that nothing defines.
pub fn dangling(id: &str) -> Diagnostic {
    Diagnostic::new("dangling-reference", format!("the file refers to `{id}`, which is not defined there"))
}

/// Recorded types of the tensors that the user hands in.
fn user_inputs(file: &ExportedProgram) -> Vec<&TensorMeta> {
    let module = &file.graph_module;
    let id = |spec: &InputSpec| match spec {
        InputSpec::UserInput { arg: Argument::AsTensor(t) } => Some(t.name.clone()),
        _ => None,
    };
    module.signature.input_specs.iter().filter_map(|s| module.graph.tensor_values.get(&id(s)?)).collect()
}

/// What buffers are called inside the graph.
fn buffers(signature: &Signature) -> BTreeSet<String> {
    let id = |spec: &InputSpec| match spec {
        InputSpec::Buffer { arg, .. } => Some(arg.name.clone()),
        _ => None,
    };
    signature.input_specs.iter().filter_map(id).collect()
}

fn parse_json(json: &[u8]) -> Result<ExportedProgram, Diagnostic> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let path = e.path().to_string();
        Diagnostic::new("invalid-program", format!("the exported program cannot be read: {}", e.into_inner()))
            .found(format!("the problem is at `{path}`"))
            .help("save it with torch.export.save of PyTorch 2.8 or newer")
    })
}

fn check_schema(file: &ExportedProgram) -> Result<Vec<String>, Diagnostic> {
    let (major, minor) = (file.schema_version.major, file.schema_version.minor);
    if major != SCHEMA.0 {
        return Err(Diagnostic::new("unsupported-schema", "the program was saved with another schema version")
            .expected(format!("{}.x", SCHEMA.0))
            .found(format!("{major}.{minor}")));
    }
    let newer = minor > SCHEMA.1;
    let note =
        || format!("the program has schema {major}.{minor}, newer than {}.{}, the newest known", SCHEMA.0, SCHEMA.1);
    Ok(newer.then(note).into_iter().collect())
}
