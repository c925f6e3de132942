//! From a memory plan to what code generation takes: kernels with a place for every operand and result, and loops and
//! branches around those of regions.

use gradc_codegen::{EntryCode, Operand, PlacedAction, Until};
use gradc_ir::graph::{Graph, Value};
use gradc_ir::plan::{Action, MemoryLayout, MemoryPlan, Place, RegionSchedule, Schedule, Segment};
use gradc_ir::region::{Argument, BodyResult, Loop, RegionForm};
use gradc_ir::types::{DType, TensorType};
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
    fn fixed(segment: Segment, offset_bytes: usize) -> Self {
        Spot { place: Place { segment, offset_bytes }, strides_bytes: vec![] }
    }

    /// The place of the slice that each step of a loop, the one numbered `depth` from outside, works on.
    fn slice(mut self, looped: &Loop, depth: usize, bytes: usize) -> Self {
        let stride = if looped.reverse { -(bytes as i64) } else { bytes as i64 };
        self.place.offset_bytes += looped.slice_of_step(0) * bytes;
        self.strides_bytes.resize(depth, 0);
        self.strides_bytes.push(stride);
        self
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
    /// Where the arguments of a body are.
    arguments: Vec<Spot>,
    /// Where the results of a region are, for its body.
    results: Vec<Spot>,
}

impl Frame {
    fn spot(&self, place: Place) -> Spot {
        match place.segment {
            Segment::Arena => Spot::fixed(Segment::Arena, self.arena_offset_bytes + place.offset_bytes),
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
        let mut regions = region_operands(schedule);
        let mut actions = Vec::new();
        for (action, made) in schedule.actions.iter().zip(kernels(schedule)) {
            match action {
                Action::CheckFinite(value) => actions.push(PlacedAction::CheckFinite { operand: operand(value) }),
                Action::Region(region) => {
                    let operands = regions.remove(&region.node).expect("every region has operands");
                    let operands: Vec<Operand> = operands.iter().map(operand).collect();
                    self.region(schedule, memory, region, &operands, &mut actions);
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
        operands: &[Operand],
        actions: &mut Vec<PlacedAction>,
    ) {
        let graph = &schedule.graph;
        let form = RegionForm::of_node(graph, region.node).expect("only regions are scheduled as such");
        let results: Vec<Operand> = graph.results(region.node).map(|v| self.operand(graph, memory, v)).collect();
        let work = &memory.regions[&region.node];
        let frame = self.of_bodies(&form, operands, &results, work.work_offset_bytes);
        let bodies: Vec<Vec<PlacedAction>> =
            region.bodies.iter().zip(&work.bodies).map(|(body, memory)| frame.body(body, memory)).collect();
        match form {
            RegionForm::Branch(_) => {
                let bodies = bodies.try_into().expect("a branch has two bodies");
                actions.push(PlacedAction::Branch { predicate: operands[0].clone(), bodies });
            }
            RegionForm::Loop(looped) => {
                let starts = operands.iter().zip(&results).take(looped.carries);
                let moved =
                    starts.filter(|(from, to)| from.place != to.place || from.strides_bytes != to.strides_bytes);
                actions.extend(moved.map(|(from, to)| PlacedAction::Copy { from: from.clone(), to: to.clone() }));
                let until = looped.until_done.then(|| Until {
                    done: frame.done(&region.bodies[0], &work.bodies[0]),
                    count: results[looped.carries].clone(),
                });
                let body = bodies.into_iter().next().expect("a loop has a body");
                actions.push(PlacedAction::Loop { steps: looped.steps, body, until });
            }
        }
    }

    /// The frame of a region's bodies, which work from an offset in this arena on.
    fn of_bodies(&self, form: &RegionForm, operands: &[Operand], results: &[Operand], work_bytes: usize) -> Frame {
        let spot = |o: &Operand| Spot { place: o.place, strides_bytes: o.strides_bytes.clone() };
        let sliced = |o: &Operand| match form {
            RegionForm::Loop(looped) => spot(o).slice(looped, self.depth, o.ty.size_bytes() / looped.steps),
            RegionForm::Branch(_) => spot(o),
        };
        let argument = |k: usize| match form.argument(k) {
            Argument::Carry => spot(&results[k]),
            Argument::Slice => sliced(&operands[form.operand_of(k)]),
            Argument::Whole => spot(&operands[form.operand_of(k)]),
        };
        let result = |(k, o): (usize, &Operand)| match form.result(k) {
            BodyResult::Slice => sliced(o),
            BodyResult::Carry | BodyResult::Whole | BodyResult::Done => spot(o),
        };
        Frame {
            depth: self.depth + usize::from(matches!(form, RegionForm::Loop(_))),
            arena_offset_bytes: self.arena_offset_bytes + work_bytes,
            arguments: (0..operands.len() - form.operand_of(0)).map(argument).collect(),
            results: results.iter().enumerate().map(result).collect(),
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
