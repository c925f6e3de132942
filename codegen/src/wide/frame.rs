//! The function of a strip: loops around its blocks, and what comes before and after them.
//!
//! `extern "sysv64" fn(arguments, count)`. The caller's block has the streams' addresses (8 bytes each), the uniform
//! values (4 bytes each), and room for the result; where there are rows, their number stands there.

use super::allocate::{self, ARGUMENTS, COUNT, INDEX, Lanes, Layout, Needs, frame_slot};
use super::assembler::{at, pool_operand};
use super::code::{Action, Code, Combination, Element, Invariant, Shape, Step, Value};
use super::machine::{Isa, Machine};
use crate::math::Math;
use crate::simd::{Op2, Simd};
use gradc_ir::lower::{BinaryFn, Combine};
use iced_x86::{Code as Opcode, Instruction, MemoryOperand, Register};
use std::ops::Range;

/// Registers for addresses of streams.
const POINTERS: [Register; 8] = [
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::RBX,
    Register::R12,
    Register::R13,
    Register::R14,
];

/// How many of them a function may change freely.
const VOLATILE_POINTERS: usize = 4;

/// Registers that are kept for the caller.
const KEPT: [Register; 5] = [Register::RBX, Register::R12, Register::R13, Register::R14, Register::R15];

/// Most vectors interleaved.
const MOST_COPIES: usize = 4;

/// Vectors that are interleaved at least where more would do without spilling: with fewer registers for them, invariants
/// have more.
const FEWEST_COPIES: usize = 2;

/// Registers that partial results leave free, at least: more than a computation has operands.
const FREE_REGISTERS: usize = 4;

/// Most steps of a block, to bound the size of code.
const MOST_STEPS: usize = 320;

/// Rows still to come where they are computed one after the other; one address less has a register then.
const ROWS_LEFT: Register = POINTERS[POINTERS.len() - 1];

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

/// Offset of the uniform values in the caller's block.
pub(crate) fn uniforms_offset(code: &Code) -> usize {
    8 * code.streams.len()
}

/// Offset of the result, or of the number of rows, in the caller's block.
pub(crate) fn result_offset(code: &Code) -> usize {
    (uniforms_offset(code) + 4 * code.uniforms).next_multiple_of(8)
}

/// Bytes of the caller's block.
pub(crate) fn arguments_bytes(code: &Code) -> usize {
    result_offset(code) + 8
}

/// Machine code of a strip.
pub(crate) fn assemble(code: &Code, isa: Isa) -> Vec<u8> {
    Frame::new(code, isa).function()
}

/// A strip's function under construction.
pub(super) struct Frame<'a> {
    pub code: &'a Code,
    pub machine: Machine,
    pub layout: Layout,
    copies: usize,
    slots: usize,
}

