//! Random loops with random surroundings: rolled, they compute the same bits.

use crate::cases::rolled;
use crate::programs::{input, parameter, product, scaled_by};
use gradc_ir::builder::Builder;
use gradc_ir::graph::{Graph, OutputKind, Value};
use gradc_ir::types::{TensorType, TypeError};
use gradc_passes::egraph::rules::Random;

const SHAPE: [usize; 2] = [2, 3];

/// What one instruction of a random step does; operands are numbers of values it has so far.
#[derive(Clone, Copy, Debug)]
enum Instruction {
    Add(usize, usize),
    Mul(usize, usize),
    Tanh(usize),
    Product(usize),
    Invariant(usize, usize),
    Constant(usize),
    Scanned(usize),
}

/// A random loop.
#[derive(Debug)]
struct Program {
    steps: usize,
    instructions: Vec<Instruction>,
    /// Which value becomes each carry.
    carries: Vec<usize>,
    /// Steps and values that are used outside.
    leaks: Vec<(usize, usize)>,
    /// Steps after which an unrelated op is applied.
    noise: usize,
}

fn program(random: &mut Random) -> Program {
    let carries = 1 + random.below(3);
    let mut values = carries;
    let mut instructions = Vec::new();
    for _ in 0..2 + random.below(8) {
        let any = |random: &mut Random| random.below(values);
        instructions.push(match random.below(9) {
            0 | 1 => Instruction::Add(any(random), any(random)),
            2 => Instruction::Mul(any(random), any(random)),
            3 => Instruction::Tanh(any(random)),
            4 | 5 => Instruction::Product(any(random)),
            6 => Instruction::Invariant(any(random), random.below(2)),
            7 => Instruction::Constant(any(random)),
            _ => Instruction::Scanned(any(random)),
        });
        values += 1;
    }
    let next = |random: &mut Random| values - 1 - random.below(instructions.len().min(4));
    let steps = 4 + random.below(9);
    let leaks = (0..random.below(3)).map(|_| (random.below(steps), random.below(values))).collect();
    Program {
        steps,
        carries: (0..carries).map(|_| next(random)).collect(),
        instructions,
        leaks,
        noise: random.below(4),
    }
}

/// What the step reads from outside: weights, invariants, a tensor of slices.
struct Outside {
    weights: Value,
    invariants: [Value; 2],
    sliced: Value,
}

fn step(
    b: &mut Builder,
    program: &Program,
    outside: &Outside,
    carries: &[Value],
    at: usize,
) -> Result<Vec<Value>, TypeError> {
    let mut v = carries.to_vec();
    for instruction in &program.instructions {
        let value = match *instruction {
            Instruction::Add(x, y) => b.add(v[x], v[y])?,
            Instruction::Mul(x, y) => b.mul(v[x], v[y])?,
            Instruction::Tanh(x) => b.tanh(v[x])?,
            Instruction::Product(x) => product(b, v[x], outside.weights)?,
            Instruction::Invariant(x, which) => b.sub(v[x], outside.invariants[which])?,
            Instruction::Constant(x) => b.scale(v[x], 1.0 / (1.0 + (at / 2) as f64))?,
            Instruction::Scanned(x) => {
                let slice = b.slice_axis(outside.sliced, 1, at, at + 1)?;
                let slice = b.reshape(slice, &[])?;
                scaled_by(b, v[x], slice)?
            }
        };
        v.push(value);
    }
    Ok(v)
}

fn unrolled(program: &Program) -> Result<Graph, TypeError> {
    let mut b = Builder::new("generated");
    let outside = Outside {
        weights: parameter(&mut b, "w", &[3, 3]),
        invariants: [input(&mut b, "i", &SHAPE), parameter(&mut b, "j", &SHAPE)],
        sliced: input(&mut b, "s", &[1, program.steps]),
    };
    let invariant = b.exp(outside.invariants[0])?;
    let outside = Outside { invariants: [invariant, outside.invariants[1]], ..outside };
    let mut carries = Vec::new();
    for k in 0..program.carries.len() {
        carries.push(match k {
            0 => input(&mut b, "x", &SHAPE),
            _ => b.splat(&TensorType::f32(SHAPE), 0.5 * k as f64)?,
        });
    }
    let mut outputs = Vec::new();
    for at in 0..program.steps {
        let values = step(&mut b, program, &outside, &carries, at)?;
        let leaked = program.leaks.iter().filter(|(step, _)| *step == at);
        outputs.extend(leaked.map(|&(_, k)| values[k]));
        if at < program.noise {
            outputs.push(b.abs(values[values.len() - 1])?);
        }
        carries = program.carries.iter().map(|&k| values[k]).collect();
    }
    for (k, value) in outputs.into_iter().chain(carries).enumerate() {
        b.output(&format!("y{k}"), value, OutputKind::Result);
    }
    Ok(b.finish().without_dead_nodes())
}

#[test]
fn random_loops_keep_every_bit() {
    let (mut found, mut whole, mut scans) = (0, 0, 0);
    let programs = 400;
    for seed in 0..programs {
        let program = program(&mut Random::new(seed));
        let flat = unrolled(&program).expect("the program is well typed");
        let (graph, report) = rolled(&flat);
        assert!(report.rolled.is_empty() || graph.nodes().len() <= flat.nodes().len() + 40, "{program:?}\n{report}");
        found += usize::from(!report.rolled.is_empty());
        whole += usize::from(report.rolled.iter().any(|l| l.steps + 1 >= program.steps));
        scans += usize::from(report.rolled.iter().any(|l| l.into == "scan"));
    }
    println!("{found} of {programs} rolled, {whole} as a whole, {scans} scans");
    assert!(found > 200 && whole > 150 && scans > 80, "{found} rolled, {whole} as a whole, {scans} scans");
}
