//! The search for the best sets of parameters.
//!
//! Once the parameter is known that most of the rest leads to, what it needs is paid for, and what is left falls apart:
//! on a chain of layers into single parameters, as in GreenTrainer's dynamic programme, on graphs with branches into
//! parts of branches, which are problems of the same kind. So every set is found that is the best for some budget,
//! whatever the graph, as long as there are few enough problems and choices; [`Choices::is_exact`] says whether.

use super::front::{Front, PickId, Picks, Point};
use super::{ParameterSet, SharedCosts};
use std::collections::BTreeMap;

/// Most pairs of choices that are looked at before problems are no longer solved exactly: some seconds. A chain of 500
/// parameters takes 4 million.
const MOST_PAIRS: usize = 20_000_000;

/// Most problems within each other that are solved exactly.
const MOST_DEPTH: usize = 100;

/// A set of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Those that train.
    pub parameters: ParameterSet,
    /// What training them costs.
    pub cost: u64,
    /// Sum of their importances.
    pub importance: f64,
}

/// Sets of parameters, each the best for its cost.
#[derive(Clone, Debug)]
pub struct Choices {
    /// By ascending cost and importance, the empty set first.
    pub best: Vec<Choice>,
    /// Whether no set is better than these for its cost; otherwise some may be, as there were too many to keep.
    pub is_exact: bool,
}

/// The sets of most importance for their cost, up to a cost of `most`.
///
/// Parameters of no importance are never chosen. Equal problems have equal answers.
pub fn best_choices(costs: &SharedCosts, importances: &[f64], most: u64) -> Choices {
    let mut search = Search::new(costs, importances, most);
    let all = Problem::of(costs, importances);
    let front = search.product(all.parts(&search.ranks), 0);
    let front = search.fronts[front.0].clone();
    let choice = |point: &Point<PickId>| {
        let mut parameters = ParameterSet::with_capacity(importances.len());
        parameters.extend(search.picks.parameters(point.picked));
        Choice { parameters, cost: point.cost, importance: point.importance }
    };
    Choices { best: front.points.iter().map(choice).collect(), is_exact: front.is_exact }
}

/// Parameters of which some are to be chosen, and what that costs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    parameters: ParameterSet,
    costs: SharedCosts,
}

impl Problem {
    fn of(costs: &SharedCosts, importances: &[f64]) -> Problem {
        let mut parameters = ParameterSet::with_capacity(importances.len());
        parameters.extend((0..importances.len()).filter(|&p| importances[p] > 0.0));
        Problem { costs: restricted(costs, &parameters), parameters }
    }

    /// The problem without a parameter that does not train.
    fn without(&self, parameter: usize) -> Problem {
        let mut parameters = self.parameters.clone();
        parameters.remove(parameter);
        Problem { costs: restricted(&self.costs, &parameters), parameters }
    }

    /// What a parameter that trains costs, and the problem that is left.
    fn with(&self, parameter: usize) -> (u64, Problem) {
        let mut left = SharedCosts::default();
        let (mut paid, mut parameters) = (0, self.parameters.clone());
        parameters.remove(parameter);
        for (needed_by, cost) in self.costs.entries() {
            if needed_by.contains(parameter) {
                paid += cost;
            } else {
                left.add(needed_by, cost);
            }
        }
        (paid, Problem { parameters, costs: left })
    }

    /// Problems that share no cost, in the order of the last rank in them.
    fn parts(&self, ranks: &[usize]) -> Vec<Problem> {
        let all = self.parameters.count_ones(..);
        if self.costs.entries().any(|(needed_by, _)| needed_by.count_ones(..) == all) {
            return vec![self.clone()];
        }
        let mut groups = Groups::new(self.parameters.len());
        for (needed_by, _) in self.costs.entries() {
            let mut members = needed_by.ones();
            let Some(first) = members.next() else { continue };
            members.for_each(|other| groups.join(first, other));
        }
        let none =
            Problem { parameters: ParameterSet::with_capacity(self.parameters.len()), costs: SharedCosts::default() };
        let mut parts: BTreeMap<usize, Problem> = BTreeMap::new();
        for parameter in self.parameters.ones() {
            parts.entry(groups.of(parameter)).or_insert_with(|| none.clone()).parameters.insert(parameter);
        }
        for (needed_by, cost) in self.costs.entries() {
            let part = needed_by.minimum().and_then(|first| parts.get_mut(&groups.of(first)));
            part.expect("who needs a cost is in the problem").costs.add(needed_by, cost);
        }
        let mut parts: Vec<Problem> = parts.into_values().collect();
        parts.sort_by_key(|part| part.parameters.ones().map(|p| ranks[p]).max());
        parts
    }
}

