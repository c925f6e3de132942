//! Tables of row tiles: which runs of depth the rows of a tile meet, and where.

use super::factor::{Part, Stretch, parts, step, stretch, values};
use super::reach::{Reach, Reached, moved, reached};
use super::roles::Roles;
use crate::microkernel::{ABSENT, RowKernel, Segment, ZEROS};
use gradc_ir::lower::Affine;
use gradc_ir::types::row_major_strides;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Depth summed in one chain before it is added to the result.
const DEPTH_BLOCK: usize = 256;

/// Largest tables worth making: rows times runs.
const MOST_ENTRIES: usize = 1 << 22;

/// Rows computed together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// The segments of its first group are at this place of [`Tables::groups`], those of the others behind it.
    pub groups: usize,
    /// Where its rows' left offsets are in [`Tables::offsets`].
    pub left_rows: usize,
    /// From one segment's left offsets to the next one's: 0 when all share them.
    pub left_rows_step: usize,
    /// Where its rows' places in the result are in [`Tables::offsets`].
    pub result_rows: usize,
    /// Number of rows.
    pub rows: usize,
}

impl Tile {
    /// Whether the tables of `next`, which follow this tile's, are used with the same segments by as many rows.
    pub fn continues_with(&self, next: &Tile) -> bool {
        let shared = self.left_rows_step == 0 && next.left_rows_step == 0;
        shared && self.groups == next.groups && self.rows == next.rows
    }
}

/// One product: what its loops add to all offsets, and its tiles.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub left: isize,
    pub right: isize,
    pub result: isize,
    pub tiles: Range<usize>,
    /// Number of its first tile, counted over all products.
    pub first: usize,
}

/// All that the driver reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub products: Vec<Product>,
    pub tiles: Vec<Tile>,
    /// Ranges of `segments`, [`depth_groups`](Tables::depth_groups) for every list of segments.
    pub groups: Vec<(usize, usize)>,
    pub segments: Vec<Segment>,
    pub offsets: Vec<i32>,
    /// Blocks of at most [`DEPTH_BLOCK`] depths, each added to the result by itself.
    pub depth_groups: usize,
}

/// A run of depth, or a part of one where it is long.
pub(super) struct Line {
    pub left: Part,
    pub right: Part,
    run: Range<i64>,
}

/// A piece of a run in which each row is inside or outside from the first depth to the last.
struct Piece {
    /// Left offsets, [`ABSENT`] for rows outside.
    left: Vec<i32>,
    right: i32,
    depth: i64,
}

/// What the guards of a product let its rows meet, of the left factor and of the right one.
type Guards = (Vec<Reached>, Vec<i64>);

/// A line that a row meets, and from where to where. Of rows, those that meet an earlier line come later.
type Met = (Reverse<usize>, i64, i64);

/// Makes the tables of one contraction.
pub(super) struct Maker<'a> {
    pub(super) roles: &'a Roles,
    pub(super) kernel: &'a RowKernel,
    /// What a row reads at its offset: one number, those of all columns of a tile, of its neighbours, or of several
    /// depths.
    width: i64,
    pub(super) rows: Vec<Part>,
    /// Where each row is in the result.
    pub(super) places: Vec<i64>,
    pub(super) lines: Vec<Line>,
    pub(super) groups: Vec<Range<usize>>,
    pub(super) tables: Tables,
    /// Lists of segments already in the tables.
    lists: HashMap<Vec<Vec<Segment>>, usize>,
}

impl Tables {
    /// Tables for the tiles of a kernel; `None` when they would be too large.
    pub fn new(roles: &Roles, kernel: &RowKernel) -> Option<Tables> {
        let entries = roles.count(&roles.rows) * roles.count(&roles.lines) * roles.depth().div_ceil(DEPTH_BLOCK);
        if entries > MOST_ENTRIES || roles.extents.contains(&0) {
            return None;
        }
        let result = result_strides(roles);
        let maker = Maker {
            roles,
            kernel,
            width: if roles.lanewise { kernel.columns } else { kernel.neighbours.max(kernel.depths) } as i64,
            rows: parts(&roles.left, &roles.rows, &roles.extents, false),
            places: values(&result, &roles.rows, &roles.extents, false),
            lines: lines(roles),
            groups: vec![],
            tables: Tables::default(),
            lists: HashMap::new(),
        };
        maker.make(&result)
    }