impl<'a> Frame<'a> {
    fn new(code: &'a Code, isa: Isa) -> Frame<'a> {
        let mut machine = Machine::new(isa);
        let unpinned = unpinned(code, &mut machine);
        let most = most_copies(code, &unpinned, isa);
        let fewest = if code.shape.combination().is_some() { most } else { FEWEST_COPIES.min(most) };
        let numbers = std::iter::successors(Some(most), |&copies| Some(copies / 2)).take_while(|&n| n >= fewest);
        let layouts = numbers.map(|copies| (pinned(code, &unpinned, isa, copies), copies));
        // Of equally good ones, the first interleaves most.
        let (layout, copies) =
            layouts.min_by_key(|(layout, _)| cost(code, layout)).expect("there is one number at least");
        Frame { code, machine, layout, copies, slots: 0 }
    }

    fn function(mut self) -> Vec<u8> {
        if let Shape::Row(combination) = self.code.shape {
            self.start_partials(self.copies, combination);
        }
        match self.code.shape {
            Shape::Rows { points } => self.rows(|frame| frame.row(points)),
            Shape::ShortRows { combination, points } => self.rows(|frame| {
                frame.start_partials(1, combination);
                frame.row(points);
                frame.meet_row(combination);
            }),
            Shape::Columns { continued: true, .. } if !self.code.together.is_empty() => self.sweeps(),
            _ => self.blocks(Self::block),
        }
        if let Shape::Row(combination) = self.code.shape {
            self.meet(combination);
        }
        let body = std::mem::take(&mut self.machine.asm.lines);
        let kept = self.kept();
        self.enter(kept);
        self.machine.asm.lines.extend(body);
        self.leave(kept);
        self.machine.asm.assemble()
    }

    /// How many of the kept registers are used.
    fn kept(&self) -> usize {
        let bytes = self.code.streams.iter().any(|s| s.element == Element::Bool);
        let rows = matches!(self.code.shape, Shape::Rows { .. } | Shape::ShortRows { .. } | Shape::Columns { .. });
        match self.code.streams.len() {
            _ if bytes || rows => KEPT.len(),
            n => n.min(POINTERS.len()).saturating_sub(VOLATILE_POINTERS),
        }
    }

    fn enter(&mut self, kept: usize) {
        let m = &mut self.machine;
        m.general(Instruction::with1(Opcode::Push_r64, Register::RBP));
        m.general(Instruction::with2(Opcode::Mov_r64_rm64, Register::RBP, Register::RSP));
        for &register in &KEPT[..kept] {
            m.general(Instruction::with1(Opcode::Push_r64, register));
        }
        if self.slots > 0 {
            let bytes = (self.slots * m.isa.bytes()).next_multiple_of(64);
            m.general(Instruction::with2(Opcode::And_rm64_imm8, Register::RSP, -64));
            m.general(Instruction::with2(Opcode::Sub_rm64_imm32, Register::RSP, bytes as i32));
        }
        for (k, pointer) in self.layout.pointers.iter().enumerate() {
            if let Some(pointer) = pointer {
                m.load_pointer(*pointer, ARGUMENTS, 8 * k as i64);
            }
        }
        self.load_invariants();
        self.machine.general(Instruction::with2(Opcode::Xor_r32_rm32, Register::EAX, Register::EAX));
    }

    /// Fills the registers of invariants, and the frame with uniform values that have none.
    fn load_invariants(&mut self) {
        for (k, invariant) in self.code.invariants.iter().enumerate() {
            let given = uniform_operand(self.code, invariant);
            match (self.layout.pinned[k], given) {
                (Some(register), Some(given)) => self.machine.broadcast(register, given),
                (Some(register), None) => self.machine.load(register, self.layout.memory[k]),
                (None, Some(given)) if self.machine.isa == Isa::Avx2 => {
                    self.machine.broadcast(0, given);
                    self.machine.store(self.layout.memory[k], 0);
                }
                (None, _) => {}
            }
        }
    }

    fn leave(&mut self, kept: usize) {
        let m = &mut self.machine;
        m.leave_vectors();
        let saved = at(Register::RBP, -8 * kept as i64);
        m.general(Instruction::with2(Opcode::Lea_r64_m, Register::RSP, saved));
        for &register in KEPT[..kept].iter().rev() {
            m.general(Instruction::with1(Opcode::Pop_r64, register));
        }
        m.general(Instruction::with1(Opcode::Pop_r64, Register::RBP));
        m.asm.push(Instruction::with(Opcode::Retnq));
    }

    /// Loops over rows.
    fn rows(&mut self, row: impl FnOnce(&mut Self)) {
        let again = self.machine.asm.label();
        self.machine.load_pointer(ROWS_LEFT, ARGUMENTS, self.layout.result);
        self.machine.asm.place(again);
        row(self);
        self.advance(1);
        self.machine.general(Instruction::with1(Opcode::Dec_rm64, ROWS_LEFT));
        self.machine.asm.jump(Opcode::Jne_rel32_64, again);
    }

    /// A row. That its points are known saves the tests for the last of them, which take longer than short rows themselves.
    fn row(&mut self, points: usize) {
        let lanes = self.machine.isa.lanes();
        if points >= lanes {
            self.whole_vectors(points / lanes);
        }
        if !points.is_multiple_of(lanes) {
            self.block(1, Lanes::First(points % lanes));
        }
    }

    /// So many vectors of a row: blocks of several, of one.
    fn whole_vectors(&mut self, vectors: usize) {
        let (lanes, copies) = (self.machine.isa.lanes(), self.copies);
        self.machine.general(Instruction::with2(Opcode::Xor_r32_rm32, Register::EAX, Register::EAX));
        if vectors >= 2 * copies {
            let points = (vectors * lanes) as i32;
            self.machine.general(Instruction::with2(Opcode::Mov_r32_imm32, Register::ESI, points));
            self.while_fits((lanes * copies) as i32, copies, Self::steps);
        } else if vectors >= copies {
            self.one_block(copies);
        }
        (0..vectors % copies).for_each(|_| self.one_block(1));
    }

    fn one_block(&mut self, copies: usize) {
        self.block(copies, Lanes::All);
        let points = (self.machine.isa.lanes() * copies) as i32;
        self.machine.general(Instruction::with2(Opcode::Add_rm64_imm32, INDEX, points));
    }

    /// Loops over blocks of several vectors, of one, and the last incomplete one.
    pub(super) fn blocks(&mut self, block: fn(&mut Self, usize, Lanes)) {
        let lanes = self.machine.isa.lanes() as i32;
        let wide = lanes * self.copies as i32;
        self.while_fits(wide, self.copies, block);
        if self.copies > 1 {
            self.while_fits(lanes, 1, block);
        }
        let done = self.machine.asm.label();
        self.machine.general(Instruction::with2(Opcode::Sub_rm64_r64, COUNT, INDEX));
        self.machine.asm.jump(Opcode::Je_rel32_64, done);
        block(self, 1, Lanes::Counted);
        self.machine.asm.place(done);
    }

    /// Repeats a block while its points are inside the strip; the count is the strip's before and after.
    fn while_fits(&mut self, points: i32, copies: usize, block: fn(&mut Self, usize, Lanes)) {
        let (again, done) = (self.machine.asm.label(), self.machine.asm.label());
        self.machine.general(Instruction::with2(Opcode::Sub_rm64_imm32, COUNT, points));
        self.machine.general(Instruction::with2(Opcode::Cmp_r64_rm64, INDEX, COUNT));
        self.machine.asm.jump(Opcode::Jg_rel32_64, done);
        self.machine.asm.place(again);
        block(self, copies, Lanes::All);
        self.machine.general(Instruction::with2(Opcode::Add_rm64_imm32, INDEX, points));
        self.machine.general(Instruction::with2(Opcode::Cmp_r64_rm64, INDEX, COUNT));
        self.machine.asm.jump(Opcode::Jle_rel32_64, again);
        self.machine.asm.place(done);
        self.machine.general(Instruction::with2(Opcode::Add_rm64_imm32, COUNT, points));
    }

    fn block(&mut self, copies: usize, lanes: Lanes) {
        match self.code.shape {
            Shape::Columns { combination, sums, continued } => {
                self.column_block(combination, (sums, continued), copies, lanes);
            }
            _ => self.steps(copies, lanes),
        }
    }

    fn steps(&mut self, copies: usize, lanes: Lanes) {
        self.emit(self.code.steps_of(lanes), copies, lanes);
    }

    pub(super) fn emit(&mut self, steps: &[Step], copies: usize, lanes: Lanes) {
        let needs = allocate::emit(&mut self.machine, self.code, steps, &self.layout, copies, lanes);
        self.slots = self.slots.max(needs.slots);
    }

    /// Streams that move from row to row, their addresses, and by how many bytes they move.
    pub(super) fn moving(&self) -> Vec<(usize, Register, i32)> {
        let all = self.code.streams.iter().zip(&self.layout.pointers).enumerate();
        all.filter(|(_, (stream, _))| stream.row_bytes != 0)
            .map(|(k, (stream, pointer))| (k, pointer.expect("streams that move have registers"), stream.row_bytes))
            .collect()
    }

    /// Moves the streams' addresses by so many rows.
    pub(super) fn advance(&mut self, rows: i32) {
        for (_, pointer, bytes) in self.moving() {
            self.machine.general(Instruction::with2(Opcode::Add_rm64_imm32, pointer, rows * bytes));
        }
    }

    pub(super) fn start_partials(&mut self, copies: usize, combination: Combination) {
        let start = vector_of(self.machine.isa, combination.start());
        for k in 0..copies * combination.partials() {
            let register = self.layout.partials + k as u8;
            if combination.combine == Combine::Sum {
                self.machine.clear(register);
            } else {
                let memory = pool_operand(self.machine.asm.constant(&start), false);
                self.machine.load(register, memory);
            }
        }
    }

    /// Combines the partial results of all copies and lanes, as a fixed tree, and hands over the result.
    fn meet(&mut self, combination: Combination) {
        let count = self.copies * combination.partials();
        let mut code = Code::new(self.code.shape);
        let total = met(&mut code, combination, 0..count as u32, self.machine.isa);
        code.push(Action::Result(total, combination.long));
        self.emit_met(&code, count);
    }

    /// As [`meet`](Self::meet), of the values of a row, each in vectors of its own.
    fn meet_row(&mut self, combination: Combination) {
        let mut code = Code { streams: self.code.streams.clone(), ..Code::new(self.code.shape) };
        for value in 0..combination.values as u32 {
            let total = met(&mut code, combination, value..value + 1, self.machine.isa);
            code.push(Action::StoreRow(value, total));
        }
        self.emit_met(&code, combination.partials());
    }

    fn emit_met(&mut self, code: &Code, partials: usize) {
        let (pinned, memory) = (vec![], vec![]);
        let layout = Layout { partials_per_copy: partials as u8, pinned, memory, ..self.layout.clone() };
        allocate::emit(&mut self.machine, code, &code.steps, &layout, 1, Lanes::All);
    }
}

/// What partial results are together, in every lane.
fn met(code: &mut Code, combination: Combination, partials: Range<u32>, isa: Isa) -> Value {
    let mut total = tree(code, combination, partials.map(Value::Partial).collect());
    let mut distance = isa.lanes() as u8 / 2;
    while distance >= if combination.long { 2 } else { 1 } {
        let other = code.push(Action::Exchange(distance, total));
        total = combined(code, combination, total, other);
        distance /= 2;
    }
    total
}

fn tree(code: &mut Code, combination: Combination, mut values: Vec<Value>) -> Value {
    while values.len() > 1 {
        values = values
            .chunks(2)
            .map(|pair| match *pair {
                [x, y] => combined(code, combination, x, y),
                _ => pair[0],
            })
            .collect();
    }
    values[0]
}

fn combined(code: &mut Code, combination: Combination, x: Value, y: Value) -> Value {
    if combination.long {
        return code.op2(Op2::AddWide, &x, &y);
    }
    code.binary(combining(combination.combine), &x, &y)
}

/// The function of two values a combination is made of.
pub(crate) fn combining(combine: Combine) -> BinaryFn {
    match combine {
        Combine::Sum => BinaryFn::Add,
        Combine::Prod => BinaryFn::Mul,
        Combine::Max => BinaryFn::Max,
        Combine::Min => BinaryFn::Min,
    }
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

fn uniform_operand(code: &Code, invariant: &Invariant) -> Option<MemoryOperand> {
    let Invariant::Uniform(k) = invariant else { return None };
    Some(at(ARGUMENTS, (uniforms_offset(code) + 4 * *k as usize) as i64))
}

/// A vector with the same f32 in every lane.
fn vector_of(isa: Isa, x: f32) -> Vec<u8> {
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
