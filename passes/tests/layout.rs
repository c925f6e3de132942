//! Where copies stand, and what is read as it is.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Def, Graph, InputId, NodeId, OutputKind, Role, Value};
use gradc_ir::ops::{Barrier, Convolution, ConvolutionWeightGrad, DotGeneral, MaxPool, MaxPoolGrad, Op};
use gradc_ir::types::TensorType;
use gradc_passes::layout::{KeptLayouts, LaidOut, assign_layouts, kept_layouts};

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
    assign_layouts(&b.finish(), &KeptLayouts::new())
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
fn two_channels_are_innermost() {
    let mut b = Builder::new("few");
    let [x, w] = [("x", [2, 8, 12, 12]), ("w", [2, 8, 3, 3])]
        .map(|(name, shape)| b.declare(name, Role::Input, TensorType::f32(shape), None).expect("names are unique"));
    let both = |v: usize| vec![v; 2];
    let op = Convolution { stride: both(1), pad_low: both(1), pad_high: both(1), dilation: both(1), groups: 1 };
    let y = b.convolution(x, w, op).expect("the shapes fit");
    let made = b.add(y, y).expect("the shapes are the same");
    b.output("made", made, OutputKind::Result);
    let laid_out = assign_layouts(&b.finish(), &KeptLayouts::new());
    let is_window = |id: &NodeId| matches!(&laid_out.graph.node(*id).def, Def::Op(Op::Convolution(_)));
    let node = laid_out.graph.node_ids().find(is_window).expect("the node is there");
    let layout = laid_out.layouts.get(&Value { node, result: 0 });
    assert_eq!(layout.map(|layout| layout.order()), Some(&[0, 2, 3, 1][..]));
}

#[test]
fn what_is_read_once_is_read_as_it_is() {
    let laid_out = pooled(|b, [y, _], g| b.add(y, g).expect("the shapes fit"));
    let read = operand_of(&laid_out.graph, |op| matches!(op, Op::Add(_)), 1);
    assert!(!matches!(read, Def::Op(_)), "{read:?}");
}

/// Heads `[2, 3, 5, 4]` (batch, head, position, channel) that a product makes, and what is made of them.
fn mixed(make: impl Fn(&mut Builder, Value, Value)) -> LaidOut {
    let mut b = Builder::new("mixed");
    let mut input = |name: &str, shape: &[usize]| {
        b.declare(name, Role::Input, TensorType::f32(shape), None).expect("names are unique")
    };
    let [scores, values] = [input("scores", &[2, 3, 5, 5]), input("values", &[2, 5, 3, 4])];
    let projection = input("projection", &[3, 4, 7]);
    let heads =
        DotGeneral { lhs_batch: vec![0, 1], rhs_batch: vec![0, 2], lhs_contract: vec![3], rhs_contract: vec![1] };
    let heads = b.op(heads, &[scores, values]).expect("the shapes fit");
    make(&mut b, heads, projection);
    assign_layouts(&b.finish(), &KeptLayouts::new())
}

/// All heads of a position, times the projection.
fn projected(b: &mut Builder, heads: Value, projection: Value) -> Value {
    let op = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1, 3], rhs_contract: vec![0, 1] };
    let projected = b.op(op, &[heads, projection]).expect("the shapes fit");
    b.output("projected", projected, OutputKind::Result);
    projected
}

/// The order in which the only product of heads is stored; empty for row-major.
fn order_of_heads(laid_out: &LaidOut) -> Vec<usize> {
    let graph = &laid_out.graph;
    let is_heads = |id: &NodeId| matches!(&graph.node(*id).def, Def::Op(Op::DotGeneral(op)) if op.lhs_batch == [0, 1]);
    let node = graph.node_ids().find(is_heads).expect("the node is there");
    laid_out.layouts.get(&Value { node, result: 0 }).map(|layout| layout.order().to_vec()).unwrap_or_default()
}