    /// Share of the tiles in which rows meet different runs.
    pub fn mixed_share(&self) -> f64 {
        let mixed = self.tiles.iter().filter(|tile| tile.left_rows_step != 0).count();
        mixed as f64 / self.tiles.len().max(1) as f64
    }

    /// Number of tiles over all products.
    pub fn count(&self) -> usize {
        self.products.last().map_or(0, |p| p.first + p.tiles.len())
    }
}

/// The row that each place in a tile computes: absent ones as those before them, for they are not stored.
fn computed_rows(slots: &[Option<usize>]) -> Vec<usize> {
    let mut last = 0;
    let row = |slot: &Option<usize>| {
        last = slot.unwrap_or(last);
        last
    };
    slots.iter().map(row).collect()
}

/// Where the elements of the space are in the result.
fn result_strides(roles: &Roles) -> Affine {
    let space = roles.outer.iter().chain(&roles.rows).chain(&roles.columns).max().map_or(0, |d| d + 1);
    let mut coeffs: Vec<i64> = row_major_strides(&roles.extents[..space]).into_iter().map(|s| s as i64).collect();
    coeffs.resize(roles.extents.len(), 0);
    Affine { base: 0, coeffs }
}

fn lines(roles: &Roles) -> Vec<Line> {
    let [left, right] = [&roles.left, &roles.right].map(|f| parts(f, &roles.lines, &roles.extents, false));
    let depth = roles.depth();
    let runs: Vec<Range<i64>> =
        (0..depth).step_by(DEPTH_BLOCK).map(|at| at as i64..depth.min(at + DEPTH_BLOCK) as i64).collect();
    let line = |(left, right): (Part, Part)| {
        runs.iter().map(move |run| Line { left: left.clone(), right: right.clone(), run: run.clone() }).collect()
    };
    left.into_iter().zip(right).flat_map::<Vec<Line>, _>(line).collect()
}

/// Lines that follow each other in groups of at most [`DEPTH_BLOCK`] depths.
fn groups(lines: &[Line]) -> Vec<Range<usize>> {
    let (mut groups, mut first, mut depth) = (vec![], 0, 0);
    for (at, line) in lines.iter().enumerate() {
        let more = (line.run.end - line.run.start) as usize;
        if depth + more > DEPTH_BLOCK && at > first {
            groups.push(first..at);
            (first, depth) = (at, 0);
        }
        depth += more;
    }
    groups.push(first..lines.len());
    groups
}

