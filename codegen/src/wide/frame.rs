//! The function of a strip: loops around its blocks, and what comes before and after them.
//!
//! `extern "sysv64" fn(arguments, count)`. The caller's block has the streams' addresses (8 bytes each), the uniform
//! values (4 bytes each), and room for the result; where there are rows, their number stands there.

use super::allocate::{self, ARGUMENTS, COUNT, INDEX, Lanes, Layout};
use super::assembler::{at, pool_operand};
use super::code::{Action, Code, Combination, Element, Shape, Step, Value};
use super::layouts::{choose_layout, uniform_operand, vector_of};
use super::machine::{Isa, Machine};
use crate::math::Math;
use crate::simd::{Op2, Simd};
use gradc_ir::lower::{BinaryFn, Combine};
use iced_x86::{Code as Opcode, Instruction, Register};
use std::ops::Range;

/// Registers for addresses of streams.
pub(super) const POINTERS: [Register; 8] = [
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

/// Rows still to come where they are computed one after the other; one address less has a register then.
const ROWS_LEFT: Register = POINTERS[POINTERS.len() - 1];

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
        let (layout, copies) = choose_layout(code, &mut machine);
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
        let total = combine_partials(&mut code, combination, 0..count as u32, self.machine.isa);
        code.push(Action::Result(total, combination.long));
        self.emit_meeting(&code, count);
    }

    /// As [`meet`](Self::meet), of the values of a row, each in vectors of its own.
    fn meet_row(&mut self, combination: Combination) {
        let mut code = Code { streams: self.code.streams.clone(), ..Code::new(self.code.shape) };
        for value in 0..combination.values as u32 {
            let total = combine_partials(&mut code, combination, value..value + 1, self.machine.isa);
            code.push(Action::StoreRow(value, total));
        }
        self.emit_meeting(&code, combination.partials());
    }

    fn emit_meeting(&mut self, code: &Code, partials: usize) {
        let (pinned, memory) = (vec![], vec![]);
        let layout = Layout { partials_per_copy: partials as u8, pinned, memory, ..self.layout.clone() };
        let needs = allocate::emit(&mut self.machine, code, &code.steps, &layout, 1, Lanes::All);
        self.slots = self.slots.max(needs.slots);
    }
}

/// Appends what makes one of some partial results, in every lane.
fn combine_partials(code: &mut Code, combination: Combination, partials: Range<u32>, isa: Isa) -> Value {
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
