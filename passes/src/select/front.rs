//! Choices of which none is both cheaper and more important than another.

/// Most choices that are kept of a problem; of more, those that are worth least for what they cost are dropped.
const MOST_POINTS: usize = 2048;

/// A choice as it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PickId(u32);

impl PickId {
    pub const NOTHING: PickId = PickId(0);
}

/// How a choice was made of others.
#[derive(Clone, Copy, Debug)]
enum Pick {
    Nothing,
    One(usize),
    Both(PickId, PickId),
}

/// All choices made so far.
#[derive(Debug)]
pub(super) struct Picks(Vec<Pick>);

impl Picks {
    pub fn new() -> Picks {
        Picks(vec![Pick::Nothing])
    }

    fn push(&mut self, pick: Pick) -> PickId {
        self.0.push(pick);
        PickId(self.0.len() as u32 - 1)
    }

    /// The choice of one parameter.
    pub fn one(&mut self, parameter: usize) -> PickId {
        self.push(Pick::One(parameter))
    }

    /// The parameters of both choices.
    pub fn both(&mut self, a: PickId, b: PickId) -> PickId {
        match (a, b) {
            (PickId::NOTHING, other) | (other, PickId::NOTHING) => other,
            (a, b) => self.push(Pick::Both(a, b)),
        }
    }

    /// The parameters of a choice.
    pub fn parameters(&self, of: PickId) -> Vec<usize> {
        let (mut open, mut found) = (vec![of], vec![]);
        while let Some(PickId(id)) = open.pop() {
            match self.0[id as usize] {
                Pick::Nothing => {}
                Pick::One(parameter) => found.push(parameter),
                Pick::Both(a, b) => open.extend([a, b]),
            }
        }
        found
    }
}

/// A choice with its cost and importance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point<P> {
    pub cost: u64,
    pub importance: f64,
    pub picked: P,
}

/// Points by ascending cost and importance.
#[derive(Clone, Debug)]
pub(super) struct Front {
    pub points: Vec<Point<PickId>>,
    /// Whether no choice was dropped that may be the best for some budget.
    pub is_exact: bool,
}

impl Front {
    /// The choice of nothing, for nothing.
    pub fn nothing() -> Front {
        Front { points: vec![Point { cost: 0, importance: 0.0, picked: PickId::NOTHING }], is_exact: true }
    }

    /// The better choices of both.
    pub fn or(&self, other: &Front) -> Front {
        let (points, thinned) = best([&self.points[..], &other.points].concat());
        Front { points, is_exact: self.is_exact && other.is_exact && !thinned }
    }

    /// A choice of each, within a cost of at most `most`.
    pub fn and(&self, other: &Front, most: u64, picks: &mut Picks) -> Front {
        let pairs = self.points.iter().flat_map(|a| {
            let within = other.points.iter().take_while(move |b| a.cost.saturating_add(b.cost) <= most);
            within.map(|b| Point {
                cost: a.cost + b.cost,
                importance: a.importance + b.importance,
                picked: (a.picked, b.picked),
            })
        });
        let (points, thinned) = best(pairs.collect());
        let made = |p: Point<(PickId, PickId)>| Point {
            cost: p.cost,
            importance: p.importance,
            picked: picks.both(p.picked.0, p.picked.1),
        };
        Front { points: points.into_iter().map(made).collect(), is_exact: self.is_exact && other.is_exact && !thinned }
    }
}

/// The points that no other is better than, at most [`MOST_POINTS`], and whether some of these were dropped.
fn best<P: Copy>(mut points: Vec<Point<P>>) -> (Vec<Point<P>>, bool) {
    points.sort_by(|a, b| a.cost.cmp(&b.cost).then(b.importance.total_cmp(&a.importance)));
    let mut kept: Vec<Point<P>> = Vec::new();
    for point in points {
        if kept.last().is_none_or(|last| point.importance > last.importance) {
            kept.push(point);
        }
    }
    if kept.len() <= MOST_POINTS {
        return (kept, false);
    }
    let dearest = kept[kept.len() - 1].cost as u128;
    let step = |p: &Point<P>| p.cost as u128 * MOST_POINTS as u128 / dearest;
    // the choice of nothing stays, and of each step of cost the most important one
    let thinned = kept.chunk_by(|a, b| step(a) == step(b)).map(|same| same[same.len() - 1]);
    (kept[..1].iter().copied().chain(thinned.skip(1)).collect(), true)
}
