//! Parsing graphs: exactly what [`print`](super::print()) prints, checked as it is read.

use super::lexer::{Cursor, Token};
use crate::attr::{Attr, Float};
use crate::diagnostic::{Diagnostic, Loc, nearest};
use crate::graph::{Def, Function, Graph, Input, InputId, LocId, Node, NodeId, Output, OutputKind, Role, Value};
use crate::ops::Op;
use crate::types::{DType, TensorType};
use crate::verify::{Checker, Extent, Functions};
use std::collections::HashSet;
use std::sync::Arc;

/// Reads a printed graph; the result equals the graph that was printed, and is [verified](crate::verify::verify).
///
/// `//` starts a comment. Errors carry the line; types in the text must be those the ops infer.
pub fn parse(text: &str) -> Result<Graph, Diagnostic> {
    let mut cursor = Cursor::new(text);
    let graph = parse_graph(&mut cursor)?;
    cursor.end()?;
    Ok(graph)
}

/// Reads functions and the graph after them.
pub(super) fn parse_graph(cursor: &mut Cursor) -> Result<Graph, Diagnostic> {
    let mut scope = Scope::default();
    while cursor.eat("function") {
        let number = scope.functions.len();
        let expected = format!("`@{number}`");
        cursor.take(&expected, |t| (t == Token::Function(number as u32)).then_some(()))?;
        let (graph, extent) = GraphParser::new(cursor, &mut scope).graph()?;
        let function = Arc::new(graph);
        scope.verified.insert(&function, extent);
        scope.functions.push(function);
    }
    cursor.expect("graph")?;
    Ok(GraphParser::new(cursor, &mut scope).graph()?.0)
}

/// The functions read so far.
#[derive(Default)]
struct Scope {
    functions: Vec<Function>,
    verified: Functions,
}

/// Reads one graph.
struct GraphParser<'a, 't> {
    cursor: &'a mut Cursor<'t>,
    scope: &'a mut Scope,
    graph: Graph,
    checker: Checker,
    /// Where each node's place was named, as places follow the graph.
    loc_uses: Vec<(NodeId, LocId, usize)>,
}

impl<'a, 't> GraphParser<'a, 't> {
    fn new(cursor: &'a mut Cursor<'t>, scope: &'a mut Scope) -> Self {
        GraphParser { cursor, scope, graph: Graph::new(""), checker: Checker::default(), loc_uses: vec![] }
    }

    fn graph(mut self) -> Result<(Graph, Extent), Diagnostic> {
        self.graph.name = self.cursor.string()?;
        self.cursor.expect("{")?;
        while let Some(Token::Value(_)) = self.cursor.peek() {
            self.node()?;
        }
        while !self.cursor.eat("}") {
            self.output()?;
        }
        self.locs()?;
        let extent = self.checker.finish(&self.graph)?;
        Ok((self.graph, extent))
    }

    fn node(&mut self) -> Result<(), Diagnostic> {
        let offset = self.cursor.offset();
        let id = NodeId(u32::try_from(self.graph.nodes.len()).map_err(|_| self.too_many(offset))?);
        let value = Value { node: id, result: 0 };
        self.cursor.take(&format!("a value or `{value}`"), |t| (t == Token::Value(value)).then_some(()))?;
        self.cursor.expect("=")?;
        let word = self.cursor.word("an op or a role")?;
        let named = matches!(self.cursor.peek(), Some(Token::Text(_)));
        let (def, operands) = if named || (role(word).is_some() && !Op::NAMES.contains(&word)) {
            (self.input(word, value, offset)?, vec![])
        } else {
            (Def::Op(self.op(word, offset)?), self.cursor.list(":", Cursor::value)?)
        };
        let types = self.types()?;
        self.graph.nodes.push(Node { def, operands, types, loc: LocId(0) });
        self.loc_use(id)?;
        let checked = self.checker.node(&self.graph, id, &mut self.scope.verified);
        checked.map_err(|e| self.cursor.place(offset, e))
    }

    fn too_many(&self, offset: usize) -> Diagnostic {
        self.cursor.place(offset, Diagnostic::new("too-many-nodes", "a graph can have 2³² nodes at most"))
    }

    fn input(&mut self, word: &str, value: Value, offset: usize) -> Result<Def, Diagnostic> {
        let unknown = || self.unknown("unknown-role", "role", word, &Role::ALL.map(Role::word), offset);
        let role = role(word).ok_or_else(unknown)?;
        let name = self.cursor.string()?;
        let default = if self.cursor.eat("=") { Some(self.float()?) } else { None };
        self.cursor.expect(":")?;
        let id = InputId(self.graph.inputs.len() as u32);
        self.graph.inputs.push(Input { name, role, default, value });
        Ok(Def::Input(id))
    }

    fn float(&mut self) -> Result<Float, Diagnostic> {
        self.cursor.take("a float such as `1.0`", |t| if let Token::Float(v) = t { Some(v) } else { None })
    }

