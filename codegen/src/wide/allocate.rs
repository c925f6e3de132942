//! Registers for straight-line code, and the code itself: Belady's rule over the next uses of values.
//!
//! Several vectors of points are computed interleaved (*copies*). Invariants that no register is left for are read
//! from memory by the instructions that need them.

use super::assembler::at;
use super::code::{Action, Code, Element, Step, Value};
use super::machine::{Fused, Isa, Machine, Place};
use crate::simd::Op2;
use iced_x86::{Code as Opcode, Instruction, MemoryOperand, Register};

/// Where everything is that outlives a block.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Vector registers from 0 on that blocks may use.
    pub free: u8,
    /// First register of the partial results.
    pub partials: u8,
    /// Registers of partial results per copy.
    pub partials_per_copy: u8,
    /// Registers of invariants.
    pub pinned: Vec<Option<u8>>,
    /// Invariants in memory.
    pub memory: Vec<MemoryOperand>,
    /// Registers of the streams' addresses; the others are loaded where they are used.
    pub pointers: Vec<Option<Register>>,
    /// First slot of the frame, in vectors, that values may be spilled to.
    pub first_spill: usize,
    /// Slot of the frame for the bytes of a stream's last vector, counting bytes streams.
    pub first_bytes: usize,
    /// Offset of the result in the caller's block.
    pub result: i64,
}

/// Register of the caller's block.
pub(crate) const ARGUMENTS: Register = Register::RDI;
/// Index of the first point of the block.
pub(crate) const INDEX: Register = Register::RAX;
/// Points of the strip; of the last vector, in its block.
pub(crate) const COUNT: Register = Register::RSI;
/// Addresses loaded where they are used.
pub(super) const ADDRESS: Register = Register::RDX;
/// Rows still to come; the same register, because streams of bytes have no rows.
pub(crate) const ROWS: Register = Register::R15;

/// Which lanes of its vectors a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// All of them.
    All,
    /// Of its only vector, as many as [`COUNT`] says.
    Counted,
    /// Of its only vector, so many.
    First(usize),
}

/// What a block needed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Values that went to memory.
    pub spills: usize,
    /// Registers from 0 on.
    pub registers: u8,
    /// Slots of the frame.
    pub slots: usize,
}

/// Emits one block: the steps for `copies` vectors.
pub(crate) fn emit(
    machine: &mut Machine,
    code: &Code,
    steps: &[Step],
    layout: &Layout,
    copies: usize,
    lanes: Lanes,
) -> Needs {
    // The last vector's mask has a register of its own.
    let inside = (lanes != Lanes::All).then(|| layout.free - 1);
    let free = inside.unwrap_or(layout.free);
    match lanes {
        Lanes::All => {}
        Lanes::Counted => machine.set_inside(free, COUNT, ADDRESS),
        Lanes::First(count) => machine.set_first(free, count),
    }
    let mut block = Block {
        code,
        steps,
        layout,
        copies,
        lanes,
        inside,
        uses: uses(steps, copies),
        register: vec![None; steps.len() * copies],
        slot: vec![None; steps.len() * copies],
        read_from: vec![None; steps.len() * copies],
        owner: vec![None; free.into()],
        busy: vec![false; free.into()],
        locked: vec![],
        temporaries: vec![],
        needs: Needs { spills: 0, registers: 0, slots: layout.first_spill },
        machine,
    };
    for (number, step) in steps.iter().enumerate() {
        for copy in 0..copies {
            block.step(number * copies + copy, step, copy);
        }
    }
    if inside.is_some() {
        block.needs.registers += 1;
    }
    block.needs
}

/// Positions at which each value is read, latest first.
fn uses(steps: &[Step], copies: usize) -> Vec<Vec<usize>> {
    let mut uses = vec![vec![]; steps.len() * copies];
    for (number, step) in steps.iter().enumerate().rev() {
        for source in step.action.sources() {
            if let Value::Step(from) = source {
                for copy in 0..copies {
                    uses[from as usize * copies + copy].push(number * copies + copy);
                }
            }
        }
    }
    uses
}

/// A block under construction.
pub(super) struct Block<'a> {
    /// Where instructions go.
    pub machine: &'a mut Machine,
    /// The strip's code.
    pub code: &'a Code,
    steps: &'a [Step],
    /// What outlives the block.
    pub layout: &'a Layout,
    copies: usize,
    /// The lanes that are computed.
    pub lanes: Lanes,
    /// Register of the mask of the last vector, in its block.
    pub inside: Option<u8>,
    /// Of every value, the positions still to come at which it is read, latest first.
    uses: Vec<Vec<usize>>,
    register: Vec<Option<u8>>,
    slot: Vec<Option<usize>>,
    /// Of values that are whole vectors of a stream, where they may be read again.
    read_from: Vec<Option<MemoryOperand>>,
    /// The value in each register.
    owner: Vec<Option<usize>>,
    busy: Vec<bool>,
    /// Registers the current step reads.
    locked: Vec<u8>,
    /// Registers that hold copies of invariants for the current step.
    pub temporaries: Vec<u8>,
    needs: Needs,
}

