//! Operands that no step of the loops around a kernel changes, so that what is made of them may be made once.

use crate::compile::{Operand, PlacedAction};
use gradc_ir::plan::{Place, Segment};

/// Where an operand is that stays as it is while loops around run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fixed {
    /// As in [`Operand`].
    pub place: Place,
    /// As in [`Operand`]: how it moves with the loops that are not among those.
    pub strides_bytes: Vec<i64>,
    /// Number of loops around the outermost of those.
    pub depth: usize,
}

/// For each leaf of an entry's actions: its operands that are fixed in the loop around it, and in all loops between
/// that and the outermost in which they are. Blocks are loops too; what they do is fixed in all of them or not at all.
pub(crate) fn fixed_operands(actions: &[PlacedAction]) -> Vec<Vec<Option<Fixed>>> {
    let mut walk = Walk { loops: vec![], found: vec![] };
    walk.actions(actions);
    walk.found
}

/// A loop around what is looked at.
struct Around {
    steps: usize,
    are_blocks: bool,
    writes: Vec<Extent>,
}

/// Bytes of a segment.
#[derive(Clone, Copy)]
struct Extent {
    segment: Segment,
    low: i64,
    high: i64,
}

impl Extent {
    /// All bytes that an operand is at in any step of loops of these numbers of steps.
    fn of(operand: &Operand, steps: impl Iterator<Item = usize>) -> Extent {
        let Operand { place, strides_bytes, ty } = operand;
        let (mut low, mut high) = (place.offset_bytes as i64, (place.offset_bytes + ty.size_bytes()) as i64);
        for (&stride, steps) in strides_bytes.iter().zip(steps) {
            let last = stride.saturating_mul(steps as i64 - 1);
            (low, high) = (low.saturating_add(last.min(0)), high.saturating_add(last.max(0)));
        }
        Extent { segment: place.segment, low, high }
    }

    fn meets(&self, other: &Extent) -> bool {
        self.segment == other.segment && self.low < other.high && other.low < self.high
    }
}

struct Walk {
    loops: Vec<Around>,
    /// The answer for the leaves so far.
    found: Vec<Vec<Option<Fixed>>>,
}

impl Walk {
    fn actions(&mut self, actions: &[PlacedAction]) {
        for action in actions {
            match action {
                PlacedAction::Loop { steps, body, .. } => self.enter([self.around(*steps, action)], body),
                PlacedAction::Blocks { count, at_once, body } => {
                    self.enter(self.around_blocks([*count, *at_once], action), body)
                }
                PlacedAction::Branch { bodies, .. } => bodies.iter().for_each(|body| self.actions(body)),
                PlacedAction::Run { operands, .. } => {
                    let fixed = operands.iter().map(|operand| self.fixed(operand)).collect();
                    self.found.push(fixed);
                }
                PlacedAction::CheckFinite { .. } | PlacedAction::Copy { .. } => self.found.push(vec![]),
            }
        }
    }

    fn enter<const N: usize>(&mut self, loops: [Around; N], body: &[PlacedAction]) {
        self.loops.extend(loops);
        self.actions(body);
        self.loops.truncate(self.loops.len() - N);
    }

    /// A loop in those that are around what is looked at.
    fn around(&self, steps: usize, action: &PlacedAction) -> Around {
        let mut steps_around: Vec<usize> = self.loops.iter().map(|l| l.steps).collect();
        let mut writes = vec![];
        collect_writes(std::slice::from_ref(action), &mut steps_around, &mut writes);
        Around { steps, are_blocks: false, writes }
    }

    /// The two loops around what is done for each block.
    fn around_blocks(&self, steps: [usize; 2], action: &PlacedAction) -> [Around; 2] {
        steps.map(|steps| Around { are_blocks: true, ..self.around(steps, action) })
    }

    fn fixed(&self, operand: &Operand) -> Option<Fixed> {
        let extent = Extent::of(operand, self.loops.iter().map(|l| l.steps));
        let stays = |&(depth, around): &(usize, &Around)| {
            operand.strides_bytes.get(depth).is_none_or(|&stride| stride == 0)
                && !around.writes.iter().any(|written| written.meets(&extent))
        };
        let (depth, _) = self.loops.iter().enumerate().rev().take_while(stays).last()?;
        let outside_blocks = !self.loops[..depth].iter().any(|around| around.are_blocks);
        let Operand { place, strides_bytes, .. } = operand;
        outside_blocks.then(|| Fixed { place: *place, strides_bytes: strides_bytes.clone(), depth })
    }
}

