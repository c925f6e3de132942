//! Bands of matrices against the matrices themselves, element by element.

use gradc_ir::band::{Band, BandRun, LoopBand, share_inside};
use std::ops::Range;

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

    fn ranges(&mut self, rows: usize, columns: usize) -> Vec<Range<usize>> {
        (0..rows).map(|_| self.below(columns + 1)..self.below(columns + 1)).collect()
    }
}

fn inside(band: &Band, row: usize, column: usize) -> bool {
    band.ranges()[row].contains(&column)
}

fn causal(n: usize) -> Band {
    Band::new((0..n).map(|row| 0..row + 1).collect(), n).expect("a triangle is a band")
}

/// Calls `check` with pairs of random bands of equal size.
fn pairs(check: impl Fn(&Band, &Band)) {
    let mut random = Random(1);
    let mut checked = 0;
    while checked < 200 {
        let (rows, columns) = (1 + random.below(7), 1 + random.below(7));
        let mut band = || Band::new(random.ranges(rows, columns), columns);
        if let (Some(a), Some(b)) = (band(), band()) {
            check(&a, &b);
            checked += 1;
        }
    }
}

#[test]
fn a_band_meets_every_row_and_column_but_is_not_the_matrix() {
    assert_eq!(Band::new(vec![0..3, 0..3], 3), None, "all of the matrix");
    assert_eq!(Band::new(vec![0..2, 0..2], 3), None, "the last column is in no row");
    assert_eq!(Band::new(vec![0..1, 2..3], 3), None, "nor is the second one here");
    let widened = Band::new(vec![0..1, 2..2, 0..9], 3).expect("a band");
    assert_eq!(widened.ranges(), [0..1, 0..3, 0..3], "an empty row is a whole one, and ranges end with the matrix");
    pairs(|a, _| {
        assert!((0..a.columns()).all(|column| (0..a.rows()).any(|row| inside(a, row, column))));
        assert!(a.elements() < a.rows() * a.columns());
    });
}

#[test]
fn bands_contain_what_they_are_made_of() {
    pairs(|a, b| {
        let (meet, join, transposed) = (a.meet(b), a.join(b), a.transposed());
        for (row, column) in (0..a.rows()).flat_map(|row| (0..a.columns()).map(move |column| (row, column))) {
            let (in_a, in_b) = (inside(a, row, column), inside(b, row, column));
            assert!(inside(&meet, row, column) || !(in_a && in_b));
            assert!(join.as_ref().is_none_or(|join| inside(join, row, column)) || !(in_a || in_b));
            assert!(transposed.as_ref().is_none_or(|t| inside(t, column, row)) || !in_a);
        }
    });
    assert_eq!(causal(5).transposed().and_then(|t| t.transposed()), Some(causal(5)), "a triangle loses nothing");
    let lower: Vec<Range<usize>> = (0..5).map(|row| row..5).collect();
    assert_eq!(causal(5).transposed().expect("a band").ranges(), lower);
}

#[test]
fn a_part_of_a_band_is_that_of_the_part() {
    let part = causal(6).part(2..5, 1..5).expect("a band");
    assert_eq!(part.ranges(), [0..2, 0..3, 0..4]);
    assert_eq!(causal(6).part(4..6, 0..3), None, "all of it is inside");
    assert_eq!(causal(6).part(4..8, 0..6), None, "it leaves the matrix");
    assert_eq!(causal(6).columns_of(1..4), 0..4);
}

#[test]
fn runs_are_the_rows_they_were_made_of() {
    pairs(|a, _| assert_eq!(Band::of_runs(&a.runs(), a.columns()).as_ref(), Some(a)));
    let window: Vec<Range<usize>> = (0..9usize).map(|row| row.saturating_sub(2)..row + 1).collect();
    let window = Band::new(window, 9).expect("a band");
    assert_eq!(window.runs().len(), 2, "{:?}", window.runs());
    let run = |first: Range<usize>, steps, rows| BandRun { first, steps, rows };
    assert_eq!(Band::of_runs(&[run(0..1, [0, 1], 4)], 3), None, "a row leaves the matrix");
    assert_eq!(Band::of_runs(&[run(0..3, [0, 0], 1), run(1..2, [-1, -1], 3)], 3), None, "below the first column");
    assert_eq!(Band::of_runs(&[run(0..1, [i64::MAX, i64::MAX], 3)], 3), None, "too far");
}

#[test]
fn the_share_inside_counts_terms() {
    let band = |row, column, band| LoopBand { row, column, band };
    assert_eq!(share_inside(&[]), 1.0);
    assert_eq!(share_inside(&[band(0, 2, causal(4))]), 10.0 / 16.0);
    // Terms (i, j, k) with j ≤ i and k ≤ i: 1 + 4 + 9 + 16 of 64.
    assert_eq!(share_inside(&[band(0, 1, causal(4)), band(0, 2, causal(4))]), 30.0 / 64.0);
    let upper = causal(4).transposed().expect("a band");
    assert_eq!(share_inside(&[band(0, 1, causal(4)), band(2, 0, upper)]), 30.0 / 64.0, "given the other way round");
}
