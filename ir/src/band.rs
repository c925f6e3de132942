//! Bands of matrices: outside of them elements have one known value, or nobody reads them.

use std::ops::Range;

/// For each row of a matrix a range of its columns. Not all of the matrix; but every row and every column is in it
/// somewhere, so that whatever a product with the matrix reads also meets an element inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Band {
    columns: usize,
    ranges: Vec<Range<usize>>,
}

/// Rows that follow each other and whose ranges move by the same number of columns from one to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BandRun {
    /// Columns of the first row.
    pub first: Range<usize>,
    /// By how much start and end move with each row.
    pub steps: [i64; 2],
    /// Number of rows.
    pub rows: usize,
}

impl Band {
    /// The smallest band of a matrix of so many columns that contains these ranges, one per row. An empty row becomes a
    /// whole one. `None` where that is the whole matrix, or a column is in no range.
    pub fn new(ranges: Vec<Range<usize>>, columns: usize) -> Option<Band> {
        let whole = 0..columns;
        let clip = |range: Range<usize>| range.start.min(columns)..range.end.min(columns);
        let widen = |range: Range<usize>| if range.is_empty() { whole.clone() } else { range };
        let ranges: Vec<Range<usize>> = ranges.into_iter().map(|range| widen(clip(range))).collect();
        let is_part = ranges.iter().any(|range| *range != whole);
        let band = Band { columns, ranges };
        (is_part && band.meets_every_column()).then_some(band)
    }

    fn meets_every_column(&self) -> bool {
        let mut ranges: Vec<&Range<usize>> = self.ranges.iter().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let covered = ranges.iter().fold(0, |end, range| if range.start <= end { end.max(range.end) } else { end });
        covered == self.columns
    }

    /// Number of rows of the matrix.
    pub fn rows(&self) -> usize {
        self.ranges.len()
    }

    /// Number of columns of the matrix.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of each row.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// The smallest range of columns that contains those of some rows, at least one.
    pub fn columns_of(&self, rows: Range<usize>) -> Range<usize> {
        let ranges = &self.ranges[rows];
        let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
        start..ranges.iter().map(|range| range.end).max().unwrap_or(self.columns)
    }

    /// Number of elements inside.
    pub fn elements(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// The band of the matrix with rows as columns; `None` where what lies between the rows of a column makes it whole.
    pub fn transposed(&self) -> Option<Band> {
        let mut ranges = vec![self.rows()..0; self.columns];
        for (row, columns) in self.ranges.iter().enumerate() {
            for range in &mut ranges[columns.clone()] {
                *range = range.start.min(row)..row + 1;
            }
        }
        Band::new(ranges, self.rows())
    }

    /// The band of elements that are in both of two bands of one matrix.
    pub fn meet(&self, other: &Band) -> Band {
        let both = |(a, b): (&Range<usize>, &Range<usize>)| a.start.max(b.start)..a.end.min(b.end);
        let ranges = self.ranges.iter().zip(&other.ranges).map(both).collect();
        Band::new(ranges, self.columns).unwrap_or_else(|| self.clone())
    }

    /// The smallest band that contains two bands of one matrix; `None` where that is all of it.
    pub fn join(&self, other: &Band) -> Option<Band> {
        let hull = |(a, b): (&Range<usize>, &Range<usize>)| a.start.min(b.start)..a.end.max(b.end);
        Band::new(self.ranges.iter().zip(&other.ranges).map(hull).collect(), self.columns)
    }

    /// The band of a part of the matrix; `None` where the part lies inside, or a column of it outside.
    pub fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Option<Band> {
        let shift = |at: usize| at.clamp(columns.start, columns.end) - columns.start;
        let ranges = self.ranges.get(rows)?.iter().map(|range| shift(range.start)..shift(range.end));
        Band::new(ranges.collect(), columns.len())
    }

    /// The rows in runs, as few as a look ahead by one row finds.
    pub fn runs(&self) -> Vec<BandRun> {
        let mut runs: Vec<BandRun> = Vec::new();
        for range in &self.ranges {
            match runs.last_mut() {
                Some(run) if run.rows == 1 => {
                    let step = |from: usize, to: usize| to as i64 - from as i64;
                    run.steps = [step(run.first.start, range.start), step(run.first.end, range.end)];
                    run.rows = 2;
                }
                Some(run) if run.range(run.rows).as_ref() == Some(range) => run.rows += 1,
                _ => runs.push(BandRun { first: range.clone(), steps: [0, 0], rows: 1 }),
            }
        }
        runs
    }

    /// The band of these runs over so many columns; `None` where they leave the matrix or are no band.
    pub fn of_runs(runs: &[BandRun], columns: usize) -> Option<Band> {
        let rows = runs.iter().flat_map(|run| (0..run.rows).map(|row| run.range(row)));
        let ranges: Vec<Range<usize>> = rows.collect::<Option<_>>()?;
        let inside = ranges.iter().all(|range| !range.is_empty() && range.end <= columns);
        Band::new(ranges, columns).filter(|_| inside)
    }
}

impl BandRun {
    /// Columns of a row of the run; `None` where the numbers are too large or small for columns.
    fn range(&self, row: usize) -> Option<Range<usize>> {
        let row = i64::try_from(row).ok()?;
        let at = |first: usize, step: i64| {
            usize::try_from(i64::try_from(first).ok()?.checked_add(step.checked_mul(row)?)?).ok()
        };
        Some(at(self.first.start, self.steps[0])?..at(self.first.end, self.steps[1])?)
    }
}

/// A band between two loops of a contraction: what its terms outside add to a sum is zero, or nobody reads the sums.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopBand {
    /// The loop whose indices are the rows.
    pub row: usize,
    /// The loop whose indices are the columns.
    pub column: usize,
    /// Which indices of the two go together.
    pub band: Band,
}

impl LoopBand {
    /// Its rows and columns exchanged; `None` where no band is left.
    pub fn transposed(&self) -> Option<LoopBand> {
        Some(LoopBand { row: self.column, column: self.row, band: self.band.transposed()? })
    }
}

/// Share of the terms of a contraction that are inside all of its bands. Exact for bands with one loop in common as their
/// rows, which those of one product have; an estimate otherwise.
pub fn share_inside(bands: &[LoopBand]) -> f64 {
    let Some(first) = bands.first() else { return 1.0 };
    let share = |band: &Band, row: usize| band.ranges[row].len() as f64 / band.columns as f64;
    let by_first = bands.iter().map(|band| if band.row == first.row { Some(band.clone()) } else { band.transposed() });
    match by_first.collect::<Option<Vec<_>>>().filter(|bands| bands.iter().all(|band| band.row == first.row)) {
        Some(bands) => {
            let rows = 0..first.band.rows();
            let inside = |row: usize| bands.iter().map(|band| share(&band.band, row)).product::<f64>();
            rows.map(inside).sum::<f64>() / first.band.rows() as f64
        }
        None => {
            let of = |b: &LoopBand| b.band.elements() as f64 / (b.band.rows() * b.band.columns) as f64;
            bands.iter().map(of).product()
        }
    }
}
