//! Groups that run by rows: what is joined, what is kept apart, and that random graphs keep the interpreter's values.

mod common;

use common::planned::{all_kernels, planned, run};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::interpret::{Precision, evaluate};
use gradc_ir::kernel::{Kernel, KernelKind, RowKernel};
use gradc_ir::plan::MemoryPlan;
use gradc_ir::tensor::{Data, Tensor};
use gradc_ir::types::{DType, TensorType, TypeError};

/// Numbers, the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn tensor(&mut self, ty: &TensorType) -> Tensor {
        let values = (0..ty.elements()).map(|_| self.below(4001) as f64 / 1000.0 - 2.0).collect();
        Tensor::float(ty.clone(), values).rounded()
    }
}

fn graph(build: impl FnOnce(&mut Builder) -> Result<(), TypeError>) -> Graph {
    let mut builder = Builder::new("rows");
    build(&mut builder).expect("the graph is well typed");
    builder.finish()
}

fn row_kernels(plan: &MemoryPlan) -> Vec<RowKernel> {
    let rows = |kernel: Kernel| if let KernelKind::Rows(rows) = kernel.kind { Some(rows) } else { None };
    all_kernels(plan).into_iter().filter_map(rows).collect()
}

/// softmax(x) along the last axis.
fn softmax(b: &mut Builder, x: Value) -> Result<Value, TypeError> {
    let (shape, last) = (b.shape(x).to_vec(), b.shape(x).len() - 1);
    let outer: Vec<usize> = (0..last).collect();
    let most = b.reduce_max(x, &[last])?;
    let most = b.broadcast(most, &shape, &outer)?;
    let centred = b.sub(x, most)?;
    let exp = b.exp(centred)?;
    let sum = b.reduce_sum(exp, &[last])?;
    let sum = b.broadcast(sum, &shape, &outer)?;
    b.div(exp, sum)
}

/// A result of a graph of one input, softmax(tanh x) made with `more`.
fn with_softmax(more: impl FnOnce(&mut Builder, Value, Value) -> Result<Value, TypeError>) -> MemoryPlan {
    planned(graph(|b| {
        let x = b.input("x", TensorType::f32([4, 30, 50]))?;
        let h = b.tanh(x)?;
        let y = softmax(b, h)?;
        let out = more(b, h, y)?;
        b.output("y", out, OutputKind::Result);
        Ok(())
    }))
}

#[test]
fn softmax_is_one_kernel_and_stores_only_its_result() {
    let plan = with_softmax(|_, _, y| Ok(y));
    let rows = row_kernels(&plan);
    assert_eq!((all_kernels(&plan).len(), rows.len()), (1, 1));
    assert_eq!(rows[0].rows, 120);
    assert_eq!(plan.memory.arena_bytes, (4 * 30 * 50 * 4usize).next_multiple_of(64), "the result and nothing else");
}

/// Numbers of kernels and of kernels by rows of the softmax of an f32[rows, width].
fn softmax_kernels(rows: usize, width: usize) -> (usize, usize) {
    let plan = planned(graph(|b| {
        let x = b.input("x", TensorType::f32([rows, width]))?;
        let y = softmax(b, x)?;
        b.output("y", y, OutputKind::Result);
        Ok(())
    }));
    (all_kernels(&plan).len(), row_kernels(&plan).len())
}

#[test]
fn long_rows_are_joined_where_there_are_many() {
    assert_eq!(softmax_kernels(16, 50_000), (1, 1), "600 KB of a row are near");
    assert!(softmax_kernels(8, 50_000).0 > 1, "threads would not have equal shares");
    assert!(softmax_kernels(16, 200_000).0 > 1, "2.4 MB of a row are far");
    assert_eq!(softmax_kernels(8, 2000), (1, 1), "few short rows");
}

#[test]
fn what_a_step_reads_anyway_may_wait_for_the_rest_of_what_it_reads() {
    let plan = planned(graph(|b| {
        let [x, w] = [b.input("x", TensorType::f32([64, 60]))?, b.input("w", TensorType::f32([64, 60]))?];
        let h = b.dot_general(x, w, [&[], &[]], [&[1], &[1]])?;
        let most = b.reduce_max(h, &[1])?;
        // The matrix is scaled by something that comes after its rows' maxima.
        let later = b.dot_general(w, h, [&[], &[]], [&[0], &[0]])?;
        let later = b.reduce_sum(later, &[0, 1])?;
        let [most, later] = [(most, vec![0]), (later, vec![])].map(|(v, dims)| b.broadcast(v, &[64, 64], &dims));
        let scaled = b.mul(h, later?)?;
        let y = b.add(scaled, most?)?;
        b.output("y", y, OutputKind::Result);
        Ok(())
    }));
    assert_eq!(row_kernels(&plan).len(), 1, "the matrix h is alive until then in any case");
}

