//! From a memory plan to what code generation takes: kernels with a place for every operand and result, and loops and
//! branches around those of regions.

use gradc_codegen::{EntryCode, Operand, PlacedAction, Until};
use gradc_ir::graph::{Graph, Value};
use gradc_ir::plan::{Action, MemoryLayout, MemoryPlan, Place, RegionMemory, RegionSchedule, Schedule, Segment};
use gradc_ir::region::{Argument, BodyResult, Loop, RegionForm};
use gradc_ir::types::{DType, TensorType};
use gradc_passes::memory::{History, region_histories};
use gradc_passes::schedule::{kernels, region_operands};

/// The actions of a plan, in order, each kernel with its places.
pub(crate) fn entry_code(name: &str, plan: &MemoryPlan) -> EntryCode {
    let actions = Frame::default().actions(&plan.schedule, &plan.memory);
    EntryCode { name: name.to_string(), actions, commits: plan.memory.commits.clone() }
}

/// A place in the memory of the entry that may move with the steps of the loops around.
#[derive(Clone, Debug, PartialEq)]
struct Spot {
    place: Place,
    /// As in [`Operand`].
    strides_bytes: Vec<i64>,
}

impl Spot {
    fn of(operand: &Operand) -> Self {
        Spot { place: operand.place, strides_bytes: operand.strides_bytes.clone() }
    }

    fn fixed(segment: Segment, offset_bytes: usize) -> Self {
        Spot { place: Place { segment, offset_bytes }, strides_bytes: vec![] }
    }

    /// The place that moves with the steps of the loop numbered `depth` from outside.
    fn moving(mut self, depth: usize, stride_bytes: i64) -> Self {
        self.strides_bytes.resize(depth, 0);
        self.strides_bytes.push(stride_bytes);
        self
    }

    /// The place of the slice that each step of a loop, the one numbered `depth` from outside, works on.
    fn slice(mut self, looped: &Loop, depth: usize, bytes: usize) -> Self {
        self.place.offset_bytes += looped.slice_of_step(0) * bytes;
        self.moving(depth, if looped.reverse { -(bytes as i64) } else { bytes as i64 })
    }

    fn operand(self, ty: TensorType) -> Operand {
        Operand { place: self.place, strides_bytes: self.strides_bytes, ty }
    }
}

/// Where the memory of a graph is in that of the entry.
#[derive(Default)]
struct Frame {
    /// Number of loops around it.
    depth: usize,
    /// Where its arena starts in the arena.
    arena_offset_bytes: usize,
    /// As in [`Operand`], how that moves with the blocks around.
    arena_strides_bytes: Vec<i64>,
    /// Where the arguments of a body are.
    arguments: Vec<Spot>,
    /// Where the results of a region are, for its body.
    results: Vec<Spot>,
}

impl Frame {
    fn spot(&self, place: Place) -> Spot {
        match place.segment {
            Segment::Arena => Spot {
                place: Place { offset_bytes: self.arena_offset_bytes + place.offset_bytes, ..place },
                strides_bytes: self.arena_strides_bytes.clone(),
            },
            Segment::Argument(k) => self.arguments[k as usize].clone(),
            Segment::Result(k) => self.results[k as usize].clone(),
            segment => Spot::fixed(segment, place.offset_bytes),
        }
    }

    fn operand(&self, graph: &Graph, memory: &MemoryLayout, value: Value) -> Operand {
        self.spot(memory.places[&value]).operand(graph.ty(value).clone())
    }

