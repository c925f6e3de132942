//! Which registers outlive the blocks of a strip, for what, and how many vectors its blocks interleave.

use super::allocate::{self, ARGUMENTS, Lanes, Layout, Needs, frame_slot};
use super::assembler::{at, pool_operand};
use super::code::{Action, Code, Element, Invariant, Shape, Step, Value};
use super::frame::{POINTERS, result_offset, uniforms_offset};
use super::machine::{Isa, Machine};
use iced_x86::{MemoryOperand, Register};

/// Most vectors interleaved.
const MOST_COPIES: usize = 4;

/// Vectors that are interleaved at least where more would do without spilling: with fewer registers for them, invariants
/// have more.
const FEWEST_COPIES: usize = 2;

/// Registers that partial results leave free, at least: more than a computation has operands.
const FREE_REGISTERS: usize = 4;

/// Most steps of a block, to bound the size of code.
const MOST_STEPS: usize = 320;

/// The streams' addresses that must have registers, in their order, then the others: the first streams keep partial
/// results, and addresses move from row to row.
fn by_need(code: &Code) -> (Vec<usize>, Vec<usize>) {
    let sums = code.shape.combination().map_or(1, |combination| combination.values);
    (0..code.streams.len()).partition(|&k| k < sums || code.streams[k].row_bytes != 0)
}

/// Registers for addresses of streams in code of a shape.
fn pointers_of(shape: Shape) -> &'static [Register] {
    let counts_rows = matches!(shape, Shape::Rows { .. } | Shape::ShortRows { .. });
    if counts_rows { &POINTERS[..POINTERS.len() - 1] } else { &POINTERS }
}

/// Whether all addresses that must have registers get one.
pub(crate) fn fits_registers(code: &Code) -> bool {
    by_need(code).0.len() <= pointers_of(code.shape).len()
}

/// The best layout of some code and how many vectors are interleaved with it.
pub(super) fn choose_layout(code: &Code, machine: &mut Machine) -> (Layout, usize) {
    let isa = machine.isa;
    let unpinned = unpinned(code, machine);
    let most = most_copies(code, &unpinned, isa);
    let fewest = if code.shape.combination().is_some() { most } else { FEWEST_COPIES.min(most) };
    let numbers = std::iter::successors(Some(most), |&copies| Some(copies / 2)).take_while(|&n| n >= fewest);
    let layouts = numbers.map(|copies| (pinned(code, &unpinned, isa, copies), copies));
    // Of equally good ones, the first interleaves most.
    layouts.min_by_key(|(layout, _)| cost(code, layout)).expect("there is one number at least")
}

/// A layout with every invariant in memory.
fn unpinned(code: &Code, machine: &mut Machine) -> Layout {
    let isa = machine.isa;
    let (needed, others) = by_need(code);
    let mut pointers = vec![None; code.streams.len()];
    for (k, register) in needed.into_iter().chain(others).zip(pointers_of(code.shape)) {
        pointers[k] = Some(*register);
    }
    let mut layout = Layout {
        free: isa.registers() as u8,
        partials: 0,
        partials_per_copy: code.shape.partials() as u8,
        pinned: vec![None; code.invariants.len()],
        memory: vec![],
        pointers,
        first_spill: 0,
        first_bytes: 0,
        result: result_offset(code) as i64,
    };
    for invariant in &code.invariants {
        let memory = match (*invariant, isa) {
            (Invariant::Word(bits), Isa::Avx2) => {
                pool_operand(machine.asm.constant(&vector_of(isa, f32::from_bits(bits))), false)
            }
            (Invariant::Word(bits), Isa::Avx512) => pool_operand(machine.asm.constant(&bits.to_le_bytes()), true),
            (Invariant::Wide(bits), _) => {
                pool_operand(machine.asm.constant(&bits.to_le_bytes().repeat(isa.lanes() / 2)), false)
            }
            (Invariant::LaneNumber, _) => {
                let numbers: Vec<u8> = (0..isa.lanes() as u32).flat_map(u32::to_le_bytes).collect();
                pool_operand(machine.asm.constant(&numbers), false)
            }
            (Invariant::Uniform(_), Isa::Avx2) => {
                layout.first_bytes += 1;
                frame_slot(isa, layout.first_bytes - 1)
            }
            (Invariant::Uniform(_), Isa::Avx512) => {
                let given = uniform_operand(code, invariant).expect("the invariant is a uniform value");
                MemoryOperand { is_broadcast: true, ..given }
            }
        };
        layout.memory.push(memory);
    }
    layout.first_spill = layout.first_bytes + code.streams.iter().filter(|s| s.element == Element::Bool).count();
    layout
}

