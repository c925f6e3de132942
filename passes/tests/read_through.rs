//! Which values groups of nodes store for each other.

use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::plan::Action;
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::schedule::{Ordering, kernels, schedule};

/// A map `s` too dear to be made twice, and `t = s·y`, which is cheap; both go on, `t` also to what is computed with a
/// product of `−t`. `others` add readers outside.
fn graph(others: impl FnOnce(&mut Builder, [Value; 2]) -> Result<(), TypeError>) -> (Graph, [Value; 2]) {
    let build = || {
        let mut b = Builder::new("read through");
        let [x, y] = [b.input("x", TensorType::f32([16, 16]))?, b.input("y", TensorType::f32([16, 16]))?];
        let e = b.exp(x)?;
        let s = b.tanh(e)?;
        let t = b.mul(s, y)?;
        let (minus_s, minus_t) = (b.neg(s)?, b.neg(t)?);
        let product = b.dot_general(minus_t, x, [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(t, product)?;
        b.output("minus_s", minus_s, OutputKind::Result);
        b.output("sum", sum, OutputKind::Result);
        others(&mut b, [s, t])?;
        Ok::<_, TypeError>((b.finish(), [s, t]))
    };
    build().expect("well typed")
}

/// What a graph's groups store, and the most operands that the kernel of its product has.
fn scheduled(graph: Graph) -> (Vec<Value>, usize) {
    let (schedule, _) = schedule(graph.into(), Ordering::Memory).expect("it schedules");
    let stored = schedule.actions.iter().filter_map(|a| if let Action::Run(g) = a { Some(&g.stored) } else { None });
    let stored = stored.flatten().copied().collect();
    (stored, kernels(&schedule).into_iter().flatten().map(|k| k.operands.len()).max().expect("there are kernels"))
}

#[test]
fn what_is_read_through_one_map_is_stored_as_that_map() {
    let (graph, [s, t]) = graph(|_, _| Ok(()));
    let (stored, operands) = scheduled(graph);
    assert!(stored.contains(&t) && !stored.contains(&s), "{stored:?}");
    assert_eq!(operands, 3, "the product reads its factors and `t`");
}

#[test]
fn what_others_read_itself_stays_stored() {
    let (graph, [s, t]) = graph(|b, [s, _]| {
        let product = b.dot_general(s, s, [&[], &[]], [&[1], &[0]])?;
        b.output("product", product, OutputKind::Result);
        Ok(())
    });
    let (stored, _) = scheduled(graph);
    assert!(stored.contains(&s) && !stored.contains(&t), "{stored:?}");
}

/// Adds a map to a product of its negation: the product's kernel makes the map again, if it is not stored.
fn read_beside_product(b: &mut Builder, map: Value, name: &str) -> Result<(), TypeError> {
    let minus = b.neg(map)?;
    let product = b.dot_general(minus, minus, [&[], &[]], [&[1], &[0]])?;
    let sum = b.add(map, product)?;
    b.output(name, sum, OutputKind::Result);
    Ok(())
}

/// A value that is better stored as its map is so, whatever becomes of others.
#[test]
fn values_are_judged_one_by_one() {
    type Others = fn(&mut Builder, [Value; 2]) -> Result<(), TypeError>;
    // A value read through two maps; one that is a result; one whose map is larger.
    let others: [Others; 3] = [
        |b, [dear, z]| {
            let (once, twice) = (b.mul(dear, z)?, b.add(dear, z)?);
            read_beside_product(b, once, "once")?;
            read_beside_product(b, twice, "twice")
        },
        |b, [dear, z]| {
            let map = b.mul(dear, z)?;
            b.output("dear", dear, OutputKind::Result);
            read_beside_product(b, map, "map")
        },
        |b, [dear, z]| {
            let column = b.slice_axis(dear, 1, 0, 1)?;
            let (column, column_twice) = (b.tanh(column)?, b.add(column, column)?);
            let map = b.broadcast_to(column, &[16, 16])?;
            let map = b.mul(map, z)?;
            b.output("column_twice", column_twice, OutputKind::Result);
            read_beside_product(b, map, "map")
        },
    ];
    for more in others {
        let (graph, [s, t]) = graph(|b, _| {
            let z = b.input("z", TensorType::f32([16, 16]))?;
            let e = b.exp(z)?;
            let dear = b.tanh(e)?;
            more(b, [dear, z])
        });
        let (stored, _) = scheduled(graph);
        assert!(stored.contains(&t) && !stored.contains(&s), "{stored:?}");
    }
}

/// A map of more bytes than what it reads is made where it is needed.
#[test]
fn larger_maps_are_not_stored_instead() {
    let build = || {
        let mut b = Builder::new("larger");
        let [x, w] = [b.input("x", TensorType::f32([16, 1]))?, b.input("w", TensorType::f32([16, 16]))?];
        let e = b.exp(x)?;
        let s = b.tanh(e)?;
        let t = b.add(s, w)?;
        let minus = b.neg(t)?;
        let product = b.dot_general(minus, w, [&[], &[]], [&[1], &[0]])?;
        let sum = b.add(t, product)?;
        let minus_s = b.neg(s)?;
        b.output("sum", sum, OutputKind::Result);
        b.output("minus_s", minus_s, OutputKind::Result);
        Ok::<_, TypeError>((b.finish(), t))
    };
    let (graph, t) = build().expect("well typed");
    assert!(!scheduled(graph).0.contains(&t));
}
