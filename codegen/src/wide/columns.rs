//! Strips that combine rows into the partial results of columns: block of columns after block where these stay in
//! registers, else sweep after sweep over all columns.

use super::allocate::{ARGUMENTS, COUNT, INDEX, Lanes, ROWS};
use super::assembler::indexed;
use super::code::{Combination, Element, ROWS_TOGETHER, Shape, Step};
use super::frame::Frame;
use super::machine::Machine;
use iced_x86::{Code as Opcode, Instruction, MemoryOperand, Register};

/// Bytes of a cache line.
const CACHE_LINE_BYTES: usize = 64;

impl Frame<'_> {
    /// Sweeps over all columns, several rows at a time, then one: what is read lies together, so that processors fetch it
    /// ahead. Partial results are in memory between sweeps.
    pub fn sweeps(&mut self) {
        self.machine.load_pointer(ROWS, ARGUMENTS, self.layout.result);
        self.while_rows(ROWS_TOGETHER, |frame| {
            frame.sweep(|frame, copies, lanes| {
                frame.fetch_next_rows(copies);
                frame.add(&frame.code.together, copies, lanes);
            });
        });
        self.while_rows(1, |frame| {
            frame.sweep(|frame, copies, lanes| frame.add(frame.code.steps_of(lanes), copies, lanes))
        });
    }

    fn sweep(&mut self, block: fn(&mut Self, usize, Lanes)) {
        self.machine.general(Instruction::with2(Opcode::Xor_r32_rm32, Register::EAX, Register::EAX));
        self.blocks(block);
        self.machine.general(Instruction::with2(Opcode::Add_rm64_r64, COUNT, INDEX));
    }

    /// All rows at one block of columns, partial results in registers.
    pub fn column_block(
        &mut self,
        combination: Combination,
        (sums, continued): (u32, bool),
        copies: usize,
        lanes: Lanes,
    ) {
        if continued {
            self.each_partial(combination, sums, copies, |m, register, memory| m.load(register, memory));
        } else {
            self.start_partials(copies, combination);
        }
        self.machine.load_pointer(ROWS, ARGUMENTS, self.layout.result);
        let code = self.code;
        if !code.together.is_empty() {
            self.while_rows(ROWS_TOGETHER, |frame| frame.emit(&code.together, copies, lanes));
        }
        self.while_rows(1, |frame| frame.emit(code.steps_of(lanes), copies, lanes));
        self.first_row();
        self.each_partial(combination, sums, copies, |m, register, memory| m.store(memory, register));
    }

    /// Has the elements fetched that the next sweep reads at these columns.
    fn fetch_next_rows(&mut self, copies: usize) {
        let bytes = (copies * self.machine.isa.bytes()) as i64;
        for (stream, pointer, row_bytes) in self.moving() {
            if self.code.streams[stream].element != Element::Float {
                continue;
            }
            let rows = (0..ROWS_TOGETHER).map(|row| i64::from(ROWS_TOGETHER + row) * i64::from(row_bytes));
            for offset in rows.flat_map(|row| (0..bytes).step_by(CACHE_LINE_BYTES).map(move |at| row + at)) {
                let ahead = indexed(pointer, INDEX, 4, offset);
                self.machine.general(Instruction::with1(Opcode::Prefetcht0_m8, ahead));
            }
        }
    }

    /// Adds rows to the partial results of one block of columns.
    fn add(&mut self, steps: &[Step], copies: usize, lanes: Lanes) {
        let Shape::Columns { combination, sums, .. } = self.code.shape else {
            unreachable!("rows of columns are added")
        };
        self.each_partial(combination, sums, copies, |m, register, memory| m.load(register, memory));
        self.emit(steps, copies, lanes);
        self.each_partial(combination, sums, copies, |m, register, memory| m.store(memory, register));
    }

    /// Repeats what is done with so many rows while there are as many.
    fn while_rows(&mut self, rows: u8, body: impl FnOnce(&mut Self)) {
        let (again, done) = (self.machine.asm.label(), self.machine.asm.label());
        let (fewer, rows) = (i32::from(rows) - 1, i32::from(rows));
        self.machine.general(Instruction::with2(Opcode::Cmp_rm64_imm32, ROWS, fewer));
        self.machine.asm.jump(Opcode::Jle_rel32_64, done);
        self.machine.asm.place(again);
        body(self);
        self.advance(rows);
        self.machine.general(Instruction::with2(Opcode::Sub_rm64_imm32, ROWS, rows));
        self.machine.general(Instruction::with2(Opcode::Cmp_rm64_imm32, ROWS, fewer));
        self.machine.asm.jump(Opcode::Jg_rel32_64, again);
        self.machine.asm.place(done);
    }

    fn first_row(&mut self) {
        for (k, pointer, _) in self.moving() {
            self.machine.load_pointer(pointer, ARGUMENTS, 8 * k as i64);
        }
    }

    /// Visits the partial results of a block with their places in the streams that keep them.
    fn each_partial(
        &mut self,
        combination: Combination,
        sums: u32,
        copies: usize,
        mut visit: impl FnMut(&mut Machine, u8, MemoryOperand),
    ) {
        let (halves, bytes) = (combination.halves(), self.machine.isa.bytes());
        let scale = if combination.long { 8 } else { 4 };
        for k in 0..copies * combination.partials() {
            let (copy, value, half) = (k / combination.partials(), k / halves % combination.values, k % halves);
            let pointer = self.layout.pointers[sums as usize + value];
            let pointer = pointer.expect("the streams of partial results have registers");
            let memory = indexed(pointer, INDEX, scale, ((copy * halves + half) * bytes) as i64);
            visit(&mut self.machine, self.layout.partials + k as u8, memory);
        }
    }
}
