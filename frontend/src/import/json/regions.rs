//! Nodes that apply functions of the file: loops and branches.

use super::call::Call;
use super::file::{Extent, FunctionDecl};
use super::graph::{Context, Maker};
use super::layers::Results;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::graph::Function;
use gradc_ir::ops::{self, Scan};
use gradc_ir::types::{TensorType, TypeError};

/// Builds a node around functions and returns its results.
pub(super) type Region = fn(&mut Call, &mut Bodies) -> Results;

/// Name in the file, and how the node is built.
pub(super) const REGIONS: &[(&str, Region)] =
    &[("call", call), ("cond", cond), ("iterate", iterate), ("iterate_until", iterate_until), ("scan", scan)];

/// The functions that a node may apply.
pub(super) struct Bodies<'a> {
    pub context: Context<'a>,
    /// The node, which the layers of its bodies are parts of.
    pub node: &'a str,
    /// What is wrong with functions that were used.
    pub problems: Vec<Diagnostic>,
}

impl Bodies<'_> {
    /// The function that an attribute names, for arguments of these types.
    fn function(&mut self, name: &str, arguments: &[TensorType]) -> Result<Function, TypeError> {
        let functions = self.context.functions;
        let Some(at) = functions.iter().position(|f| f.name == name) else {
            let names: Vec<&str> = functions.iter().map(|f| f.name.as_str()).collect();
            let unknown = TypeError::new("there is no such function before this");
            return Err(unknown.expected(format!("one of [{}]", names.join(", "))).found(name));
        };
        self.instance(&functions[at], Context { functions: &functions[..at], ..self.context }, arguments)
    }

    /// A number of steps, or the name of one of `dims`.
    fn steps(&self, c: &mut Call, name: &str) -> Result<usize, TypeError> {
        match c.attr(name)? {
            Extent::Size(steps) => Ok(steps),
            Extent::Dim(dim) => self.context.dims.get(&dim).copied().ok_or_else(|| {
                let dims: Vec<&str> = self.context.dims.keys().map(String::as_str).collect();
                TypeError::new(format!("attribute `{name}` is no number of steps"))
                    .expected(format!("a number, or one of the dims [{}]", dims.join(", ")))
                    .found(dim)
            }),
        }
    }

    fn instance(
        &mut self,
        function: &FunctionDecl,
        context: Context,
        arguments: &[TensorType],
    ) -> Result<Function, TypeError> {
        if function.inputs.len() != arguments.len() {
            let message = format!("function `{}` takes other arguments", function.name);
            return Err(TypeError::new(message).expected(function.inputs.len()).found(arguments.len()));
        }
        let mut maker = Maker::new(&function.name, context, self.node);
        maker.arguments(function.inputs.iter().zip(arguments));
        function.nodes.iter().for_each(|node| maker.node(node));
        maker.results(function.outputs.iter().enumerate().map(|(k, value)| (format!("y{k}"), value.as_str())));
        maker.finish().map(Function::new).map_err(|problems| {
            self.problems.extend(problems.0);
            TypeError::new(format!("function `{}` cannot be built", function.name))
        })
    }
}

fn types(c: &Call) -> Vec<TensorType> {
    c.operands.iter().map(|&v| c.b.ty(v).clone()).collect()
}

fn call(c: &mut Call, bodies: &mut Bodies) -> Results {
    let body = bodies.function(&c.attr::<String>("body")?, &types(c))?;
    c.b.apply(ops::Call { body }, &c.operands)
}

fn cond(c: &mut Call, bodies: &mut Bodies) -> Results {
    let arguments = types(c).split_off(1.min(c.operands.len()));
    let then_body = bodies.function(&c.attr::<String>("then")?, &arguments)?;
    let else_body = bodies.function(&c.attr::<String>("else")?, &arguments)?;
    c.b.apply(ops::Cond { then_body, else_body }, &c.operands)
}

fn iterate(c: &mut Call, bodies: &mut Bodies) -> Results {
    let body = bodies.function(&c.attr::<String>("body")?, &types(c))?;
    let (count, carries) = (bodies.steps(c, "count")?, body.outputs().len());
    c.b.apply(ops::Iterate { body, count, carries, in_order: false }, &c.operands)
}

fn iterate_until(c: &mut Call, bodies: &mut Bodies) -> Results {
    let body = bodies.function(&c.attr::<String>("body")?, &types(c))?;
    let (max, carries) = (bodies.steps(c, "max")?, body.outputs().len().saturating_sub(1));
    c.b.apply(ops::IterateUntil { body, max, carries }, &c.operands)
}

fn scan(c: &mut Call, bodies: &mut Bodies) -> Results {
    let (carries, scanned, reverse) = (c.attr("carries")?, c.attr("scanned")?, c.attr_or("reverse", false)?);
    let first = c.operands.get(carries).and_then(|&x| c.b.shape(x).first().copied());
    let length =
        first.ok_or_else(|| TypeError::new("a scan runs over the leading axis of an operand after the carries"))?;
    let arguments = Scan::slice_types(&types(c), carries, scanned, length)?;
    let body = bodies.function(&c.attr::<String>("body")?, &arguments)?;
    c.b.apply(Scan { body, carries, scanned, length, reverse, in_order: false }, &c.operands)
}