/// Everything that actions write, inside loops of these numbers of steps.
fn collect_writes(actions: &[PlacedAction], steps: &mut Vec<usize>, writes: &mut Vec<Extent>) {
    for action in actions {
        match action {
            PlacedAction::Run { results, .. } => {
                writes.extend(results.iter().map(|result| Extent::of(result, steps.iter().copied())));
            }
            PlacedAction::Copy { to, .. } => writes.push(Extent::of(to, steps.iter().copied())),
            PlacedAction::Loop { steps: count, body, until } => {
                writes.extend(until.iter().map(|until| Extent::of(&until.count, steps.iter().copied())));
                steps.push(*count);
                collect_writes(body, steps, writes);
                steps.pop();
            }
            PlacedAction::Blocks { count, at_once, body } => {
                steps.extend([*count, *at_once]);
                collect_writes(body, steps, writes);
                steps.truncate(steps.len() - 2);
            }
            PlacedAction::Branch { bodies, .. } => {
                bodies.iter().for_each(|body| collect_writes(body, steps, writes));
            }
            PlacedAction::CheckFinite { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradc_ir::types::TensorType;

    fn operand(offset_bytes: usize, strides_bytes: &[i64]) -> Operand {
        let place = Place { segment: Segment::Arena, offset_bytes };
        Operand { place, strides_bytes: strides_bytes.to_vec(), ty: TensorType::f32([16]) }
    }

    /// Copies stand for kernels: what is fixed is asked of operands in loops by hand.
    fn writing(offset_bytes: usize, strides_bytes: &[i64]) -> PlacedAction {
        PlacedAction::Copy { from: operand(1 << 20, &[]), to: operand(offset_bytes, strides_bytes) }
    }

    /// Loops of these steps, outermost first, the last one around what is written.
    fn inside(loops: &[(usize, bool)], written: PlacedAction) -> Walk {
        let mut action = written;
        let mut nested = vec![];
        for &(steps, are_blocks) in loops.iter().rev() {
            let body = vec![action];
            action = match are_blocks {
                true => PlacedAction::Blocks { count: steps, at_once: 2, body },
                false => PlacedAction::Loop { steps, body, until: None },
            };
            nested.push((steps, are_blocks, action.clone()));
        }
        let mut walk = Walk { loops: vec![], found: vec![] };
        for (steps, are_blocks, action) in nested.into_iter().rev() {
            match are_blocks {
                true => walk.loops.extend(walk.around_blocks([steps, 2], &action)),
                false => walk.loops.push(walk.around(steps, &action)),
            }
        }
        walk
    }

    fn depth(walk: &Walk, operand: &Operand) -> Option<usize> {
        walk.fixed(operand).map(|fixed| fixed.depth)
    }

    #[test]
    fn what_a_step_writes_is_not_fixed() {
        let walk = inside(&[(10, false)], writing(64, &[64]));
        assert_eq!(depth(&walk, &operand(0, &[])), Some(0), "before all that is written");
        assert_eq!(depth(&walk, &operand(64 * 11, &[])), Some(0), "behind it");
        assert_eq!(depth(&walk, &operand(64, &[])), None, "written in the first step");
        assert_eq!(depth(&walk, &operand(64 * 10, &[])), None, "written in the last step");
        assert_eq!(depth(&walk, &operand(64 * 10 + 32, &[])), None, "half of it");
        let backwards = inside(&[(10, false)], writing(64 * 10, &[-64]));
        assert_eq!(depth(&backwards, &operand(64, &[])), None, "written in the last step of a loop backwards");
        assert_eq!(depth(&backwards, &operand(0, &[])), Some(0));
    }

    #[test]
    fn what_moves_with_a_loop_is_fixed_within() {
        let walk = inside(&[(3, false), (5, false)], writing(0, &[]));
        assert_eq!(depth(&walk, &operand(640, &[])), Some(0));
        assert_eq!(depth(&walk, &operand(640, &[64])), Some(1));
        assert_eq!(depth(&walk, &operand(640, &[0, 64])), None);
    }

    #[test]
    fn what_moves_with_a_block_is_not_fixed_in_it() {
        let walk = inside(&[(2, true), (5, false)], writing(0, &[0, 0]));
        assert_eq!(depth(&walk, &operand(640, &[])), Some(0));
        assert_eq!(depth(&walk, &operand(640, &[64])), None, "blocks would keep theirs at the same place");
        assert_eq!(depth(&walk, &operand(640, &[0, 64])), None, "so would those that are done at once");
    }
}