fn copies(laid_out: &LaidOut) -> usize {
    laid_out.graph.nodes().iter().filter(|node| matches!(node.def, Def::Op(Op::Copy(_)))).count()
}

const POSITIONS_FIRST: [usize; 4] = [0, 2, 1, 3];

#[test]
fn a_product_is_stored_as_its_reader_sums_over_it() {
    let laid_out = mixed(|b, heads, projection| {
        projected(b, heads, projection);
    });
    assert_eq!(order_of_heads(&laid_out), POSITIONS_FIRST);
    assert_eq!(copies(&laid_out), 0);
}

#[test]
fn wishes_go_through_maps_and_sums_that_do_not_mind() {
    let laid_out = mixed(|b, heads, projection| {
        let scaled = b.mul(heads, heads).expect("the shapes fit");
        let (more, low) = (b.reshape(scaled, &[2, 3, 5, 4, 1]).expect("as many elements"), b.neg(scaled));
        let low = low.and_then(|low| b.reshape(low, &[2, 3, 5, 4, 1])).expect("as many elements");
        let all = b.concat(&[more, low], 1).and_then(|all| b.slice_axis(all, 1, 2, 5)).expect("the shapes fit");
        let all = b.reshape(all, &[2, 3, 5, 4]).expect("as many elements");
        let sum = b.reduce_sum(all, &[0, 2]).expect("the axes are there");
        b.output("sum", sum, OutputKind::Result);
        projected(b, all, projection);
    });
    assert_eq!(order_of_heads(&laid_out), POSITIONS_FIRST);
    assert_eq!(copies(&laid_out), 0);
}

#[test]
fn a_wish_counts_that_no_other_reader_minds() {
    let outside = mixed(|b, heads, projection| {
        b.output("heads", heads, OutputKind::Result);
        projected(b, heads, projection);
    });
    let mapped = mixed(|b, heads, projection| {
        let negated = b.neg(heads).expect("a float");
        b.output("negated", negated, OutputKind::Result);
        projected(b, heads, projection);
    });
    let summed = mixed(|b, heads, projection| {
        let sum = b.reduce_sum(heads, &[3]).expect("the axis is there");
        b.output("sum", sum, OutputKind::Result);
        projected(b, heads, projection);
    });
    for laid_out in [outside, mapped, summed] {
        assert!(order_of_heads(&laid_out).is_empty());
    }
}

#[test]
fn a_wish_does_not_part_what_the_product_has_together() {
    let mut b = Builder::new("rows");
    let mut input = |name: &str, shape: &[usize]| {
        b.declare(name, Role::Input, TensorType::f32(shape), None).expect("names are unique")
    };
    let [x, w, v] = [input("x", &[2, 3, 5, 6]), input("w", &[6, 4]), input("v", &[2, 5, 7])];
    let rows = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![3], rhs_contract: vec![0] };
    let rows = b.op(rows, &[x, w]).expect("the shapes fit");
    let op = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0, 2], rhs_contract: vec![0, 1] };
    let read = b.op(op, &[rows, v]).expect("the shapes fit");
    b.output("read", read, OutputKind::Result);
    assert!(
        assign_layouts(&b.finish(), &KeptLayouts::new()).layouts.is_empty(),
        "batches, heads and positions are rows of one product"
    );
}

/// What only has to be made before something else is not read by it.
#[test]
fn readers_of_the_order_alone_do_not_mind() {
    let laid_out = mixed(|b, heads, projection| {
        let later = b.op(Barrier {}, &[projection, heads]).expect("any shapes");
        projected(b, heads, later);
    });
    assert_eq!(order_of_heads(&laid_out), POSITIONS_FIRST);
}

/// A map between may turn the columns away.
#[test]
fn no_wish_moves_the_columns_of_a_product() {
    let laid_out = mixed(|b, heads, _| {
        let turned = b.transpose(heads, &[0, 1, 3, 2]).expect("a permutation");
        let weight = b.input("weight", TensorType::f32([3, 5, 7])).expect("names are unique");
        projected(b, turned, weight);
    });
    assert!(order_of_heads(&laid_out).is_empty(), "positions would stand innermost");
}

