//! Tokens of the text format, and a cursor over them that knows its line.

use crate::attr::Float;
use crate::diagnostic::{Diagnostic, Loc};
use crate::graph::{NodeId, Value};
use logos::{Lexer, Logos};

/// A token of the text format.
#[derive(Logos, Clone, Copy, Debug, PartialEq)]
#[logos(skip r"[ \t\r\n]+")]
#[logos(skip(r"//[^\n]*", allow_greedy = true))]
pub(super) enum Token<'t> {
    /// `%3`, `%3.1`
    #[regex(r"%[0-9]+(\.[0-9]+)?", value)]
    Value(Value),
    /// `@0`
    #[regex(r"@[0-9]+", sigil)]
    Function(u32),
    /// `#7`
    #[regex(r"#[0-9]+", sigil)]
    Loc(u32),
    /// `-3`
    #[regex(r"-?[0-9]+", |lex| lex.slice().parse().ok(), priority = 10)]
    Int(i64),
    /// `0.5`, `1e-8`, `-inf`, `nan`
    #[regex(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|-?inf|nan(0x[0-9a-f]{16})?", |lex| Float::parse(lex.slice()), priority = 8)]
    Float(Float),
    /// A quoted string, quotes and escapes included.
    #[regex(r#""([^"\\\n]|\\[^\n])*""#)]
    Text(&'t str),
    /// `dot_general`
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*")]
    Word(&'t str),
    /// `{`, `->`, …
    #[regex(r"[{}\[\]=:,;+]|->")]
    Mark(&'t str),
}

fn sigil<'t>(lex: &mut Lexer<'t, Token<'t>>) -> Option<u32> {
    lex.slice()[1..].parse().ok()
}

fn value<'t>(lex: &mut Lexer<'t, Token<'t>>) -> Option<Value> {
    let digits = &lex.slice()[1..];
    let (node, result) = digits.split_once('.').unwrap_or((digits, "0"));
    Some(Value { node: NodeId(node.parse().ok()?), result: result.parse().ok()? })
}

/// A position in a text, with the token that comes next.
pub(super) struct Cursor<'t> {
    lexer: Lexer<'t, Token<'t>>,
    next: Option<Result<Token<'t>, ()>>,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut lexer = Token::lexer(text);
        let next = lexer.next();
        Cursor { lexer, next }
    }

    /// The next token; `None` at the end and before what is no token.
    pub(super) fn peek(&self) -> Option<Token<'t>> {
        self.next.and_then(Result::ok)
    }

    /// Offset of the next token.
    pub(super) fn offset(&self) -> usize {
        self.lexer.span().start
    }

    fn advance(&mut self) {
        self.next = self.lexer.next();
    }

    /// Takes the next token if `pick` makes something of it; else an error that names what was expected.
    pub(super) fn take<T>(
        &mut self,
        expected: &str,
        pick: impl FnOnce(Token<'t>) -> Option<T>,
    ) -> Result<T, Diagnostic> {
        let Some(picked) = self.peek().and_then(pick) else { return Err(self.unexpected(expected)) };
        self.advance();
        Ok(picked)
    }

    /// Takes the next token if it is this word or mark.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(t) | Token::Mark(t)) if t == text);
        if found {
            self.advance();
        }
        found
    }

    /// Takes this word or mark.
    pub(super) fn expect(&mut self, text: &str) -> Result<(), Diagnostic> {
        if self.eat(text) { Ok(()) } else { Err(self.unexpected(&format!("`{text}`"))) }
    }

    /// Takes a word.
    pub(super) fn word(&mut self, expected: &str) -> Result<&'t str, Diagnostic> {
        self.take(expected, |t| if let Token::Word(w) = t { Some(w) } else { None })
    }

    /// Takes a value.
    pub(super) fn value(&mut self) -> Result<Value, Diagnostic> {
        self.take("a value such as `%0`", |t| if let Token::Value(v) = t { Some(v) } else { None })
    }

    /// Takes an integer that fits `T`.
    pub(super) fn int<T: TryFrom<i64>>(&mut self, expected: &str) -> Result<T, Diagnostic> {
        self.take(expected, |t| if let Token::Int(v) = t { T::try_from(v).ok() } else { None })
    }

    /// Takes a quoted string and resolves its escapes.
    pub(super) fn string(&mut self) -> Result<String, Diagnostic> {
        let expected = "a quoted string with the escapes of Rust";
        self.take(expected, |t| if let Token::Text(raw) = t { unescape(&raw[1..raw.len() - 1]) } else { None })
    }

    /// Takes items separated by commas, up to and with the mark `end`.
    pub(super) fn list<T>(
        &mut self,
        end: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, Diagnostic>,
    ) -> Result<Vec<T>, Diagnostic> {
        let mut items = Vec::new();
        while !self.eat(end) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Fails unless the text ends here.
    pub(super) fn end(&self) -> Result<(), Diagnostic> {
        if self.next.is_none() { Ok(()) } else { Err(self.unexpected("the end of the text")) }
    }

    fn unexpected(&self, expected: &str) -> Diagnostic {
        let found: String = self.lexer.slice().chars().take(40).collect();
        let found = if self.next.is_none() { "the end of the text".into() } else { format!("`{found}`") };
        let error = Diagnostic::new("syntax", "unexpected token").expected(expected).found(found);
        self.place(self.offset(), error)
    }

    /// Places a diagnostic at the line of an offset.
    pub(super) fn place(&self, offset: usize, error: Diagnostic) -> Diagnostic {
        let lines = self.lexer.source().as_bytes()[..offset].iter().filter(|&&b| b == b'\n').count();
        error.at(Loc { line: u32::try_from(lines + 1).unwrap_or(u32::MAX), ..Loc::default() })
    }
}

/// Resolves the escapes that Rust's `{:?}` writes; `None` when there are others.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => unicode(&mut chars)?,
                same @ ('\\' | '"' | '\'') => same,
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

/// The character of `{1f600}`.
fn unicode(chars: &mut std::str::Chars) -> Option<char> {
    let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
    *chars = rest.chars();
    char::from_u32(u32::from_str_radix(code, 16).ok()?)
}