/// The same costs for some of the parameters.
fn restricted(costs: &SharedCosts, to: &ParameterSet) -> SharedCosts {
    let mut left = SharedCosts::default();
    for (needed_by, cost) in costs.entries() {
        let mut needed_by = needed_by.clone();
        needed_by.intersect_with(to);
        left.add(&needed_by, cost);
    }
    left
}

/// Disjoint sets of numbers.
struct Groups(Vec<usize>);

impl Groups {
    fn new(count: usize) -> Groups {
        Groups((0..count).collect())
    }

    fn of(&self, mut number: usize) -> usize {
        while self.0[number] != number {
            number = self.0[number];
        }
        number
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// A solved problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FrontId(usize);

impl FrontId {
    const NOTHING: FrontId = FrontId(0);
}

/// State of the search.
struct Search<'a> {
    importances: &'a [f64],
    most: u64,
    /// Place of each parameter in the order in which parameters are decided on, last first.
    ranks: Vec<usize>,
    fronts: Vec<Front>,
    solved: BTreeMap<Problem, FrontId>,
    products: BTreeMap<(FrontId, FrontId), FrontId>,
    picks: Picks,
    /// Pairs of choices looked at so far.
    pairs: usize,
}

impl<'a> Search<'a> {
    fn new(costs: &SharedCosts, importances: &'a [f64], most: u64) -> Self {
        Search {
            importances,
            most,
            ranks: ranks(costs, importances.len()),
            fronts: vec![Front::nothing()],
            solved: BTreeMap::new(),
            products: BTreeMap::new(),
            picks: Picks::new(),
            pairs: 0,
        }
    }

    fn keep(&mut self, front: Front) -> FrontId {
        self.fronts.push(front);
        FrontId(self.fronts.len() - 1)
    }

    /// Choices of all problems together. Those decided on last come first, so that what remains of a chain is combined
    /// once for all its ends.
    fn product(&mut self, parts: Vec<Problem>, depth: usize) -> FrontId {
        let mut all = FrontId::NOTHING;
        for part in parts {
            let of_part = self.solve(part, depth);
            all = match self.products.get(&(all, of_part)) {
                Some(&known) => known,
                None => {
                    let (a, b) = (&self.fronts[all.0], &self.fronts[of_part.0]);
                    self.pairs += a.points.len() * b.points.len();
                    let front = a.and(b, self.most, &mut self.picks);
                    let id = self.keep(front);
                    self.products.insert((all, of_part), id);
                    id
                }
            };
        }
        all
    }

    /// Choices of a problem that does not fall apart.
    fn solve(&mut self, problem: Problem, depth: usize) -> FrontId {
        if let Some(&known) = self.solved.get(&problem) {
            return known;
        }
        let within_bounds = self.pairs < MOST_PAIRS && depth < MOST_DEPTH;
        let front = if within_bounds { self.by_deepest(&problem, depth) } else { self.by_ratio(&problem) };
        let id = self.keep(front);
        self.solved.insert(problem, id);
        id
    }

    /// Choices by the parameter of highest rank that trains.
    fn by_deepest(&mut self, problem: &Problem, depth: usize) -> Front {
        let (mut best, mut rest) = (Front::nothing(), problem.clone());
        while let Some(deepest) = rest.parameters.ones().max_by_key(|&p| self.ranks[p]) {
            let parts = rest.parts(&self.ranks);
            if parts.len() > 1 {
                let of_parts = self.product(parts, depth + 1);
                return best.or(&self.fronts[of_parts.0]);
            }
            let (cost, left) = rest.with(deepest);
            let others = self.product(left.parts(&self.ranks), depth + 1);
            let picked = self.picks.one(deepest);
            let one = Point { cost, importance: self.importances[deepest], picked };
            let one = Front { points: vec![one], is_exact: true };
            let with_others = one.and(&self.fronts[others.0], self.most, &mut self.picks);
            best = best.or(&with_others);
            rest = rest.without(deepest);
        }
        best
    }