    fn op(&mut self, name: &str, offset: usize) -> Result<Op, Diagnostic> {
        let functions = &self.scope.functions;
        let attrs = if self.cursor.eat("{") { self.cursor.list("}", |c| attr(c, functions))? } else { vec![] };
        let mut names = HashSet::new();
        if let Some((twice, _)) = attrs.iter().find(|(name, _)| !names.insert(name)) {
            let error = Diagnostic::new("duplicate-attribute", format!("attribute `{twice}` is given twice"));
            return Err(self.cursor.place(offset, error));
        }
        let op = Op::parse(name, attrs).ok_or_else(|| self.unknown("unknown-op", "op", name, Op::NAMES, offset))?;
        op.map_err(|e| self.cursor.place(offset, Diagnostic::from_type_error("invalid-attribute", e, Loc::default())))
    }

    fn types(&mut self) -> Result<Vec<TensorType>, Diagnostic> {
        let mut types = vec![self.ty()?];
        while self.cursor.eat(",") {
            types.push(self.ty()?);
        }
        Ok(types)
    }

    fn ty(&mut self) -> Result<TensorType, Diagnostic> {
        let offset = self.cursor.offset();
        let dtype: DType = self.cursor.take("a type such as `f32[2,3]`", |t| match t {
            Token::Word(w) => w.parse().ok(),
            _ => None,
        })?;
        self.cursor.expect("[")?;
        let shape = self.cursor.list("]", |c| c.int::<usize>("an extent"))?;
        let ty = TensorType::checked(dtype, shape);
        ty.map_err(|e| self.cursor.place(offset, Diagnostic::from_type_error("type-size", e, Loc::default())))
    }

    fn loc_use(&mut self, node: NodeId) -> Result<(), Diagnostic> {
        let offset = self.cursor.offset();
        if let Some(Token::Loc(number)) = self.cursor.peek() {
            self.cursor.take("a place", Some)?;
            self.loc_uses.push((node, LocId(number), offset));
        }
        Ok(())
    }

    fn output(&mut self) -> Result<(), Diagnostic> {
        let offset = self.cursor.offset();
        let word = self.cursor.word("a node, an output or `}`")?;
        let name = self.cursor.string()?;
        let value = self.cursor.value()?;
        let kind = match word {
            "result" => OutputKind::Result,
            "checked" => OutputKind::Checked,
            "update" => OutputKind::Update(self.checker.input_named(&name).ok_or_else(|| {
                let error = Diagnostic::new("update-target", format!("no input is called `{name}`"));
                self.cursor.place(offset, error)
            })?),
            _ => {
                return Err(self.unknown(
                    "unknown-output",
                    "kind of output",
                    word,
                    &["result", "checked", "update"],
                    offset,
                ));
            }
        };
        self.graph.outputs.push(Output { name, value, kind });
        let checked = self.checker.output(&self.graph, self.graph.outputs.len() - 1);
        checked.map_err(|e| self.cursor.place(offset, e))
    }

    fn locs(&mut self) -> Result<(), Diagnostic> {
        while let Some(Token::Loc(_)) = self.cursor.peek() {
            let number = self.graph.locs.len();
            self.cursor.take(&format!("`#{number}`"), |t| (t == Token::Loc(number as u32)).then_some(()))?;
            self.cursor.expect("=")?;
            let loc = self.loc()?;
            self.graph.locs.push(loc);
        }
        for &(node, loc, offset) in &self.loc_uses {
            if loc.0 as usize >= self.graph.locs.len() {
                let error = Diagnostic::new("loc-range", format!("place #{} is not listed after the graph", loc.0));
                return Err(self.cursor.place(offset, error));
            }
            self.graph.nodes[node.index()].loc = loc;
        }
        Ok(())
    }

    fn loc(&mut self) -> Result<Loc, Diagnostic> {
        let file = self.cursor.string()?;
        self.cursor.expect(":")?;
        let line = self.cursor.int("a line number")?;
        let (layer, source_op) = (self.cursor.string()?, self.cursor.string()?);
        Ok(Loc { file, line, layer, source_op, backward: self.cursor.eat("backward") })
    }

    fn unknown(&self, code: &'static str, what: &str, word: &str, known: &[&str], offset: usize) -> Diagnostic {
        let error = Diagnostic::new(code, format!("unknown {what} `{word}`"));
        let error = match nearest(word, known) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None if known.len() <= Role::ALL.len() => error.expected(known.join(", ")),
            None => error,
        };
        self.cursor.place(offset, error)
    }
}

fn role(word: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|r| r.word() == word)
}

/// Reads `name=value`.
fn attr(cursor: &mut Cursor, functions: &[Function]) -> Result<(String, Attr), Diagnostic> {
    let name = cursor.word("an attribute or `}`")?.to_string();
    cursor.expect("=")?;
    if cursor.eat("[") {
        return Ok((name, Attr::Ints(cursor.list("]", |c| c.int("an integer"))?)));
    }
    let value = cursor.take("the value of an attribute; functions come before their use", |token| match token {
        Token::Int(v) => Some(Attr::Int(v)),
        Token::Float(v) => Some(Attr::Float(v)),
        Token::Function(k) => functions.get(k as usize).cloned().map(Attr::Function),
        Token::Word("true") => Some(Attr::Bool(true)),
        Token::Word("false") => Some(Attr::Bool(false)),
        Token::Word(w) => Some(w.parse().map_or_else(|_| Attr::Word(w.into()), Attr::DType)),
        _ => None,
    })?;
    Ok((name, value))
}
