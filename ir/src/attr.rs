//! Attributes: the compile-time constants of an op, with one textual form.

use crate::graph::Function;
use crate::types::{DType, TypeError};
use std::fmt;

/// A float attribute, compared and hashed by bits so that ops can be e-graph nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Float(u64);

impl Float {
    /// The attribute holding `value` bit for bit.
    pub fn new(value: f64) -> Self {
        Float(value.to_bits())
    }

    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// Reads what [`Debug`](fmt::Debug) writes: a decimal number, `inf`, `-inf`, `nan`, or `nan0x` and the bits.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("nan0x") {
            Some(bits) => u64::from_str_radix(bits, 16).ok().map(Float).filter(|f| f.get().is_nan()),
            None => text.parse().ok().map(Float::new),
        }
    }
}

impl From<f64> for Float {
    fn from(value: f64) -> Self {
        Float::new(value)
    }
}

impl fmt::Debug for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            v if !v.is_nan() => write!(f, "{v:?}"),
            v if v.to_bits() == f64::NAN.to_bits() => f.write_str("nan"),
            _ => write!(f, "nan0x{:016x}", self.0),
        }
    }
}

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attr {
    /// `3`
    Int(i64),
    /// `[1,2]`
    Ints(Vec<i64>),
    /// `0.5`, `inf`, `-inf`, `nan`, `nan0xfff8000000000000` for other NaNs
    Float(Float),
    /// `true`
    Bool(bool),
    /// A bare word naming an alternative: `lt`
    Word(String),
    /// `f32`
    DType(DType),
    /// A closed function: `@0`
    Function(Function),
}

/// A Rust type that can stand as an attribute.
pub trait AttrValue: Sized {
    /// What the text must show, for diagnostics.
    const EXPECTED: &'static str;
    /// The attribute's value.
    fn to_attr(&self) -> Attr;
    /// Reads it back; `None` when the attribute is of another kind or out of range.
    fn from_attr(attr: &Attr) -> Option<Self>;
}

macro_rules! attr_value {
    ($ty:ty, $expected:literal, $self:ident => $to:expr, $attr:pat => $from:expr) => {
        impl AttrValue for $ty {
            const EXPECTED: &'static str = $expected;
            fn to_attr(&$self) -> Attr {
                $to
            }
            fn from_attr(attr: &Attr) -> Option<Self> {
                match attr {
                    $attr => $from,
                    _ => None,
                }
            }
        }
    };
}

attr_value!(usize, "a non-negative integer", self => Attr::Int(*self as i64), Attr::Int(v) => usize::try_from(*v).ok());
attr_value!(i64, "an integer", self => Attr::Int(*self), Attr::Int(v) => Some(*v));
attr_value!(bool, "true or false", self => Attr::Bool(*self), Attr::Bool(v) => Some(*v));
attr_value!(Float, "a float such as `1.0`", self => Attr::Float(*self), Attr::Float(v) => Some(*v));
attr_value!(DType, "a dtype", self => Attr::DType(*self), Attr::DType(v) => Some(*v));
attr_value!(Function, "a function", self => Attr::Function(self.clone()), Attr::Function(v) => Some(v.clone()));
attr_value!(Vec<i64>, "a list of integers", self => Attr::Ints(self.clone()), Attr::Ints(v) => Some(v.clone()));
attr_value!(
    Vec<usize>, "a list of non-negative integers",
    self => Attr::Ints(self.iter().map(|&v| v as i64).collect()),
    Attr::Ints(v) => v.iter().map(|&x| usize::try_from(x).ok()).collect()
);

/// Named attributes in declaration order.
pub type Attrs = Vec<(&'static str, Attr)>;

/// Takes attributes out of a parsed list, so that what is left over is known to be unsupported.
pub struct AttrReader {
    op: &'static str,
    attrs: Vec<(String, Attr)>,
}

impl AttrReader {
    /// A reader over what stood in the text.
    pub fn new(op: &'static str, attrs: Vec<(String, Attr)>) -> Self {
        AttrReader { op, attrs }
    }

    /// Takes a mandatory attribute.
    pub fn take<T: AttrValue>(&mut self, name: &str) -> Result<T, TypeError> {
        let at = self.attrs.iter().position(|(n, _)| n == name);
        let at =
            at.ok_or_else(|| TypeError::new(format!("`{}` lacks attribute `{name}`", self.op)).expected(T::EXPECTED))?;
        let (_, attr) = self.attrs.swap_remove(at);
        T::from_attr(&attr).ok_or_else(|| {
            TypeError::new(format!("attribute `{name}` of `{}` is of the wrong kind", self.op))
                .expected(T::EXPECTED)
                .found(&attr)
        })
    }

    /// Fails when an attribute was not taken.
    pub fn finish(self) -> Result<(), TypeError> {
        match self.attrs.first() {
            None => Ok(()),
            Some((name, _)) => Err(TypeError::new(format!("`{}` has no attribute `{name}`", self.op))),
        }
    }
}

/// Declares a closed set of words usable as an attribute.
macro_rules! attr_words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every alternative, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word that stands for it in text.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl $crate::attr::AttrValue for $name {
            const EXPECTED: &'static str = concat!("one of:", $(" ", $word),+);
            fn to_attr(&self) -> $crate::attr::Attr {
                $crate::attr::Attr::Word(self.word().to_string())
            }
            fn from_attr(attr: &$crate::attr::Attr) -> Option<Self> {
                let $crate::attr::Attr::Word(word) = attr else { return None };
                $name::ALL.iter().copied().find(|v| v.word() == word)
            }
        }
    };
}
pub(crate) use attr_words;