    /// Choices that grow by the parameter of most importance for what it costs in addition.
    fn by_ratio(&mut self, problem: &Problem) -> Front {
        let mut front = Front { is_exact: false, ..Front::nothing() };
        let (mut last, mut rest) = (front.points[0], problem.clone());
        loop {
            let mut added = vec![0; self.importances.len()];
            for (needed_by, cost) in rest.costs.entries() {
                needed_by.ones().for_each(|p| added[p] += cost);
            }
            let ratio = |p: usize| self.importances[p] / added[p] as f64;
            let Some(next) = rest.parameters.ones().max_by(|&a, &b| ratio(a).total_cmp(&ratio(b))) else { break };
            let (cost, left) = rest.with(next);
            let one = self.picks.one(next);
            last = Point {
                cost: last.cost.saturating_add(cost),
                importance: last.importance + self.importances[next],
                picked: self.picks.both(last.picked, one),
            };
            if last.cost > self.most {
                break;
            }
            front = front.or(&Front { points: vec![last], is_exact: false });
            rest = left;
        }
        front
    }
}

/// Numbers parameters by how many costs they share: of a chain of layers, from the loss to the deepest.
fn ranks(costs: &SharedCosts, count: usize) -> Vec<usize> {
    let mut shares = vec![0usize; count];
    costs.entries().for_each(|(needed_by, _)| needed_by.ones().for_each(|p| shares[p] += 1));
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&p| shares[p]);
    let mut ranks = vec![0; count];
    order.into_iter().enumerate().for_each(|(rank, p)| ranks[p] = rank);
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random and are the same each time (Knuth's MMIX generator).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % end
        }
    }

    fn set(count: usize, members: impl IntoIterator<Item = usize>) -> ParameterSet {
        let mut set = ParameterSet::with_capacity(count);
        set.extend(members);
        set
    }

    /// Costs on which each parameter has one of its own, and `shared` some of them.
    fn costs(numbers: &mut Numbers, count: usize, shared: &[ParameterSet]) -> SharedCosts {
        let mut costs = SharedCosts::default();
        (0..count).for_each(|p| costs.add(&set(count, [p]), numbers.below(40)));
        shared.iter().for_each(|members| costs.add(members, numbers.below(40)));
        costs
    }

    /// The gradient's way along a chain: parameter 0 is next to the loss.
    fn chain(count: usize) -> Vec<ParameterSet> {
        (0..count).map(|first| set(count, first..count)).collect()
    }

    /// The largest importance within each of these budgets, over all sets.
    fn brute_force(costs: &SharedCosts, importances: &[f64], budgets: &[u64]) -> Vec<f64> {
        let mut best = vec![0.0; budgets.len()];
        for mask in 0..1usize << importances.len() {
            let members = (0..importances.len()).filter(|p| mask >> p & 1 == 1);
            let (cost, importance) =
                (costs.of(&set(importances.len(), members.clone())), members.map(|p| importances[p]).sum::<f64>());
            for (best, &budget) in best.iter_mut().zip(budgets) {
                if cost <= budget && importance > *best {
                    *best = importance;
                }
            }
        }
        best
    }

    /// Every budget gets the best of all sets; costs and importances told are those of the set.
    fn check(what: &str, numbers: &mut Numbers, costs: &SharedCosts, count: usize) {
        // whole numbers, so that sums do not depend on the order
        let importances: Vec<f64> = (0..count).map(|_| numbers.below(20) as f64).collect();
        let choices = best_choices(costs, &importances, costs.total());
        assert!(choices.is_exact, "{what}");
        for choice in &choices.best {
            assert_eq!(choice.cost, costs.of(&choice.parameters), "{what}");
            assert_eq!(choice.importance, choice.parameters.ones().map(|p| importances[p]).sum::<f64>(), "{what}");
        }
        let budgets: Vec<u64> = (0..=20).map(|k| costs.total() * k / 20).collect();
        let found: Vec<f64> = budgets
            .iter()
            .map(|&budget| choices.best.iter().rev().find(|c| c.cost <= budget).map_or(0.0, |c| c.importance))
            .collect();
        assert_eq!(found, brute_force(costs, &importances, &budgets), "{what}: {costs:?} {importances:?}");
    }

    #[test]
    fn chains_are_solved_as_by_brute_force() {
        let mut numbers = Numbers(1);
        for count in 1..=11 {
            for _ in 0..20 {
                let costs = costs(&mut numbers, count, &chain(count));
                check("chain", &mut numbers, &costs, count);
            }
        }
    }

    /// A trunk of three parameters, two branches of three side by side, and two before they meet the loss.
    #[test]
    fn branches_are_solved_as_by_brute_force() {
        let (count, mut numbers) = (11, Numbers(2));
        let trunk = [8, 9, 10];
        let way = |behind: &[usize]| set(count, behind.iter().copied().chain(trunk));
        let shared = [
            set(count, 0..count),
            set(count, 1..count),
            way(&[2, 3, 4]),
            way(&[3, 4]),
            way(&[4]),
            way(&[5, 6, 7]),
            way(&[6, 7]),
            way(&[7]),
            way(&[]),
            set(count, [9, 10]),
        ];
        for _ in 0..30 {
            let costs = costs(&mut numbers, count, &shared);
            check("branches", &mut numbers, &costs, count);
        }
    }

    #[test]
    fn any_costs_are_solved_as_by_brute_force() {
        let mut numbers = Numbers(3);
        for _ in 0..60 {
            let count = 2 + numbers.below(8) as usize;
            let shared: Vec<ParameterSet> = (0..numbers.below(9))
                .map(|_| set(count, (0..count).filter(|_| numbers.below(2) == 0).collect::<Vec<_>>()))
                .collect();
            let costs = costs(&mut numbers, count, &shared);
            check("any", &mut numbers, &costs, count);
        }
    }

    /// More choices than are kept: what is found stays within one part in 500 of the best, which a dynamic programme
    /// over all whole costs finds.
    #[test]
    fn long_chains_are_solved_well() {
        const COUNT: usize = 150;
        let (mut numbers, mut costs) = (Numbers(4), SharedCosts::default());
        let own: Vec<u64> = (0..COUNT).map(|_| 1 + numbers.below(200)).collect();
        let path: Vec<u64> = (0..COUNT).map(|_| 1 + numbers.below(100)).collect();
        let importances: Vec<f64> = (0..COUNT).map(|_| 1.0 + numbers.below(1000) as f64).collect();
        for p in 0..COUNT {
            costs.add(&set(COUNT, [p]), own[p]);
            costs.add(&set(COUNT, p..COUNT), path[p]);
        }
        for share in [0.05, 0.2, 0.4, 0.8] {
            let budget = (costs.total() as f64 * share) as usize;
            let choices = best_choices(&costs, &importances, 2 * budget as u64);
            let found = choices.best.iter().rev().find(|c| c.cost <= budget as u64).expect("nothing costs nothing");
            assert_eq!(found.cost, costs.of(&found.parameters));
            // GreenTrainer's recursion: the best importance with no deeper parameter than p, by what it costs
            let (mut shallower, mut way, mut best) = (vec![0.0f64; budget + 1], 0, 0.0f64);
            for p in 0..COUNT {
                way += path[p] as usize;
                let spent = way + own[p] as usize;
                if spent <= budget {
                    best = best.max(importances[p] + shallower[budget - spent]);
                }
                for cost in (own[p] as usize..=budget).rev() {
                    shallower[cost] = shallower[cost].max(importances[p] + shallower[cost - own[p] as usize]);
                }
            }
            assert!(
                found.importance <= best && found.importance >= best * (1.0 - 1.0 / 500.0),
                "{share}: {found:?} {best}"
            );
        }
    }

    /// What is left once there were too many choices: sets that grow, with their true costs, within the limit, and not
    /// told as the best.
    #[test]
    fn choices_by_ratio_are_choices() {
        let (count, mut numbers) = (9, Numbers(6));
        for _ in 0..20 {
            let costs = costs(&mut numbers, count, &chain(count));
            let importances: Vec<f64> = (0..count).map(|_| 1.0 + numbers.below(20) as f64).collect();
            let most = costs.total() / 2;
            let mut search = Search::new(&costs, &importances, most);
            let front = search.by_ratio(&Problem::of(&costs, &importances));
            assert!(!front.is_exact && front.points.len() > 1);
            for point in &front.points {
                let members = search.picks.parameters(point.picked);
                assert_eq!(point.importance, members.iter().map(|&p| importances[p]).sum::<f64>());
                assert_eq!(point.cost, costs.of(&set(count, members)));
                assert!(point.cost <= most);
            }
        }
    }

    #[test]
    fn what_is_not_important_does_not_train() {
        let mut numbers = Numbers(5);
        let costs = costs(&mut numbers, 4, &chain(4));
        let choices = best_choices(&costs, &[0.0, 3.0, 0.0, 1.0], costs.total());
        let all = choices.best.last().expect("the empty set at least");
        assert_eq!(all.parameters.ones().collect::<Vec<_>>(), [1, 3]);
    }
}
