//! Strips called directly: on the processor where it has the instructions, else on the emulator.

mod combinations;

use super::code::{Action, Code, Combination, Element, Invariant, ROWS_TOGETHER, Shape, Step, Value};
use super::emulator::Emulator;
use super::frame::{arguments_bytes, assemble, combining, result_offset, uniforms_offset};
use super::machine::Isa;
use crate::code_memory::CodeMemory;
use crate::math::Math;
use crate::simd::{Op1, Op2, Relation, Simd};
use gradc_ir::lower::{BinaryFn, Combine, CompareFn, UnaryFn};

/// Lengths around the boundaries of blocks, vectors and tails of both instruction sets.
const LENGTHS: [usize; 9] = [1, 7, 8, 16, 17, 33, 64, 77, 131];

/// A stream's memory with guard bytes around it.
#[derive(Clone, PartialEq, Debug)]
struct Buffer(Vec<u8>);

const GUARD: usize = 256;

impl Buffer {
    fn of_floats(values: &[f32]) -> Buffer {
        Buffer::guarded(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn guarded(bytes: &[u8]) -> Buffer {
        Buffer([&[0xAB; GUARD], bytes, &[0xAB; GUARD]].concat())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Machine {
    Processor(Isa),
    Emulated(Isa),
}

/// Runs a strip that has rows.
fn run_rows(code: &Code, machine: Machine, streams: &mut [Buffer], count: usize, rows: usize) {
    run_with(code, machine, streams, (&[], count), rows);
}

/// Runs a strip; the caller's block afterwards.
fn run(code: &Code, machine: Machine, streams: &mut [Buffer], uniforms: &[f32], count: usize) -> Vec<u8> {
    run_with(code, machine, streams, (uniforms, count), 0)
}

fn run_with(
    code: &Code,
    machine: Machine,
    streams: &mut [Buffer],
    (uniforms, count): (&[f32], usize),
    rows: usize,
) -> Vec<u8> {
    let addresses: Vec<u64> = streams.iter_mut().map(|s| s.0[GUARD..].as_mut_ptr() as u64).collect();
    run_at(code, machine, &addresses, (uniforms, count), rows)
}

/// Runs a strip on streams at these addresses.
fn run_at(
    code: &Code,
    machine: Machine,
    addresses: &[u64],
    (uniforms, count): (&[f32], usize),
    rows: usize,
) -> Vec<u8> {
    let mut block = vec![0u8; arguments_bytes(code)];
    for (place, number) in block[result_offset(code)..].chunks_exact_mut(8).zip([rows, count]) {
        place.copy_from_slice(&(number as u64).to_le_bytes());
    }
    for (k, address) in addresses.iter().enumerate() {
        block[8 * k..8 * k + 8].copy_from_slice(&address.to_le_bytes());
    }
    for (k, uniform) in uniforms.iter().enumerate() {
        let at = uniforms_offset(code) + 4 * k;
        block[at..at + 4].copy_from_slice(&uniform.to_le_bytes());
    }
    let arguments = [block.as_mut_ptr() as u64, count as u64];
    match machine {
        Machine::Emulated(isa) => {
            let bytes = assemble(code, isa);
            // SAFETY: the block points to streams of `count` points, and both outlive the call.
            unsafe { Emulator::call(&bytes, arguments) };
        }
        Machine::Processor(isa) => {
            let memory = CodeMemory::new(&assemble(code, isa)).expect("memory for code");
            // SAFETY: the code is a strip's, whose parameters these are.
            let strip: extern "sysv64" fn(u64, u64) = unsafe { std::mem::transmute(memory.bytes().as_ptr()) };
            strip(arguments[0], arguments[1]);
        }
    }
    block
}

fn machines() -> Vec<Machine> {
    let mut machines = vec![Machine::Emulated(Isa::Avx2), Machine::Emulated(Isa::Avx512)];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        machines.insert(0, Machine::Processor(Isa::Avx2));
    }
    if is_x86_feature_detected!("avx512f") {
        machines.push(Machine::Processor(Isa::Avx512));
    }
    machines
}

const SPECIAL: [f32; 12] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-42, -1e-42, f32::MAX, 2.5, -0.5, 88.9, -1e9];

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    (0..n)
        .map(|_| match next() % 3 {
            0 => SPECIAL[next() as usize % SPECIAL.len()],
            _ => next() as f32 / (1 << 20) as f32 - 8.0,
        })
        .collect()
}

/// The bytes of the streams after a run, all NaN as one.
fn contents(streams: &[Buffer]) -> Vec<Vec<u32>> {
    let word = |w: &[u8]| {
        let bits = u32::from_le_bytes(w.try_into().expect("four bytes"));
        if f32::from_bits(bits).is_nan() { f32::NAN.to_bits() } else { bits }
    };
    let padded = |b: &Buffer| [&b.0[..], &[0; 3]].concat();
    streams.iter().map(|s| padded(s).chunks_exact(4).map(word).collect()).collect()
}

/// All machines leave the same bytes, guards included.
fn assert_equal_streams(what: &str, code: &Code, streams: &[Buffer], uniforms: &[f32], count: usize) {
    let after = |machine| {
        let mut streams = streams.to_vec();
        run(code, machine, &mut streams, uniforms, count);
        contents(&streams)
    };
    let machines = machines();
    let first = after(machines[0]);
    assert_ne!(first, contents(streams), "{what}: {count} points are written");
    for &machine in &machines[1..] {
        assert!(first == after(machine), "{what}: {count} points on {machine:?}");
    }
}

/// A map of two streams of f32, one of booleans and a uniform value to one of f32 and one of booleans.
fn map(build: impl Fn(&mut Code, [Value; 4]) -> (Value, Value)) -> Code {
    let mut code = Code::new(Shape::Map);
    let [x, y] = [0, 1].map(|_| code.stream(Element::Float, 0, false));
    let mask = code.stream(Element::Bool, 0, false);
    let outputs = [code.stream(Element::Float, 0, false), code.stream(Element::Bool, 0, false)];
    let [x, y, mask] = [x, y, mask].map(|k| code.push(Action::Load(k)));
    let zero = code.word(0);
    let mask = code.op2(Op2::GreaterInt, &mask, &zero);
    let uniform = code.uniform();
    let (value, flag) = build(&mut code, [x, y, mask, uniform]);
    code.push(Action::Store(outputs[0], value));
    code.push(Action::StoreMask(outputs[1], flag));
    code.tail = code.steps.clone();
    code
}

fn check_map(what: &str, build: impl Fn(&mut Code, [Value; 4]) -> (Value, Value)) {
    let code = map(build);
    for n in LENGTHS {
        let bools: Vec<u8> = (0..n).map(|k| (k * 7 % 3 == 0).into()).collect();
        let streams = [
            Buffer::of_floats(&numbers(n, 1)),
            Buffer::of_floats(&numbers(n, 2)),
            Buffer::guarded(&bools),
            Buffer::of_floats(&vec![7.0; n]),
            Buffer::guarded(&vec![9; n]),
        ];
        assert_equal_streams(what, &code, &streams, &[1.25], n);
    }
}

#[test]
fn every_function_has_the_same_bits_on_every_machine() {
    use UnaryFn::{Abs, Ceil, Cos, Erf, Exp, Floor, Log, Neg, Recip, Round, Rsqrt, Sign, Sin, Sqrt, Tanh};
    for f in [Abs, Ceil, Cos, Erf, Exp, Floor, Log, Neg, Recip, Round, Rsqrt, Sign, Sin, Sqrt, Tanh] {
        check_map(f.word(), |c, [x, y, mask, uniform]| {
            let value = c.unary(f, &x);
            let sum = c.binary(BinaryFn::Add, &y, &uniform);
            (c.select(&mask, &value, &sum), mask)
        });
    }
    for f in [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Div, BinaryFn::Max, BinaryFn::Min] {
        check_map(f.word(), |c, [x, y, mask, uniform]| {
            let (a, b) = (c.binary(f, &x, &y), c.binary(f, &uniform, &x));
            (c.select(&mask, &uniform, &a), c.compare(CompareFn::Lt.into(), &a, &b))
        });
    }
    for f in [CompareFn::Eq, CompareFn::Ne, CompareFn::Lt, CompareFn::Le, CompareFn::Gt, CompareFn::Ge] {
        check_map(f.word(), |c, [x, y, mask, uniform]| {
            let holds = c.compare(f.into(), &x, &y);
            let both = c.op2(Op2::Xor, &holds, &mask);
            (c.select(&holds, &x, &uniform), both)
        });
    }
}

#[test]
fn numbers_of_points_have_the_same_bits() {
    check_map("numbers of points", |c, [x, y, mask, uniform]| {
        let (first, lane) = (c.push(Action::FirstPoint), c.invariant(Invariant::LaneNumber));
        let number = c.op2(Op2::AddInt, &first, &lane);
        let limit = c.word(30);
        let beyond = c.op2(Op2::GreaterInt, &number, &limit);
        let number = c.op1(Op1::FloatOfInt, &number);
        let sum = c.binary(BinaryFn::Add, &number, &uniform);
        let value = c.select(&beyond, &sum, &x);
        (c.select(&mask, &value, &y), beyond)
    });
}

/// Beyond streams there is nothing to read: what is fetched ahead has no effect but on caches.
#[test]
fn what_is_fetched_ahead_is_not_read() {
    let mut code = map(|code, [x, y, ..]| (code.op2(Op2::Add, &x, &y), code.op2(Op2::Compare(Relation::Lt), &x, &y)));
    let without = assemble(&code, Isa::Avx512).len();
    code.streams[1].ahead_bytes = 1 << 30;
    assert!(assemble(&code, Isa::Avx512).len() > without, "something is fetched");
    let streams = [1, 2].map(|seed| Buffer::of_floats(&numbers(77, seed)));
    let rest = [Buffer::guarded(&[0; 77]), Buffer::of_floats(&[7.0; 77]), Buffer::guarded(&[9; 77])];
    assert_equal_streams("fetched ahead", &code, &[&streams[..], &rest].concat(), &[1.25], 77);
}

#[test]
fn all_forms_of_multiply_add_have_the_same_bits() {
    check_map("multiply-add", |c, [x, y, mask, uniform]| {
        let constant = c.constant(0.3);
        let mut sum = c.multiply_add(&x, &y, &x);
        for (a, b, d) in [(x, uniform, y), (uniform, y, constant), (constant, uniform, x), (y, x, uniform)] {
            let product = c.multiply_add(&a, &b, &d);
            sum = c.multiply_add(&product, &sum, &sum);
            sum = c.multiply_add(&sum, &constant, &uniform);
        }
        (sum, mask)
    });
}

/// Many uses of a few constants interleave fewer vectors and leave registers to the constants.
#[test]
fn constants_used_often_have_registers() {
    let loads = |code: &Code| {
        let bytes = assemble(code, Isa::Avx2);
        let mut decoder = iced_x86::Decoder::new(64, &bytes, iced_x86::DecoderOptions::NONE);
        decoder.iter().filter(|i| i.is_ip_rel_memory_operand() && i.op0_register().is_ymm()).count()
    };
    let clamped = |rounds: usize| {
        map(|c, [x, y, mask, uniform]| {
            let mut value = c.binary(BinaryFn::Add, &x, &uniform);
            for k in 0..rounds {
                let limit = c.constant(k as f32 % 3.0);
                let above = c.compare(CompareFn::Gt.into(), &value, &limit);
                let chosen = c.select(&above, &limit, &value);
                value = c.binary(BinaryFn::Sub, &chosen, &y);
            }
            (value, mask)
        })
    };
    // In the blocks of whole vectors every constant is in a register; the last vector reads them as well.
    assert!(loads(&clamped(6)) <= 6, "{} loads of constants", loads(&clamped(6)));
}

/// More values at once than there are registers on either.
#[test]
fn spilled_values_have_the_same_bits() {
    check_map("many values", |c, [x, y, mask, uniform]| {
        let mut values = vec![x, y];
        for k in 0..60 {
            let next = c.multiply_add(&values[k], &uniform, &values[k + 1]);
            values.push(c.unary(UnaryFn::Abs, &next));
        }
        let mut sum = c.compare(CompareFn::Lt.into(), &x, &y);
        sum = c.select(&sum, &x, &y);
        for value in values.iter().rev() {
            let larger = c.compare(CompareFn::Gt.into(), &sum, value);
            let less = c.op2(Op2::Sub, &sum, value);
            sum = c.select(&larger, &less, value);
        }
        (sum, mask)
    });
}

#[test]
fn rows_are_computed_one_after_the_other() {
    let rows = 3;
    for n in LENGTHS {
        // Rows of the operands follow each other, those of the results have others between them.
        let apart = 2 * n;
        let mut code = Code::new(Shape::Rows { points: n });
        let x = code.stream(Element::Float, 4 * n as i32, false);
        let mask = code.stream(Element::Bool, n as i32, false);
        let by_row = code.stream(Element::RowFloat, 4, false);
        let value = code.stream(Element::Float, 4 * apart as i32, false);
        let flag = code.stream(Element::Bool, apart as i32, false);
        let [x, mask, by_row] = [x, mask, by_row].map(|k| code.push(Action::Load(k)));
        let zero = code.word(0);
        let mask = code.op2(Op2::GreaterInt, &mask, &zero);
        let sum = code.op2(Op2::AddInt, &x, &by_row);
        let chosen = code.select(&mask, &sum, &x);
        code.push(Action::Store(value, chosen));
        code.push(Action::StoreMask(flag, mask));
        code.tail = code.steps.clone();
        let words: Vec<u32> = (0..rows * n).map(|k| k as u32).collect();
        let bools: Vec<u8> = (0..rows * n).map(|k| (k * 7 % 3 == 0).into()).collect();
        let of_words =
            |words: &[u32]| Buffer::guarded(&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
        let mut values = vec![77; rows * apart];
        let mut flags = vec![9; rows * apart];
        for (at, k) in (0..rows).flat_map(|r| (0..n).map(move |k| (r * apart + k, r * n + k))) {
            values[at] = if bools[k] == 1 { words[k] + 1000 * (k / n) as u32 } else { words[k] };
            flags[at] = bools[k];
        }
        let operands = [of_words(&words), Buffer::guarded(&bools), of_words(&[0, 1000, 2000])];
        for machine in machines() {
            let results = [of_words(&vec![77; rows * apart]), Buffer::guarded(&vec![9; rows * apart])];
            let mut streams = [&operands[..], &results].concat();
            run_rows(&code, machine, &mut streams, n, rows);
            let expected = [&operands[..], &[of_words(&values), Buffer::guarded(&flags)]].concat();
            assert!(streams == expected, "rows of {n} on {machine:?}");
        }
    }
}

/// Bytes are read one by one where a whole vector of them would reach into the next page.
#[test]
fn the_last_bytes_of_a_page_are_read() {
    let mut code = Code::new(Shape::Map);
    let (from, to) = (code.stream(Element::Bool, 0, false), code.stream(Element::Float, 0, false));
    let mask = code.push(Action::Load(from));
    code.push(Action::Store(to, mask));
    code.tail = code.steps.clone();
    let bytes: Vec<u8> = (0..2 * 4096).map(|k| (k % 5 == 0).into()).collect();
    for machine in machines() {
        for (first, n) in (4090..4100).flat_map(|first| [(first, 3), (first, 11)]) {
            let page = bytes.as_ptr().align_offset(4096);
            let bytes = &bytes[(page + first) % 4096..];
            let mut streams = [Buffer::guarded(&[]), Buffer::guarded(&[0; 44])];
            let addresses = [bytes.as_ptr() as u64, streams[1].0[GUARD..].as_mut_ptr() as u64];
            run_at(&code, machine, &addresses, (&[], n), 0);
            let words =
                streams[1].0[GUARD..].chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().expect("a word")));
            let expected: Vec<u32> = bytes[..n].iter().map(|&b| b.into()).collect();
            assert_eq!(words.take(n).collect::<Vec<u32>>(), expected, "{n} from {first} on {machine:?}");
        }
    }
}