impl Maker<'_> {
    fn make(mut self, result: &Affine) -> Option<Tables> {
        let roles = self.roles;
        self.groups = groups(&self.lines);
        self.tables.depth_groups = self.groups.len();
        let [left, right] = [&roles.left, &roles.right].map(|f| parts(f, &roles.outer, &roles.extents, true));
        let places = values(result, &roles.outer, &roles.extents, true);
        let mut known: BTreeMap<Guards, (&Part, Range<usize>)> = BTreeMap::new();
        for ((left, right), place) in left.iter().zip(&right).zip(places) {
            let guards = (reached(self.roles, left, &self.rows, &self.lines), right.axes.clone());
            let (like, tiles) = match known.get(&guards) {
                Some((like, tiles)) => (*like, tiles.clone()),
                None => (left, self.product_tiles(left, right)?),
            };
            known.insert(guards, (like, tiles.clone()));
            let left = left.flat + moved(&self.roles.left, like, left);
            let [left, right, result] = [left, right.flat, place].map(|v| v as isize);
            let first = self.tables.count();
            self.tables.products.push(Product { left, right, result, tiles, first });
        }
        Some(self.tables)
    }

    /// Tiles of a product whose outer loops add these parts.
    fn product_tiles(&mut self, left: &Part, right: &Part) -> Option<Range<usize>> {
        if let Some(slide) = self.kernel.slide {
            return self.sliding_tiles(slide, left);
        }
        let first = self.tables.tiles.len();
        let reach = Reach::new(self.roles, left, &self.rows, &self.lines);
        let order = self.order(left, &reach);
        let slots: Vec<Option<usize>> = match self.kernel.neighbours {
            1 => order.into_iter().map(Some).collect(),
            neighbours => self.groups_of_neighbours(&order, neighbours),
        };
        for slots in self.cut_into_tiles(&slots)? {
            self.tile(slots, left, right, &reach)?;
        }
        Some(first..self.tables.tiles.len())
    }

    /// The rows of each tile. Where neighbours are not read as vectors, none may be absent, and a tile has only rows
    /// with the same guards: of them there are many, the channels.
    fn cut_into_tiles<'s>(&self, slots: &'s [Option<usize>]) -> Option<Vec<&'s [Option<usize>]>> {
        let RowKernel { rows, neighbours, .. } = *self.kernel;
        if neighbours == 1 || self.kernel.has_vectors_of_rows() {
            return Some(slots.chunks(rows).collect());
        }
        if slots.contains(&None) {
            return None;
        }
        let guards = |slot: &Option<usize>| slot.map(|row| &self.rows[row].axes);
        let equal_parts = |alike: &'s [Option<usize>]| {
            let size = alike.len().div_ceil(alike.len().div_ceil(rows));
            alike.chunks(size.next_multiple_of(neighbours))
        };
        Some(slots.chunk_by(|a, b| guards(a) == guards(b)).flat_map(equal_parts).collect())
    }

    /// Rows in groups of so many, absent ones at the end of a group whose rows have no further neighbour.
    fn groups_of_neighbours(&self, order: &[usize], neighbours: usize) -> Vec<Option<usize>> {
        let are = |a: &usize, b: &usize| {
            let [a, b] = [a, b].map(|&row| &self.rows[row]);
            b.axes == a.axes && b.flat == a.flat + 1
        };
        let groups = order.chunk_by(are).flat_map(|run| run.chunks(neighbours));
        groups.flat_map(|group| (0..neighbours).map(|k| group.get(k).copied())).collect()
    }

    /// Rows by what they meet, so that those of a tile meet the same runs and few read zeros.
    fn order(&self, outer: &Part, reach: &Reach) -> Vec<usize> {
        let mut known: BTreeMap<&[i64], Vec<Met>> = BTreeMap::new();
        for row in &self.rows {
            known.entry(&row.axes).or_insert_with(|| {
                let met = |line: usize| {
                    let stretch = self.left_stretch(outer, row, &self.lines[line]);
                    (!stretch.is_empty()).then_some((Reverse(line), stretch.low, stretch.high))
                };
                reach.lines(std::iter::once(row)).into_iter().filter_map(met).collect()
            });
        }
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if self.kernel.neighbours > 1 {
            order.sort_by_key(|&r| (&self.rows[r].axes, self.rows[r].flat));
        }
        order.sort_by_key(|&r| &known[&self.rows[r].axes[..]]);
        order
    }

    fn left_stretch(&self, outer: &Part, row: &Part, line: &Line) -> Stretch {
        clipped(stretch(&self.roles.left, self.roles.run, self.roles.depth() as i64, &[outer, row, &line.left]), line)
    }

    fn tile(&mut self, slots: &[Option<usize>], left: &Part, right: &Part, reach: &Reach) -> Option<()> {
        let rows = &computed_rows(slots)[..];
        let met = reach.lines(rows.iter().map(|&row| &self.rows[row]));
        let mut pieces: Vec<Vec<Piece>> = vec![];
        for group in self.groups.clone() {
            let mut of_group = vec![];
            for &line in met.iter().filter(|line| group.contains(line)) {
                self.pieces(rows, left, right, &self.lines[line], &mut of_group)?;
            }
            pieces.push(of_group);
        }
        let result_rows = self.tables.offsets.len();
        for slot in slots {
            self.tables.offsets.push(slot.map_or(Some(ABSENT), |row| exact(self.places[row]))?);
        }
        let left_rows = self.tables.offsets.len();
        let shared = shared_offsets(&pieces, rows.len());
        let lefts = pieces.iter().flatten().map(|p| p.left[0]);
        let segment = |p: &Piece, left: i32| Segment { left, right: p.right, depth: p.depth as i32, positions: [0; 2] };
        let (list, left_rows_step): (Vec<Vec<Segment>>, usize) = match shared {
            Some(shared) => {
                let first = lefts.clone().next().unwrap_or(0);
                self.tables.offsets.extend(shared.iter().map(|offset| offset + first));
                let relative = |p: &Piece| segment(p, p.left[0] - first);
                (pieces.iter().map(|group| group.iter().map(relative).collect()).collect(), 0)
            }
            None => {
                self.tables.offsets.extend(pieces.iter().flatten().flat_map(|p| &p.left));
                (pieces.iter().map(|group| group.iter().map(|p| segment(p, 0)).collect()).collect(), rows.len())
            }
        };
        let groups = self.list(list);
        self.tables.tiles.push(Tile { groups, left_rows, left_rows_step, result_rows, rows: rows.len() });
        Some(())
    }

    /// Place of a list of segments among the groups.
    pub(super) fn list(&mut self, list: Vec<Vec<Segment>>) -> usize {
        let Maker { tables, lists, .. } = self;
        *lists.entry(list).or_insert_with_key(|list| {
            let place = tables.groups.len();
            for group in list {
                tables.groups.push((tables.segments.len(), group.len()));
                tables.segments.extend(group);
            }
            place
        })
    }

    /// Appends the pieces of a line, joined to the one before where it continues it.
    fn pieces(&self, rows: &[usize], left: &Part, right: &Part, line: &Line, to: &mut Vec<Piece>) -> Option<()> {
        let Roles { run, left: left_load, right: right_load, .. } = self.roles;
        let (left_step, right_step) = (step(left_load, *run), step(right_load, *run));
        let columns = clipped(stretch(right_load, *run, self.roles.depth() as i64, &[right, &line.right]), line);
        let met: Vec<Stretch> = rows.iter().map(|&r| self.left_stretch(left, &self.rows[r], line)).collect();
        let mut cuts: Vec<i64> = met.iter().flat_map(|m| [m.low, m.high]).chain([columns.low, columns.high]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        for cut in cuts.windows(2) {
            let inside = |m: &Stretch| m.low <= cut[0] && cut[1] <= m.high;
            if !inside(&columns) || !met.iter().any(inside) {
                continue;
            }
            let mixed = !met.iter().all(inside);
            let most = if mixed { self.longest_of_zeros(left_step) } else { i64::MAX };
            let mut low = cut[0];
            while low < cut[1] {
                let depth = (cut[1] - low).min(most);
                let offset = |(&r, m): (&usize, &Stretch)| match inside(m) {
                    true => exact(self.rows[r].flat + line.left.flat + m.offset + low * left_step),
                    false => Some(ABSENT),
                };
                let left = rows.iter().zip(&met).map(offset).collect::<Option<Vec<i32>>>()?;
                let right = exact(line.right.flat + columns.offset + low * right_step)?;
                push_joined(to, Piece { left, right, depth }, [left_step, right_step], most);
                low += depth;
            }
        }
        Some(())
    }

    /// Depths an absent row may read of the zeros it is given.
    fn longest_of_zeros(&self, left_step: i64) -> i64 {
        match left_step.abs() {
            0 => i64::MAX,
            step => ((ZEROS.len() as i64 - self.width) / step + 1).max(1),
        }
    }
}