/// Columns that are innermost in the result stay so: other axes only would have to be walked one by one.
#[test]
fn no_wish_takes_the_columns_of_a_product_apart() {
    let mut b = Builder::new("columns");
    let mut input = |name: &str, shape: &[usize]| {
        b.declare(name, Role::Input, TensorType::f32(shape), None).expect("names are unique")
    };
    let [x, y, w] = [input("x", &[2, 5, 6]), input("y", &[2, 6, 4]), input("w", &[2, 4, 7])];
    let made = DotGeneral { lhs_batch: vec![0], rhs_batch: vec![0], lhs_contract: vec![2], rhs_contract: vec![1] };
    let made = b.op(made, &[x, y]).expect("the shapes fit");
    let read = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![0, 2], rhs_contract: vec![0, 1] };
    let read = b.op(read, &[made, w]).expect("the shapes fit");
    b.output("read", read, OutputKind::Result);
    let laid_out = assign_layouts(&b.finish(), &KeptLayouts::new());
    let order = laid_out.layouts.get(&Value { node: made.node, result: 0 }).map(|layout| layout.order().to_vec());
    assert_eq!(order, Some(vec![1, 0, 2]), "batches and columns are summed over, columns innermost");
}

/// A convolution whose weights, with a state of theirs, are updated; `more` may read them again.
fn updated(more: impl Fn(&mut Builder, Value)) -> Graph {
    let mut b = Builder::new("updated");
    let mut input = |name: &str, role, shape: &[usize]| {
        b.declare(name, role, TensorType::f32(shape), Some(0.0)).expect("names are unique")
    };
    let [x, g] = ["x", "g"].map(|name| input(name, Role::Input, &[2, 8, 6, 6]));
    let [w, m] = [("w", Role::Parameter), ("m", Role::State)].map(|(name, role)| input(name, role, &[8, 8, 3, 3]));
    let both = |v: usize| vec![v; 2];
    let op = Convolution { stride: both(1), pad_low: both(1), pad_high: both(1), dilation: both(1), groups: 1 };
    let y = b.convolution(x, w, op.clone()).expect("the shapes fit");
    b.output("y", y, OutputKind::Result);
    let Convolution { stride, pad_low, pad_high, dilation, groups } = op;
    let gradient = ConvolutionWeightGrad { stride, pad_low, pad_high, dilation, groups, kernel: both(3) };
    let gradient = b.op(gradient, &[x, g]).expect("the shapes fit");
    let next = b.add(m, gradient).expect("the shapes are the same");
    let trained = b.sub(w, next).expect("the shapes are the same");
    b.update(InputId(3), next).expect("it is declared");
    b.update(InputId(2), trained).expect("it is declared");
    more(&mut b, w);
    b.finish()
}

#[test]
fn weights_and_their_states_are_kept_as_windows_multiply_them() {
    let graph = updated(|_, _| {});
    let kept = kept_layouts(&graph);
    let orders: Vec<(&str, &[usize])> = kept.iter().map(|(name, layout)| (&name[..], layout.order())).collect();
    assert_eq!(orders, [("m", &[2, 3, 1, 0][..]), ("w", &[2, 3, 1, 0])], "columns, the outputs, are innermost");
    let [before, after] = [&KeptLayouts::new(), &kept].map(|kept| copies(&assign_layouts(&graph, kept)));
    assert_eq!([before, after], [4, 3], "only images are copied");
}

#[test]
fn what_a_product_reads_too_is_kept_in_row_major_order() {
    let graph = updated(|b, w| {
        let op = DotGeneral { lhs_batch: vec![], rhs_batch: vec![], lhs_contract: vec![1], rhs_contract: vec![1] };
        let product = b.op(op, &[w, w]).expect("the shapes fit");
        b.output("product", product, OutputKind::Result);
    });
    assert!(kept_layouts(&graph).is_empty());
}
