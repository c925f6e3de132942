//! Builder methods for regions and the functions that are their bodies.

use super::Builder;
use crate::graph::{Function, OutputKind, Value};
use crate::ops::{Call, Cond, Iterate, IterateUntil, Scan};
use crate::types::{TensorType, TypeError};
use std::sync::Arc;

impl Builder {
    /// A closed function of arguments of the given types; `build` makes its results.
    pub fn function(
        name: &str,
        arguments: &[TensorType],
        build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, TypeError>,
    ) -> Result<Function, TypeError> {
        let mut b = Builder::new(name);
        let declare = |(k, ty): (usize, &TensorType)| b.input(&format!("x{k}"), ty.clone());
        let values = arguments.iter().enumerate().map(declare).collect::<Result<Vec<_>, _>>()?;
        let results = build(&mut b, &values)?;
        for (k, result) in results.into_iter().enumerate() {
            b.output(&format!("y{k}"), result, OutputKind::Result);
        }
        Ok(Arc::new(b.finish().without_dead_nodes()))
    }

    /// The results of `body` on `operands`.
    pub fn call(&mut self, body: &Function, operands: &[Value]) -> Result<Vec<Value>, TypeError> {
        self.apply(Call { body: body.clone() }, operands)
    }

    /// The results of `then_body` on `operands` if the boolean scalar `predicate` holds, else those of `else_body`.
    pub fn cond(
        &mut self,
        predicate: Value,
        then_body: &Function,
        else_body: &Function,
        operands: &[Value],
    ) -> Result<Vec<Value>, TypeError> {
        let op = Cond { then_body: then_body.clone(), else_body: else_body.clone() };
        self.apply(op, &[&[predicate], operands].concat())
    }

    /// The final carries and the stacked results of a [`Scan`] over the leading axis of `xs`, of which there is at least one.
    pub fn scan(
        &mut self,
        body: &Function,
        carries: &[Value],
        xs: &[Value],
        consts: &[Value],
        reverse: bool,
    ) -> Result<(Vec<Value>, Vec<Value>), TypeError> {
        let length = xs.first().and_then(|&x| self.shape(x).first().copied());
        let length =
            length.ok_or_else(|| TypeError::new("a scan runs over the leading axis of its first scanned operand"))?;
        let op =
            Scan { body: body.clone(), carries: carries.len(), scanned: xs.len(), length, reverse, in_order: false };
        let mut results = self.apply(op, &[carries, xs, consts].concat())?;
        let ys = results.split_off(carries.len());
        Ok((results, ys))
    }

    /// The carries after `count` applications of `body`; returns them unchanged for none.
    pub fn iterate(
        &mut self,
        body: &Function,
        count: usize,
        carries: &[Value],
        consts: &[Value],
    ) -> Result<Vec<Value>, TypeError> {
        if count == 0 {
            return Ok(carries.to_vec());
        }
        let op = Iterate { body: body.clone(), count, carries: carries.len(), in_order: false };
        self.apply(op, &[carries, consts].concat())
    }
    /// The carries after as many applications of `body` as it takes until it says that it is done, at most `max`, and
    /// their number, an i64 scalar; see [`IterateUntil`]. There is at least one.
    pub fn iterate_until(
        &mut self,
        body: &Function,
        max: usize,
        carries: &[Value],
        consts: &[Value],
    ) -> Result<(Vec<Value>, Value), TypeError> {
        let op = IterateUntil { body: body.clone(), max, carries: carries.len() };
        let mut results = self.apply(op, &[carries, consts].concat())?;
        let steps = results.pop().expect("the number of steps is a result");
        Ok((results, steps))
    }
}
