//! Strips that combine values: along a row, along rows of few points, from row to row.

use super::*;

const COMBINATIONS: [Combination; 5] = [
    Combination { combine: Combine::Sum, long: false, values: 1 },
    Combination { combine: Combine::Sum, long: true, values: 1 },
    Combination { combine: Combine::Prod, long: false, values: 1 },
    Combination { combine: Combine::Max, long: false, values: 1 },
    Combination { combine: Combine::Min, long: false, values: 1 },
];

/// Combines values into the partial results, one after the other.
fn combine(code: &mut Code, combination: Combination, values: &[Value]) {
    for (first, value) in values.iter().enumerate().map(|(k, value)| (k * combination.halves(), value)) {
        if !combination.long {
            code.binary(combining(combination.combine), value, &Value::Partial(first as u32));
            code.carry(first as u32);
            continue;
        }
        for (partial, half) in (first as u32..).zip([Op1::WidenLow, Op1::WidenHigh]) {
            let wide = code.op1(half, value);
            code.op2(Op2::AddWide, &Value::Partial(partial), &wide);
            code.carry(partial);
        }
    }
}

/// Combines values along a strip, of its last vector those inside.
fn combine_vectors(code: &mut Code, combination: Combination, values: &[Value]) {
    let shared = code.steps.clone();
    combine(code, combination, values);
    let steps = std::mem::replace(&mut code.steps, shared);
    let start = code.word(combination.start().to_bits());
    let inside: Vec<Value> = values.iter().map(|value| code.select(&Value::Inside, value, &start)).collect();
    combine(code, combination, &inside);
    code.tail = std::mem::replace(&mut code.steps, steps);
}

/// Sums of small integers and products of powers of two are exact in any order.
fn exact(combination: Combination, n: usize) -> Vec<f32> {
    let value = |k: usize| match combination.combine {
        Combine::Prod => [2.0, 0.5, 1.0][k % 3],
        _ => ((k * 37) % 101) as f32 - 50.0,
    };
    (0..n).map(value).collect()
}

fn met(combination: Combination, values: impl Iterator<Item = f32>) -> f32 {
    match combination.combine {
        Combine::Sum => values.sum(),
        Combine::Prod => values.product(),
        Combine::Max => values.fold(f32::NEG_INFINITY, f32::max),
        Combine::Min => values.fold(f32::INFINITY, f32::min),
    }
}

#[test]
fn rows_are_combined_on_every_machine() {
    for combination in COMBINATIONS {
        let mut code = Code::new(Shape::Row(combination));
        let stream = code.stream(Element::Float, 0, false);
        let value = code.push(Action::Load(stream));
        combine_vectors(&mut code, combination, &[value]);
        for n in LENGTHS {
            let values = exact(combination, n);
            for machine in machines() {
                let block = run(&code, machine, &mut [Buffer::of_floats(&values)], &[], n);
                let at = &block[result_offset(&code)..];
                let found = match combination.long {
                    true => f64::from_le_bytes(at[..8].try_into().expect("eight bytes")) as f32,
                    false => f32::from_le_bytes(at[..4].try_into().expect("four bytes")),
                };
                assert_eq!(found, met(combination, values.iter().copied()), "{combination:?} of {n} on {machine:?}");
            }
        }
    }
}

/// The product of two streams, and the first of them, in a row: as many as are combined.
fn products(code: &mut Code, combination: Combination, streams: [u32; 2], row: u8) -> Vec<Value> {
    let [value, factor] = streams.map(|stream| match row {
        0 => code.push(Action::Load(stream)),
        _ => code.push(Action::LoadRow(stream, row)),
    });
    let product = code.op2(Op2::Mul, &value, &factor);
    [product, value][..combination.values].to_vec()
}