    fn actions(&self, schedule: &Schedule, memory: &MemoryLayout) -> Vec<PlacedAction> {
        let operand = |v: &Value| self.operand(&schedule.graph, memory, *v);
        let (mut regions, histories) = (region_operands(schedule), region_histories(schedule));
        let mut actions = Vec::new();
        for (action, made) in schedule.actions.iter().zip(kernels(schedule)) {
            match action {
                Action::CheckFinite(value) => actions.push(PlacedAction::CheckFinite { operand: operand(value) }),
                Action::Region(region) => {
                    let operands = regions.remove(&region.node).expect("every region has operands");
                    let operands: Vec<Operand> = operands.iter().map(operand).collect();
                    let from_outside = (&operands[..], &histories[&region.node][..]);
                    self.region(schedule, memory, region, from_outside, &mut actions);
                }
                Action::Run(_) => {}
            }
            actions.extend(made.into_iter().map(|kernel| PlacedAction::Run {
                operands: kernel.operands.iter().map(operand).collect(),
                results: kernel.results.iter().map(operand).collect(),
                kernel: Box::new(kernel),
            }));
        }
        actions
    }

    fn region(
        &self,
        schedule: &Schedule,
        memory: &MemoryLayout,
        region: &RegionSchedule,
        (operands, histories): (&[Operand], &[History]),
        actions: &mut Vec<PlacedAction>,
    ) {
        let graph = &schedule.graph;
        let form = RegionForm::of_node(graph, region.node).expect("only regions are scheduled as such");
        let results: Vec<Operand> = graph.results(region.node).map(|v| self.operand(graph, memory, v)).collect();
        let work = &memory.regions[&region.node];
        let border = Border { form: &form, histories, depth: self.depth };
        let frame = self.of_bodies(&border, operands, &results, work);
        let bodies: Vec<Vec<PlacedAction>> =
            region.bodies.iter().zip(&work.bodies).map(|(body, memory)| frame.body(body, memory)).collect();
        match &form {
            RegionForm::Branch(_) => {
                let bodies = bodies.try_into().expect("a branch has two bodies");
                actions.push(PlacedAction::Branch { predicate: operands[0].clone(), bodies });
            }
            RegionForm::Loop(looped) => {
                let starts = operands.iter().cloned().zip((0..looped.carries).map(|k| border.start(k, &results)));
                let moved =
                    starts.filter(|(from, to)| from.place != to.place || from.strides_bytes != to.strides_bytes);
                actions.extend(moved.map(|(from, to)| PlacedAction::Copy { from, to }));
                let until = looped.until_done.then(|| Until {
                    done: frame.done(&region.bodies[0], &work.bodies[0]),
                    count: results[looped.carries].clone(),
                });
                let body = bodies.into_iter().next().expect("a loop has a body");
                let steps = PlacedAction::Loop { steps: looped.steps, body, until };
                actions.push(match looped.blocks {
                    1 => steps,
                    count => PlacedAction::Blocks { count, at_once: form.blocks_at_once(), body: vec![steps] },
                });
            }
        }
    }

    /// The frame of a region's bodies.
    fn of_bodies(&self, border: &Border, operands: &[Operand], results: &[Operand], work: &RegionMemory) -> Frame {
        let form = border.form;
        let argument = |k: usize| border.argument(k, &operands[form.operand_of(k)], results);
        let arena = Place { segment: Segment::Arena, offset_bytes: work.work_offset_bytes };
        let arena = border.work_space(self.spot(arena), work.block_bytes());
        Frame {
            depth: self.depth + border.loops(),
            arena_offset_bytes: arena.place.offset_bytes,
            arena_strides_bytes: arena.strides_bytes,
            arguments: (0..operands.len() - form.operand_of(0)).map(argument).collect(),
            results: (0..results.len()).map(|k| border.result(k, results)).collect(),
        }
    }

    /// The actions of a body and then its commits.
    fn body(&self, schedule: &Schedule, memory: &MemoryLayout) -> Vec<PlacedAction> {
        let commit = |&(from, to, bytes): &(Place, Place, usize)| {
            let [from, to] = [from, to].map(|place| self.spot(place).operand(TensorType::new(DType::U8, [bytes])));
            PlacedAction::Copy { from, to }
        };
        let mut actions = self.actions(schedule, memory);
        actions.extend(memory.commits.iter().map(commit));
        actions
    }