#[test]
fn a_barrier_keeps_apart_what_is_made_again() {
    let plan = planned(graph(|b| {
        let x = b.input("x", TensorType::f32([16, 50]))?;
        let h = b.tanh(x)?;
        let again = b.barrier(h, x)?;
        let y = softmax(b, again)?;
        b.output("h", h, OutputKind::Result);
        b.output("y", y, OutputKind::Result);
        Ok(())
    }));
    let makers: Vec<usize> = all_kernels(&plan).iter().map(|kernel| kernel.results.len()).collect();
    assert_eq!(makers, [1, 1], "the softmax is a kernel of its own");
}

#[test]
fn columns_of_what_rows_make_are_a_kernel_of_their_own() {
    let plan = planned(graph(|b| {
        let x = b.input("x", TensorType::f32([300, 64]))?;
        let y = softmax(b, x)?;
        let columns = b.reduce_sum(y, &[0])?;
        b.output("y", y, OutputKind::Result);
        b.output("columns", columns, OutputKind::Result);
        Ok(())
    }));
    assert_eq!((all_kernels(&plan).len(), row_kernels(&plan).len()), (2, 1));
}

#[test]
fn what_a_later_step_reads_is_not_overwritten() {
    // h is in the arena; without the sums, the softmax takes its place.
    let plan = |sums: bool| {
        planned(graph(|b| {
            let x = b.input("x", TensorType::f32([4, 64, 50]))?;
            let w = b.input("w", TensorType::f32([50, 50]))?;
            let h = b.dot_general(x, w, [&[], &[]], [&[2], &[0]])?;
            let y = softmax(b, h)?;
            b.output("y", y, OutputKind::Result);
            if sums {
                let product = b.mul(h, y)?;
                let sums = b.reduce_sum(product, &[2])?;
                b.output("sums", sums, OutputKind::Result);
            }
            Ok(())
        }))
    };
    let is_in_place = |plan: &MemoryPlan| {
        let kernel = all_kernels(plan).into_iter().find(|k| matches!(k.kind, KernelKind::Rows(_)));
        let kernel = kernel.expect("rows are joined");
        plan.memory.places[&kernel.operands[0]] == plan.memory.places[&kernel.results[0]]
    };
    assert_eq!([false, true].map(|sums| is_in_place(&plan(sums))), [true, false]);
}

/// A graph of tensors `[outer…, width]`, of one number per row and of one per column, some of which leave it.
fn random_graph(random: &mut Random) -> Graph {
    let outer = [vec![5], vec![33], vec![6, 7], vec![200], vec![2, 3, 40]][random.below(5)].clone();
    let full = [&outer[..], &[[1, 3, 10, 64, 131][random.below(5)]]].concat();
    graph(|b| {
        let rank = full.len();
        let mut values =
            vec![b.input("x", TensorType::f32(full.clone()))?, b.input("w", TensorType::f32([full[rank - 1]]))?];
        for _ in 0..12 {
            let [x, y] = [(); 2].map(|()| values[random.below(values.len())]);
            values.push(random_node(b, random, &full, [x, y])?);
        }
        for (k, &value) in values.iter().enumerate().skip(2) {
            if k + 1 == values.len() || random.below(3) == 0 {
                b.output(&format!("y{k}"), value, OutputKind::Result);
            }
        }
        Ok(())
    })
}

fn random_node(b: &mut Builder, random: &mut Random, full: &[usize], pair: [Value; 2]) -> Result<Value, TypeError> {
    let last = full.len() - 1;
    let [x, y] = pair;
    let x = whole(b, x, full)?;
    match random.below(9) {
        7 => rotated(b, x, last),
        8 => rotated(b, x, 0),
        0 => b.reduce_max(x, &[last]),
        1 => b.reduce_sum(x, &[last]),
        2 => b.reduce_sum(x, &(0..last).collect::<Vec<_>>()),
        3 => b.tanh(x),
        _ => {
            let y = whole(b, y, full)?;
            let z = if random.below(2) == 0 { b.sub(x, y)? } else { b.mul(x, y)? };
            if random.below(2) == 0 { b.tanh(z) } else { Ok(z) }
        }
    }
}