/// Values of a row and their products with a number of the row, which is the lower half of eight bytes.
#[test]
fn short_rows_are_combined_on_every_machine() {
    let rows = 5;
    let short = COMBINATIONS.into_iter().filter(|combination| !combination.long);
    let counts = short.flat_map(|combination| [1, 2].map(|values| Combination { values, ..combination }));
    for (combination, points) in counts.flat_map(|c| [1, 3, 8, 10, 16, 17, 40, 63].map(|points| (c, points))) {
        let mut code = Code::new(Shape::ShortRows { combination, points });
        (0..combination.values).for_each(|_| _ = code.stream(Element::RowFloat, 4, false));
        let stream = code.stream(Element::Float, 4 * points as i32, false);
        let by_row = code.stream(Element::RowFloat, 8, false);
        let values = products(&mut code, combination, [stream, by_row], 0);
        combine_vectors(&mut code, combination, &values);
        let (values, factors) = (exact(combination, rows * points), [1.0, 7.0, 2.0, 7.0, 2.0, 7.0, 1.0, 7.0, 0.5, 7.0]);
        let row = |k: usize, factor: f32| {
            let values = values[k * points..(k + 1) * points].iter();
            Buffer::of_floats(&[met(combination, values.map(|value| factor * value))]).0[GUARD..][..4].to_vec()
        };
        let results = (0..combination.values).map(|value| {
            let results = (0..rows).flat_map(|k| row(k, if value == 0 { factors[2 * k] } else { 1.0 }));
            Buffer::guarded(&results.collect::<Vec<u8>>())
        });
        let read = [Buffer::of_floats(&values), Buffer::of_floats(&factors)];
        let expected: Vec<Buffer> = results.chain(read.clone()).collect();
        for machine in machines() {
            let empty = (0..combination.values).map(|_| Buffer::guarded(&vec![0; 4 * rows]));
            let mut streams: Vec<Buffer> = empty.chain(read.clone()).collect();
            run_rows(&code, machine, &mut streams, points, rows);
            assert!(streams == expected, "{combination:?} of rows of {points} on {machine:?}");
        }
    }
}

/// The steps that combine several rows.
fn rows_together(code: &mut Code, combination: Combination, streams: [u32; 2]) -> Vec<Step> {
    let single = std::mem::take(&mut code.steps);
    let mut sums = products(code, combination, streams, 0);
    for row in 1..ROWS_TOGETHER {
        let next = products(code, combination, streams, row);
        sums = sums.iter().zip(&next).map(|(sum, next)| code.op2(Op2::Add, sum, next)).collect();
    }
    combine(code, combination, &sums);
    std::mem::replace(&mut code.steps, single)
}

/// Partial results before anything was combined.
fn started(combination: Combination, columns: usize) -> Buffer {
    let start = if combination.long { vec![0; 8] } else { combination.start().to_le_bytes().to_vec() };
    Buffer::guarded(&start.repeat(columns))
}

/// The partial result of a column, as f32.
fn partial(combination: Combination, sums: &Buffer, column: usize) -> f32 {
    let size = if combination.long { 8 } else { 4 };
    let at = &sums.0[GUARD + size * column..][..size];
    match combination.long {
        true => f64::from_le_bytes(at.try_into().expect("eight bytes")) as f32,
        false => f32::from_le_bytes(at.try_into().expect("four bytes")),
    }
}

#[test]
fn columns_are_combined_on_every_machine() {
    let of_two = COMBINATIONS.map(|combination| Combination { values: 2, ..combination });
    for (combination, rows, continued) in COMBINATIONS
        .into_iter()
        .chain(of_two)
        .flat_map(|c| [(c, 1, false), (c, 5, false), (c, 3, true), (c, 8, true), (c, 19, true)])
    {
        for n in LENGTHS {
            let shape = Shape::Columns { combination, sums: 0, continued };
            let mut code = Code::new(shape);
            let element = if combination.long { Element::Wide } else { Element::Float };
            (0..combination.values).for_each(|_| _ = code.stream(element, 0, true));
            let stream = code.stream(Element::Float, 4 * n as i32, false);
            let by_row = code.stream(Element::RowFloat, 4, false);
            let once = products(&mut code, combination, [stream, by_row], 0);
            combine(&mut code, combination, &once);
            code.tail = code.steps.clone();
            if combination.long {
                code.together = rows_together(&mut code, combination, [stream, by_row]);
            }
            let values = exact(combination, rows * n);
            let factors: Vec<f32> = (0..rows).map(|k| [1.0, 2.0][k % 2]).collect();
            for machine in machines() {
                let sums = (0..combination.values).map(|_| started(combination, n.next_multiple_of(16)));
                let read = [Buffer::of_floats(&values), Buffer::of_floats(&factors)];
                let mut streams: Vec<Buffer> = sums.chain(read).collect();
                run_rows(&code, machine, &mut streams, n, rows);
                for (k, number) in (0..n).flat_map(|k| (0..combination.values).map(move |number| (k, number))) {
                    let factor = |row: usize| if number == 0 { factors[row] } else { 1.0 };
                    let expected = met(combination, (0..rows).map(|r| values[r * n + k] * factor(r)));
                    let found = partial(combination, &streams[number], k);
                    let column = format!("value {number}, column {k} of {n}, {rows} rows");
                    assert_eq!(found, expected, "{combination:?}, {column} on {machine:?}");
                }
            }
        }
    }
}