fn clipped(stretch: Stretch, line: &Line) -> Stretch {
    Stretch { low: stretch.low.max(line.run.start), high: stretch.high.min(line.run.end), ..stretch }
}

/// An offset as tables hold it; `None` when it does not fit.
pub(super) fn exact(offset: i64) -> Option<i32> {
    i32::try_from(offset).ok().filter(|&offset| offset != ABSENT)
}

fn push_joined(to: &mut Vec<Piece>, piece: Piece, [left_step, right_step]: [i64; 2], most: i64) {
    if let Some(last) = to.last_mut() {
        let follows = |at: i32, before: i32, step: i64| i64::from(at) == i64::from(before) + last.depth * step;
        let rows = piece.left.iter().zip(&last.left).all(|(&at, &before)| match (at, before) {
            (ABSENT, ABSENT) => true,
            (ABSENT, _) | (_, ABSENT) => false,
            _ => follows(at, before, left_step),
        });
        if rows && follows(piece.right, last.right, right_step) && last.depth + piece.depth <= most {
            last.depth += piece.depth;
            return;
        }
    }
    to.push(piece);
}

/// The rows' offsets relative to the first row, when they are the same in all pieces and no row is ever absent.
fn shared_offsets(pieces: &[Vec<Piece>], rows: usize) -> Option<Vec<i32>> {
    let mut all = pieces.iter().flatten().map(|p| {
        let present = p.left.iter().all(|&offset| offset != ABSENT);
        present.then(|| p.left.iter().map(|&offset| offset - p.left[0]).collect::<Vec<i32>>())
    });
    let Some(first) = all.next() else { return Some(vec![0; rows]) };
    let first = first?;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first)
}
