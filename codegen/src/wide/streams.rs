//! How a block reads and writes streams: whole vectors, or of the last vector the points inside the strip.

use super::allocate::{ADDRESS, ARGUMENTS, Block, COUNT, INDEX, Lanes};
use super::assembler::{at, indexed};
use super::code::{Element, Stream};
use super::machine::Isa;
use iced_x86::{Code as Opcode, Instruction, MemoryOperand, Register};

/// Counter of bytes.
const BYTES: Register = Register::RCX;
/// A byte on its way.
const BYTE: Register = Register::R15L;
/// The least page of any processor: what is not in one mapping does not share one.
const PAGE_BYTES: i32 = 4096;

impl Block<'_> {
    /// Address of the vector with a number in the block, so many rows further on; loads the stream's address if it has no
    /// register.
    pub fn address(&mut self, stream: u32, vector: usize, row: u8) -> MemoryOperand {
        let pointer = self.layout.pointers[stream as usize].unwrap_or_else(|| {
            self.machine.load_pointer(ADDRESS, ARGUMENTS, 8 * i64::from(stream));
            ADDRESS
        });
        let lanes = self.machine.isa.lanes();
        let Stream { element, row_bytes, .. } = self.code.streams[stream as usize];
        let row = i64::from(row) * i64::from(row_bytes);
        match element {
            Element::Float => indexed(pointer, INDEX, 4, (4 * lanes * vector) as i64 + row),
            Element::Bool => indexed(pointer, INDEX, 1, (lanes * vector) as i64 + row),
            Element::Wide => indexed(pointer, INDEX, 8, (4 * lanes * vector) as i64 + row),
            Element::RowFloat => at(pointer, row),
        }
    }

    /// Has the second-level cache fetch what lies as far ahead of a vector as the stream says. The first one would wait for
    /// memory in the lines that reads of the second one's need.
    pub fn fetch_ahead(&mut self, stream: u32, copy: usize) {
        let ahead_bytes = self.code.streams[stream as usize].ahead_bytes;
        if ahead_bytes != 0 {
            let vector = self.address(stream, copy, 0);
            self.machine.general(Instruction::with1(Opcode::Prefetcht1_m8, further(vector, ahead_bytes as i64)));
        }
    }

    /// Reads a vector of a stream, so many rows further on.
    pub fn load(&mut self, stream: u32, to: u8, copy: usize, row: u8) {
        let from = self.address(stream, copy, row);
        let padded = self.code.streams[stream as usize].padded;
        match (self.code.streams[stream as usize].element, self.inside.filter(|_| !padded)) {
            (Element::RowFloat, _) => self.machine.broadcast(to, from),
            (Element::Bool, None) => self.machine.load_bytes(to, from),
            (Element::Bool, Some(_)) => self.load_last_bytes(stream, to, from),
            (_, None) => self.machine.load(to, from),
            (_, Some(inside)) => self.machine.load_inside(to, from, inside),
        }
    }

    /// Reads the bytes of the last vector: as a whole where all of it is in one page of memory, for then what lies beyond
    /// the strip may be read as well and is of no account; else one by one.
    fn load_last_bytes(&mut self, stream: u32, to: u8, from: MemoryOperand) {
        let (apart, done) = (self.machine.asm.label(), self.machine.asm.label());
        let last = PAGE_BYTES - self.machine.isa.lanes() as i32;
        self.machine.general(Instruction::with2(Opcode::Lea_r64_m, ADDRESS, from));
        self.machine.general(Instruction::with2(Opcode::Mov_r64_rm64, BYTES, ADDRESS));
        self.machine.general(Instruction::with2(Opcode::And_rm64_imm32, BYTES, PAGE_BYTES - 1));
        self.machine.general(Instruction::with2(Opcode::Cmp_rm64_imm32, BYTES, last));
        self.machine.asm.jump(Opcode::Jg_rel32_64, apart);
        self.machine.load_bytes(to, at(ADDRESS, 0));
        self.machine.asm.jump(Opcode::Jmp_rel32_64, done);
        self.machine.asm.place(apart);
        let buffer = self.bytes_buffer(stream);
        self.copy_bytes(at(ADDRESS, 0), buffer, false);
        self.machine.load_bytes(to, buffer);
        self.machine.asm.place(done);
    }

    /// Writes words to a stream.
    pub fn store(&mut self, stream: u32, from: u8, copy: usize) {
        let to = self.address(stream, copy, 0);
        let padded = self.code.streams[stream as usize].padded;
        match (if padded { Lanes::All } else { self.lanes }, self.machine.isa) {
            (Lanes::All, _) => self.machine.store(to, from),
            (Lanes::First(count), _) => self.store_first(to, from, count),
            (Lanes::Counted, Isa::Avx512) => self.machine.store_inside(to, from),
            (Lanes::Counted, Isa::Avx2) => self.store_pieces(to, from),
        }
    }

    /// Writes so many lanes, in pieces on every processor: a masked store counts as one of a whole vector for the loads
    /// after it, and where results take the place of operands those of the next row would wait until it is in the cache.
    fn store_first(&mut self, to: MemoryOperand, mut from: u8, count: usize) {
        let work = self.take();
        self.temporaries.push(work);
        for (first, lanes) in binary_pieces(count) {
            self.machine.store_piece(further(to, 4 * first as i64), from, lanes as u8);
            if first + lanes < count {
                self.machine.exchange(lanes as u8, work, from);
                from = work;
            }
        }
    }

    /// Writes the lanes inside the strip as pieces of four, two and one: processors take many cycles for a masked store.
    fn store_pieces(&mut self, to: MemoryOperand, from: u8) {
        let work = self.take();
        self.temporaries.push(work);
        self.machine.general(Instruction::with2(Opcode::Lea_r64_m, ADDRESS, to));
        self.machine.copy(work, from);
        for lanes in [4u8, 2, 1] {
            let without = self.machine.asm.label();
            self.machine.general(Instruction::with2(Opcode::Mov_r64_rm64, BYTES, COUNT));
            self.machine.general(Instruction::with2(Opcode::And_rm64_imm32, BYTES, i32::from(lanes)));
            self.machine.asm.jump(Opcode::Je_rel32_64, without);
            self.machine.store_piece(at(ADDRESS, 0), work, lanes);
            if lanes > 1 {
                self.machine.exchange(lanes, work, work);
                self.machine.general(Instruction::with2(Opcode::Add_rm64_imm32, ADDRESS, 4 * i32::from(lanes)));
            }
            self.machine.asm.place(without);
        }
    }

    /// Writes a mask to a stream of bytes.
    pub fn store_mask(&mut self, stream: u32, from: u8, copy: usize) {
        let work = self.take();
        self.temporaries.push(work);
        let to = self.address(stream, copy, 0);
        match (self.lanes, self.machine.isa) {
            (Lanes::All, _) => return self.machine.store_mask(to, from, work),
            (Lanes::First(count), Isa::Avx2) => {
                self.machine.pack_mask(work, from);
                for (first, bytes) in binary_pieces(count) {
                    self.machine.store_bytes(further(to, first as i64), work, first, bytes);
                }
                return;
            }
            _ => {}
        }
        let buffer = self.bytes_buffer(stream);
        self.machine.store_mask(buffer, from, work);
        self.copy_bytes(to, buffer, true);
    }

    fn bytes_buffer(&self, stream: u32) -> MemoryOperand {
        let earlier = self.code.streams[..stream as usize].iter().filter(|s| s.element == Element::Bool).count();
        self.frame(self.layout.first_bytes + earlier)
    }

    /// Copies as many bytes as the last vector has points, the last one first, between a stream and the frame.
    fn copy_bytes(&mut self, stream: MemoryOperand, buffer: MemoryOperand, store: bool) {
        let again = self.machine.asm.label();
        self.machine.general(Instruction::with2(Opcode::Lea_r64_m, ADDRESS, stream));
        self.machine.general(match self.lanes {
            Lanes::First(count) => Instruction::with2(Opcode::Mov_r32_imm32, Register::ECX, count as i32),
            _ => Instruction::with2(Opcode::Mov_r64_rm64, BYTES, COUNT),
        });
        self.machine.asm.place(again);
        let in_stream = indexed(ADDRESS, BYTES, 1, -1);
        let in_buffer = indexed(buffer.base, BYTES, 1, buffer.displacement - 1);
        let (from, to) = if store { (in_buffer, in_stream) } else { (in_stream, in_buffer) };
        self.machine.general(Instruction::with2(Opcode::Mov_r8_rm8, BYTE, from));
        self.machine.general(Instruction::with2(Opcode::Mov_rm8_r8, to, BYTE));
        self.machine.general(Instruction::with1(Opcode::Dec_rm64, BYTES));
        self.machine.asm.jump(Opcode::Jne_rel32_64, again);
    }
}

/// Fewer than sixteen things in pieces of eight, four, two and one: where each begins, and its size.
fn binary_pieces(count: usize) -> impl Iterator<Item = (usize, usize)> {
    [8, 4, 2, 1].into_iter().filter(move |size| count & size != 0).map(move |size| (count & !(2 * size - 1), size))
}

/// The memory so many bytes further on.
fn further(from: MemoryOperand, bytes: i64) -> MemoryOperand {
    MemoryOperand { displacement: from.displacement + bytes, ..from }
}
