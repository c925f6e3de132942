//! Where copies stand, and what is read as it is.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, OutputKind, Role, Value};
use gradc_ir::ops::{Convolution, MaxPool, MaxPoolGrad, Op};
use gradc_ir::types::TensorType;
use gradc_passes::layout::{LaidOut, assign_layouts};

/// A pooled convolution, whose taps are stored with channels innermost, and what is made of it and of an input that has
/// the pooling's shape in row-major order.
fn pooled(make: impl Fn(&mut Builder, [Value; 2], Value) -> Value) -> LaidOut {
    let mut b = Builder::new("pooled");
    let mut input = |name: &str, shape: &[usize]| {
        b.declare(name, Role::Input, TensorType::f32(shape), None).expect("names are unique")
    };
    let [x, w, g] = [input("x", &[2, 8, 12, 12]), input("w", &[16, 8, 3, 3]), input("g", &[2, 16, 5, 5])];
    let both = |v: usize| vec![v; 2];
    let op = Convolution { stride: both(1), pad_low: both(0), pad_high: both(0), dilation: both(1), groups: 1 };
    let y = b.convolution(x, w, op).expect("the shapes fit");
    let pool = MaxPool { window: both(2), stride: both(2), pad_low: both(0), pad_high: both(0), dilation: both(1) };
    let results = b.apply(pool, &[y]).expect("the shapes fit");
    let made = make(&mut b, [results[0], results[1]], g);
    b.output("made", made, OutputKind::Result);
    assign_layouts(&b.finish())
}

/// The operation of an operand of the only node with such an op.
fn operand_of(graph: &Graph, is: impl Fn(&Op) -> bool, operand: usize) -> &Def {
    let found = graph.nodes().iter().find(|node| matches!(&node.def, Def::Op(op) if is(op)));
    &graph.node(found.expect("the node is there").operands[operand].node).def
}

#[test]
fn what_is_read_again_and_again_is_read_in_the_order_of_the_result() {
    let both = |v: usize| vec![v; 2];
    let laid_out = pooled(|b, [_, taps], g| {
        let op = MaxPoolGrad {
            window: both(2),
            stride: both(2),
            pad_low: both(0),
            pad_high: both(0),
            dilation: both(1),
            input: both(10),
        };
        b.max_pool_grad(taps, g, op).expect("the shapes fit")
    });
    let read = operand_of(&laid_out.graph, |op| matches!(op, Op::MaxPoolGrad(_)), 1);
    assert!(matches!(read, Def::Op(Op::Copy(copy)) if copy.order == [0, 2, 3, 1]), "{read:?}");
}

#[test]
fn what_is_read_once_is_read_as_it_is() {
    let laid_out = pooled(|b, [y, _], g| b.add(y, g).expect("the shapes fit"));
    let read = operand_of(&laid_out.graph, |op| matches!(op, Op::Add(_)), 1);
    assert!(!matches!(read, Def::Op(_)), "{read:?}");
}