impl Block<'_> {
    fn step(&mut self, position: usize, step: &Step, copy: usize) {
        self.locked.clear();
        let sources = step.action.sources();
        for source in &sources {
            if let Value::Step(from) = source {
                let id = *from as usize * self.copies + copy;
                let read = self.uses[id].pop();
                debug_assert_eq!(read, Some(position), "uses are met in order");
            }
        }
        let own = step.partial.map(|p| self.partial(p, copy));
        let to = self.action(&step.action, position, copy, own);
        for source in sources {
            self.release_if_dead(source, copy);
        }
        for temporary in std::mem::take(&mut self.temporaries) {
            if Some(temporary) != to {
                self.busy[usize::from(temporary)] = false;
            }
        }
        if let (Some(to), None) = (to, own) {
            self.hold(to, position);
        }
    }

    /// Makes a register the place of a value, or gives it back if nothing reads the value.
    fn hold(&mut self, register: u8, value: usize) {
        let used = !self.uses[value].is_empty();
        self.busy[usize::from(register)] = used;
        self.owner[usize::from(register)] = used.then_some(value);
        self.register[value] = used.then_some(register);
    }

    fn is_dead(&self, value: Value, copy: usize) -> bool {
        matches!(value, Value::Step(from) if self.uses[from as usize * self.copies + copy].is_empty())
    }

    fn release_if_dead(&mut self, value: Value, copy: usize) {
        let Value::Step(from) = value else { return };
        let id = from as usize * self.copies + copy;
        if let Some(register) = self.register[id].filter(|_| self.is_dead(value, copy)) {
            self.register[id] = None;
            self.owner[usize::from(register)] = None;
            self.busy[usize::from(register)] = false;
        }
    }

    fn partial(&self, number: u32, copy: usize) -> u8 {
        self.layout.partials + self.layout.partials_per_copy * copy as u8 + number as u8
    }

    /// Where a value is now.
    fn place(&self, value: Value, copy: usize) -> Place {
        match value {
            Value::Step(from) => {
                let id = from as usize * self.copies + copy;
                match (self.register[id], self.slot[id], self.read_from[id]) {
                    (Some(register), ..) => Place::Register(register),
                    (None, Some(slot), _) => Place::Memory(self.frame(slot)),
                    (None, None, Some(stream)) => Place::Memory(stream),
                    (None, None, None) => unreachable!("a value is computed before it is read"),
                }
            }
            Value::Invariant(k) => match self.layout.pinned[k as usize] {
                Some(register) => Place::Register(register),
                None => Place::Memory(self.layout.memory[k as usize]),
            },
            Value::Partial(p) => Place::Register(self.partial(p, copy)),
            Value::Inside => Place::Register(self.inside.expect("only the last vector has lanes outside")),
        }
    }

    pub fn frame(&self, slot: usize) -> MemoryOperand {
        frame_slot(self.machine.isa, slot)
    }

    fn is_memory(&self, value: Value, copy: usize) -> bool {
        matches!(self.place(value, copy), Place::Memory(_))
    }

    /// As [`place`](Self::place); a register stays as it is until the step is over.
    fn operand(&mut self, value: Value, copy: usize) -> Place {
        let place = self.place(value, copy);
        if let Place::Register(register) = place {
            self.locked.push(register);
        }
        place
    }

    /// The register of a value, loaded if it is in memory.
    fn in_register(&mut self, value: Value, copy: usize) -> u8 {
        let register = match self.place(value, copy) {
            Place::Register(register) => register,
            Place::Memory(memory) => {
                let register = self.take();
                self.machine.load(register, memory);
                if let Value::Step(from) = value {
                    let id = from as usize * self.copies + copy;
                    self.owner[usize::from(register)] = Some(id);
                    self.register[id] = Some(register);
                } else {
                    self.temporaries.push(register);
                }
                register
            }
        };
        self.locked.push(register);
        register
    }

    /// A register nobody needs, made free by spilling the value that is read last if need be.
    pub fn take(&mut self) -> u8 {
        let free = self.busy.iter().position(|busy| !busy);
        let register = free.unwrap_or_else(|| self.evict());
        self.busy[register] = true;
        self.needs.registers = self.needs.registers.max(register as u8 + 1);
        register as u8
    }

    fn evict(&mut self) -> usize {
        let candidates = (0..self.owner.len()).filter(|&r| !self.locked.contains(&(r as u8)));
        let next_use = |r: usize| self.owner[r].map(|id| self.uses[id].last().copied().unwrap_or(usize::MAX));
        let register = candidates
            .filter(|&r| self.owner[r].is_some())
            .max_by_key(|&r| next_use(r))
            .expect("no step reads as many values as there are registers");
        let id = self.owner[register].take().expect("the register holds a value");
        self.register[id] = None;
        // Code that combines stores nothing that it reads.
        let is_read_again = self.read_from[id].is_some() && self.code.shape.combination().is_some();
        if self.slot[id].is_none() && !is_read_again {
            let slot = self.needs.slots;
            self.slot[id] = Some(slot);
            self.needs.slots += 1;
            self.needs.spills += 1;
            let memory = self.frame(slot);
            self.machine.store(memory, register as u8);
        }
        register
    }

    /// A register for a result that may overwrite what dies in this step: the instruction reads before it writes.
    fn result(&mut self, sources: &[Value], copy: usize, own: Option<u8>) -> u8 {
        own.unwrap_or_else(|| {
            sources.iter().for_each(|&source| self.release_if_dead(source, copy));
            let temporaries = std::mem::take(&mut self.temporaries);
            temporaries.iter().for_each(|&t| self.busy[usize::from(t)] = false);
            self.take()
        })
    }

    /// Whether a register may be overwritten by the step that reads this value from it.
    fn overwritable(&self, value: Value, register: u8, copy: usize) -> bool {
        self.is_dead(value, copy) || self.temporaries.contains(&register)
    }

    /// Emits a computation; the register of its result, if it has one.
    fn action(&mut self, action: &Action, position: usize, copy: usize, own: Option<u8>) -> Option<u8> {
        match *action {
            Action::Load(stream) => self.loaded(stream, [position, copy], 0),
            Action::LoadRow(stream, row) => self.loaded(stream, [position, copy], row),
            Action::LoadWide(stream, half) => {
                let to = self.take();
                let from = self.address(stream, 2 * copy + usize::from(half), 0);
                self.machine.load(to, from);
                Some(to)
            }
            Action::FirstPoint => {
                let to = self.take();
                let first = at(INDEX, (copy * self.machine.isa.lanes()) as i64);
                self.machine.general(Instruction::with2(Opcode::Lea_r64_m, ADDRESS, first));
                self.machine.broadcast_word(to, Register::EDX);
                Some(to)
            }
            Action::Op1(op, x) => {
                let from = self.in_register(x, copy);
                let to = self.result(&[x], copy, own);
                self.machine.op1(op, to, from);
                Some(to)
            }
            Action::Exchange(distance, x) => {
                let from = self.in_register(x, copy);
                let to = self.result(&[x], copy, own);
                self.machine.exchange(distance, to, from);
                Some(to)
            }
            Action::Op2(op, x, y) => Some(self.op2(op, x, y, copy, own)),
            Action::MultiplyAdd(x, y, z) => Some(self.multiply_add(x, y, z, copy)),
            Action::Select(mask, x, y) => Some(match self.machine.isa {
                Isa::Avx2 => self.blend(mask, x, y, copy, own),
                Isa::Avx512 => self.blend_bits(mask, x, y, copy, own),
            }),
            Action::Store(stream, x) => {
                let from = self.in_register(x, copy);
                self.store(stream, from, copy);
                None
            }
            Action::StoreMask(stream, x) => {
                let from = self.in_register(x, copy);
                self.store_mask(stream, from, copy);
                None
            }
            Action::Result(x, wide) => {
                let from = self.in_register(x, copy);
                self.machine.store_lane(at(ARGUMENTS, self.layout.result), from, wide);
                None
            }
            Action::StoreRow(stream, x) => {
                let from = self.in_register(x, copy);
                let to = self.address(stream, copy, 0);
                self.machine.store_lane(to, from, false);
                None
            }
        }
    }

    /// The register of a vector that is read, or none if the computation that needs it reads it itself.
    fn loaded(&mut self, stream: u32, [position, copy]: [usize; 2], row: u8) -> Option<u8> {
        let is_whole = self.lanes == Lanes::All && self.code.streams[stream as usize].element == Element::Float;
        self.fetch_ahead(stream, copy);
        if is_whole && self.layout.pointers[stream as usize].is_some() {
            self.read_from[position] = Some(self.address(stream, copy, row));
            if self.is_read_once(position) {
                return None;
            }
        }
        let to = self.take();
        self.load(stream, to, copy, row);
        Some(to)
    }

    /// Whether a value is read by one computation that can read memory. These come before all stores, so that it still is
    /// what it was.
    fn is_read_once(&self, value: usize) -> bool {
        let &[reader] = &self.uses[value][..] else { return false };
        matches!(self.steps[reader / self.copies].action, Action::Op2(..) | Action::MultiplyAdd(..))
    }

    fn op2(&mut self, op: Op2, x: Value, y: Value, copy: usize, own: Option<u8>) -> u8 {
        let swap = is_commutative(op) && self.is_memory(x, copy) && !self.is_memory(y, copy);
        let (x, y) = if swap { (y, x) } else { (x, y) };
        let right = if op == Op2::Join { Place::Register(self.in_register(y, copy)) } else { self.operand(y, copy) };
        let left = self.in_register(x, copy);
        let to = self.result(&[x, y], copy, own);
        self.machine.op2(op, to, left, right);
        to
    }

    fn multiply_add(&mut self, x: Value, y: Value, z: Value, copy: usize) -> u8 {
        let (x, y) = if self.is_memory(x, copy) { (y, x) } else { (x, y) };
        let left = self.in_register(x, copy);
        let right = self.operand(y, copy);
        let sum = match (right, self.operand(z, copy)) {
            (Place::Memory(_), Place::Memory(_)) => Place::Register(self.in_register(z, copy)),
            (_, sum) => sum,
        };
        if let Place::Register(sum) = sum
            && self.overwritable(z, sum, copy)
        {
            self.machine.fused(Fused::F231, sum, left, right);
            return self.overwritten(sum);
        }
        if self.overwritable(x, left, copy) {
            match (right, sum) {
                (Place::Register(right), _) => self.machine.fused(Fused::F213, left, right, sum),
                (_, Place::Register(sum)) => self.machine.fused(Fused::F132, left, sum, right),
                _ => unreachable!("one of them was loaded"),
            }
            return self.overwritten(left);
        }
        match (right, sum) {
            (Place::Register(right), _) if self.overwritable(y, right, copy) => {
                self.machine.fused(Fused::F213, right, left, sum);
                self.overwritten(right)
            }
            (_, Place::Register(sum)) => {
                let to = self.take();
                self.machine.copy(to, sum);
                self.machine.fused(Fused::F231, to, left, right);
                to
            }
            (Place::Register(right), _) => {
                let to = self.take();
                self.machine.copy(to, left);
                self.machine.fused(Fused::F213, to, right, sum);
                to
            }
            _ => unreachable!("one of them was loaded"),
        }
    }

    /// A register whose value has just been replaced by the result.
    fn overwritten(&mut self, register: u8) -> u8 {
        if let Some(id) = self.owner[usize::from(register)].take() {
            self.register[id] = None;
        }
        register
    }

    fn blend(&mut self, mask: Value, x: Value, y: Value, copy: usize, own: Option<u8>) -> u8 {
        let above = self.operand(x, copy);
        let mask_register = self.in_register(mask, copy);
        let below = self.in_register(y, copy);
        let to = self.result(&[mask, x, y], copy, own);
        self.machine.blend(to, mask_register, above, below);
        to
    }

    fn blend_bits(&mut self, mask: Value, x: Value, y: Value, copy: usize, own: Option<u8>) -> u8 {
        let swapped = self.is_memory(x, copy);
        let (first, second) = if swapped { (y, x) } else { (x, y) };
        let mask_register = self.in_register(mask, copy);
        let second = self.operand(second, copy);
        let first = self.in_register(first, copy);
        let to = if self.overwritable(mask, mask_register, copy) && ![x, y].contains(&mask) {
            self.overwritten(mask_register)
        } else {
            let to = self.take();
            self.machine.copy(to, mask_register);
            to
        };
        self.machine.blend_bits(to, first, second, swapped);
        let Some(own) = own else { return to };
        self.machine.copy(own, to);
        self.busy[usize::from(to)] = false;
        own
    }
}

/// A slot of the frame, in vectors.
pub(crate) fn frame_slot(isa: Isa, slot: usize) -> MemoryOperand {
    at(Register::RSP, (slot * isa.bytes()) as i64)
}

fn is_commutative(op: Op2) -> bool {
    matches!(op, Op2::Add | Op2::Mul | Op2::And | Op2::Or | Op2::Xor | Op2::AddInt | Op2::AddWide | Op2::MulWide)
}
