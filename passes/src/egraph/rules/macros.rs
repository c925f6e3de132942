//! The notation of the rule tables.

/// `for` over the makers of a value that are a given op: `each!(site, id, Transpose)` gives `(op, args)`.
macro_rules! each {
    ($site:expr, $id:expr, $op:ident) => {
        $site.makers($id).filter_map(|s| match s.op {
            gradc_ir::ops::Op::$op(op) => Some((op, s.args)),
            _ => None,
        })
    };
}

/// The attributes of a site's op, which the rule's root promises; returns no terms otherwise.
macro_rules! attrs {
    ($site:expr, $op:ident) => {
        match $site.op {
            gradc_ir::ops::Op::$op(op) => op,
            _ => return vec![],
        }
    };
}

/// Which nodes a rule looks at: `[Ops]`, `[]` for every op, or `sum`.
macro_rules! root {
    (sum) => {
        $crate::egraph::rules::Root::Sum
    };
    ([$($op:ident),*]) => {
        $crate::egraph::rules::Root::of(&[$(<gradc_ir::ops::$op as gradc_ir::op::OpAttrs>::NAME),*])
    };
}

/// A table of rules: `"name": "pattern" => "replacement" if "guard"; on [Ops] by rewrite, as in example`.
macro_rules! rules {
    ($family:ident, $class:ident; $(
        $name:literal: $pattern:literal => $replacement:literal $(if $guard:literal)?;
        on $root:tt by $rewrite:expr, as in $example:expr;
    )*) => {
        /// The rules of this file.
        pub fn rules() -> Vec<$crate::egraph::rules::Rule> {
            vec![$($crate::egraph::rules::Rule {
                name: $name,
                family: $crate::egraph::rules::Family::$family,
                class: $crate::egraph::rules::NumericClass::$class,
                pattern: $pattern,
                replacement: $replacement,
                guard: concat!($($guard)?),
                root: root!($root),
                rewrite: $rewrite,
                example: $example,
            }),*]
        }
    };
}