/// The second half of an axis, then the first: a loop that is cut.
fn rotated(b: &mut Builder, x: Value, axis: usize) -> Result<Value, TypeError> {
    let extent = b.shape(x)[axis];
    let low = b.slice_axis(x, axis, 0, extent / 2)?;
    let high = b.slice_axis(x, axis, extent / 2, extent)?;
    let high = b.tanh(high)?;
    b.concat(&[high, low], axis)
}

/// A value spread over the whole shape.
fn whole(b: &mut Builder, x: Value, full: &[usize]) -> Result<Value, TypeError> {
    let last = full.len() - 1;
    let shape = b.shape(x).to_vec();
    if shape == full {
        return Ok(x);
    }
    // A tensor with as many columns as rows is one of columns.
    let dims: Vec<usize> = if shape == [full[last]] { vec![last] } else { (0..last).collect() };
    b.broadcast(x, full, &dims)
}

fn assert_near(seed: u64, found: &Tensor, expected: &Tensor) {
    let (Data::Float(f), Data::Float(e)) = (&found.data, &expected.data) else { panic!("results are floats") };
    let scale = e.iter().fold(1e-3, |most: f64, v| most.max(v.abs()));
    let near = |(f, e): (&f64, &f64)| (f - e).abs() <= 1e-4 * scale;
    assert!(found.ty.dtype == DType::F32 && f.iter().zip(e).all(near), "graph {seed}: {f:?} instead of {e:?}");
}

#[test]
fn random_graphs_keep_their_values() {
    let mut joined = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let graph = random_graph(&mut random);
        let inputs: Vec<Tensor> = graph.inputs().iter().map(|i| random.tensor(graph.ty(i.value))).collect();
        let expected = evaluate(&graph, &inputs, Precision::Double).unwrap_or_else(|e| panic!("{e}"));
        let outputs: Vec<Value> = graph.outputs().iter().map(|o| o.value).collect();
        let plan = planned(graph);
        joined += row_kernels(&plan).len();
        for threads in [1, 2] {
            let found = run(&plan, &inputs, threads);
            found.iter().zip(&outputs).for_each(|(f, &value)| assert_near(seed, f, expected.get(value)));
        }
    }
    assert!(joined > 60, "only {joined} kernels run by rows");
}

/// The gates of a recurrent cell: more instructions per point than a processor has under way for several. What takes
/// over the memory of the carry has read it.
#[test]
fn large_maps_run_in_stages() {
    let plan = planned(graph(|b| {
        let sums = b.input("sums", TensorType::f32([12, 4 * 96]))?;
        let before = b.input("before", TensorType::f32([12, 96]))?;
        let carry = b.exp(before)?;
        let rotated = rotated(b, carry, 1)?;
        let gate = |b: &mut Builder, k: usize| b.slice_axis(sums, 1, 96 * k, 96 * (k + 1));
        let mut gates = vec![];
        for k in 0..3 {
            let x = gate(b, k)?;
            let minus = b.neg(x)?;
            let e = b.exp(minus)?;
            let one = b.full_like(e, 1.0)?;
            let sum = b.add(e, one)?;
            gates.push(b.recip(sum)?);
        }
        let x = gate(b, 3)?;
        gates.push(b.tanh(x)?);
        let (kept, new) = (b.mul(gates[0], rotated)?, b.mul(gates[1], gates[3])?);
        let next = b.add(kept, new)?;
        let shown = b.tanh(next)?;
        let hidden = b.mul(gates[2], shown)?;
        for (k, value) in gates.into_iter().chain([next, hidden]).enumerate() {
            b.output(&format!("y{k}"), value, OutputKind::Result);
        }
        Ok(())
    }));
    let rows = row_kernels(&plan);
    assert_eq!(rows.len(), 1);
    assert!(rows[0].steps.len() >= 3 && rows[0].rows > 1, "{rows:?}");
    let mut random = Random(7);
    let graph = &plan.schedule.graph;
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|i| random.tensor(graph.ty(i.value))).collect();
    let expected = evaluate(graph, &inputs, Precision::Double).unwrap_or_else(|e| panic!("{e}"));
    for threads in [1, 2] {
        let found = run(&plan, &inputs, threads);
        found.iter().zip(graph.outputs()).for_each(|(f, o)| assert_near(7, f, expected.get(o.value)));
    }
}