pub(super) fn uniform_operand(code: &Code, invariant: &Invariant) -> Option<MemoryOperand> {
    let Invariant::Uniform(k) = invariant else { return None };
    Some(at(ARGUMENTS, (uniforms_offset(code) + 4 * *k as usize) as i64))
}

/// A vector with the same f32 in every lane.
pub(super) fn vector_of(isa: Isa, x: f32) -> Vec<u8> {
    x.to_le_bytes().repeat(isa.lanes())
}

/// What the blocks of a strip need with a layout.
fn trial(code: &Code, layout: &Layout, isa: Isa, copies: usize) -> Needs {
    let needs = |steps: &[Step], copies: usize, lanes: Lanes| {
        allocate::emit(&mut Machine::new(isa), code, steps, layout, copies, lanes)
    };
    let all = [
        needs(&code.steps, copies, Lanes::All),
        needs(&code.together, copies, Lanes::All),
        needs(&code.tail, 1, Lanes::Counted),
        needs(&code.together, 1, Lanes::Counted),
    ];
    let registers = all.iter().map(|n| n.registers).max().unwrap_or(0);
    Needs { registers, spills: all[0].spills.max(all[1].spills), ..all[0] }
}

/// The most vectors that are interleaved without spilling.
fn most_copies(code: &Code, layout: &Layout, isa: Isa) -> usize {
    if matches!(code.shape, Shape::ShortRows { .. }) {
        return 1;
    }
    let most = (isa.registers() - FREE_REGISTERS) / code.shape.partials().max(1);
    let mut copies = MOST_COPIES.min(1 << most.max(1).ilog2());
    while copies > 1 {
        let free = isa.registers() - copies * code.shape.partials();
        let layout = Layout { free: free as u8, partials: free as u8, ..layout.clone() };
        if code.steps.len().max(code.together.len()) * copies <= MOST_STEPS
            && trial(code, &layout, isa, copies).spills == 0
        {
            break;
        }
        copies /= 2;
    }
    copies
}

/// The layout for so many interleaved vectors, with registers for what they leave room for.
fn pinned(code: &Code, unpinned: &Layout, isa: Isa, copies: usize) -> Layout {
    let free = (isa.registers() - copies * code.shape.partials()) as u8;
    let mut layout = Layout { free, partials: free, ..unpinned.clone() };
    let needed = trial(code, &layout, isa, copies).registers;
    pin(code, &mut layout, needed);
    layout
}

/// What a vector takes, in sixths of a cycle: processors load two vectors, compute with three and store one at a time.
/// Every use of an invariant that has no register is a load.
fn cost(code: &Code, layout: &Layout) -> usize {
    let [mut loads, mut computations, mut stores] = [0; 3];
    for step in &code.steps {
        match step.action {
            Action::Load(_) | Action::LoadRow(..) | Action::LoadWide(..) => loads += 1,
            Action::Store(..) | Action::StoreMask(..) | Action::StoreRow(..) => stores += 1,
            _ => computations += 1,
        }
        let in_memory = |v: &Value| matches!(v, Value::Invariant(k) if layout.pinned[*k as usize].is_none());
        loads += step.action.sources().iter().filter(|v| in_memory(v)).count();
    }
    (3 * loads).max(2 * computations).max(6 * stores)
}

/// Gives the invariants that are used most the registers that blocks do not need.
fn pin(code: &Code, layout: &mut Layout, needed: u8) {
    let mut uses = vec![0usize; code.invariants.len()];
    for source in code.steps.iter().chain(&code.together).flat_map(|s| s.action.sources()) {
        if let Value::Invariant(k) = source {
            uses[k as usize] += 1;
        }
    }
    let mut order: Vec<usize> = (0..uses.len()).filter(|&k| uses[k] > 0).collect();
    order.sort_by_key(|&k| std::cmp::Reverse(uses[k]));
    for k in order.into_iter().take(usize::from(layout.free - needed)) {
        layout.free -= 1;
        layout.pinned[k] = Some(layout.free);
    }
}