    /// What says that a step of a loop is the last.
    fn done(&self, body: &Schedule, memory: &MemoryLayout) -> Operand {
        let done = body.graph.outputs().last().expect("the body says whether it is done").value;
        self.operand(&body.graph, memory, done)
    }
}

/// Between the operands and results of a region and its bodies.
struct Border<'a> {
    form: &'a RegionForm,
    /// Of its carries.
    histories: &'a [History],
    /// Number of loops around the region.
    depth: usize,
}

impl Border<'_> {
    /// Loops that the region puts around its bodies: over blocks of rows and the memory they work in, if there are several
    /// blocks, and over steps.
    fn loops(&self) -> usize {
        match self.form {
            RegionForm::Loop(_) => {
                if self.form.blocks() > 1 {
                    3
                } else {
                    1
                }
            }
            RegionForm::Branch(_) => 0,
        }
    }

    /// The place of the block that is worked on, given the bytes of all of them.
    fn block(&self, spot: Spot, bytes: usize) -> Spot {
        match self.form.blocks() {
            1 => spot,
            blocks => spot.moving(self.depth, (bytes / blocks) as i64),
        }
    }

    /// The memory of the block that is worked on, given where the first one's is and its size.
    fn work_space(&self, spot: Spot, bytes: usize) -> Spot {
        if self.form.blocks() > 1 { spot.moving(self.depth + 1, bytes as i64) } else { spot }
    }

    fn rows(&self, operand: &Operand) -> Spot {
        self.block(Spot::of(operand), operand.ty.size_bytes())
    }

    fn slice(&self, operand: &Operand) -> Spot {
        let RegionForm::Loop(looped) = self.form else { return Spot::of(operand) };
        let bytes = operand.ty.size_bytes() / looped.steps;
        self.block(Spot::of(operand), bytes).slice(looped, self.depth + self.loops() - 1, bytes)
    }

    fn history(&self, carry: usize) -> Option<&History> {
        self.histories.iter().find(|history| history.carry == carry)
    }

    /// Where carry `k` is before the first step: where the region's result is, unless it moves there.
    fn start(&self, k: usize, results: &[Operand]) -> Operand {
        let mut start = results[k].clone();
        if let Some(history) = self.history(k) {
            let (_, end_bytes) = history.results().next().expect("the carry is part of its history");
            start.place.offset_bytes = start.place.offset_bytes + history.start_bytes() - end_bytes;
        }
        start
    }

    /// Where carry `k` is in each step, so many steps on.
    fn carry(&self, k: usize, steps: i64, results: &[Operand]) -> Spot {
        let mut spot = self.rows(&self.start(k, results));
        if let Some(history) = self.history(k) {
            let distance = (steps * history.step_bytes()) as isize;
            let offset_bytes = spot.place.offset_bytes.checked_add_signed(distance);
            spot.place.offset_bytes = offset_bytes.expect("a history is inside the arena");
            spot = spot.moving(self.depth + self.loops() - 1, history.step_bytes());
        }
        spot
    }

    /// Where a body finds argument `k`, given the operand it is bound to.
    fn argument(&self, k: usize, operand: &Operand, results: &[Operand]) -> Spot {
        match self.form.argument(k) {
            Argument::Carry => self.carry(k, 0, results),
            Argument::Slice => self.slice(operand),
            Argument::Block => self.rows(operand),
            Argument::Whole => Spot::of(operand),
        }
    }

    /// Where a body puts result `k`, given the region's; a carry only where it moves.
    fn result(&self, k: usize, results: &[Operand]) -> Spot {
        match self.form.result(k) {
            BodyResult::Slice => self.slice(&results[k]),
            BodyResult::Carry => self.carry(k, 1, results),
            BodyResult::Whole | BodyResult::Done => Spot::of(&results[k]),
        }
    }
}
