//! Lines of machine code and the constants behind them, as bytes that run at any address.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// One line of machine code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    /// An instruction that is complete.
    Plain(Instruction),
    /// An instruction that reads the pool at an offset in bytes.
    Pooled(Instruction, usize),
    /// A jump.
    Jump(Code, Label),
    /// Where a label is.
    Place(Label),
}

/// Machine code under construction.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The lines.
    pub lines: Vec<Line>,
    pool: Vec<u8>,
    labels: usize,
}

/// Alignment of the pool, bytes: a cache line, so that no constant lies in two.
const POOL_ALIGNMENT: usize = 64;

impl Assembler {
    /// A new label.
    pub fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    /// Puts a label here.
    pub fn place(&mut self, label: Label) {
        self.lines.push(Line::Place(label));
    }

    /// Appends a jump.
    pub fn jump(&mut self, code: Code, to: Label) {
        self.lines.push(Line::Jump(code, to));
    }

    /// Appends an instruction; one that was made with [`pool_operand`] reads the pool at its displacement.
    pub fn push(&mut self, instruction: Instruction) {
        let pooled = instruction.memory_base() == Register::RIP;
        let offset = instruction.memory_displacement64() as usize;
        self.lines.push(if pooled { Line::Pooled(instruction, offset) } else { Line::Plain(instruction) });
    }

    /// Offset of a constant in the pool; equal ones are kept once. The length is a power of two.
    pub fn constant(&mut self, bytes: &[u8]) -> usize {
        let known = self.pool.chunks_exact(bytes.len()).position(|c| c == bytes).map(|k| k * bytes.len());
        known.unwrap_or_else(|| {
            self.pool.resize(self.pool.len().next_multiple_of(bytes.len()), 0);
            self.pool.extend_from_slice(bytes);
            self.pool.len() - bytes.len()
        })
    }

    /// The machine code, and behind it the pool.
    pub fn assemble(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(64);
        let mut places = vec![0; self.labels];
        // (where the four bytes stand, where their instruction ends, what they point to)
        let (mut jumps, mut constants) = (vec![], vec![]);
        let mut at = 0;
        for line in &self.lines {
            match line {
                Line::Plain(instruction) => at += encode(&mut encoder, instruction, at),
                Line::Pooled(instruction, offset) => {
                    let len = encode(&mut encoder, &relative(instruction, at), at);
                    let displacement = encoder.get_constant_offsets().displacement_offset();
                    constants.push((at + displacement, at + len, *offset));
                    at += len;
                }
                Line::Jump(code, label) => {
                    let jump = Instruction::with_branch(*code, at as u64).expect("the code is a jump's");
                    at += encode(&mut encoder, &jump, at);
                    jumps.push((at - 4, at, *label));
                }
                Line::Place(label) => places[label.0] = at,
            }
        }
        let mut bytes = encoder.take_buffer();
        bytes.resize(bytes.len().next_multiple_of(POOL_ALIGNMENT), 0);
        let pool = bytes.len();
        bytes.extend_from_slice(&self.pool);
        let targets = jumps.into_iter().map(|(field, end, label)| (field, end, places[label.0]));
        for (field, end, target) in targets.chain(constants.into_iter().map(|(f, e, offset)| (f, e, pool + offset))) {
            let distance = target as i32 - end as i32;
            bytes[field..field + 4].copy_from_slice(&distance.to_le_bytes());
        }
        bytes
    }
}

fn encode(encoder: &mut Encoder, instruction: &Instruction, at: usize) -> usize {
    encoder.encode(instruction, at as u64).unwrap_or_else(|e| panic!("instructions are well formed: {e}"))
}

/// The instruction with a displacement that can be encoded, to be replaced.
fn relative(instruction: &Instruction, at: usize) -> Instruction {
    let mut instruction = *instruction;
    instruction.set_memory_displacement64(at as u64);
    instruction
}

/// The pool at an offset, as an operand for [`Assembler::push`].
pub(crate) fn pool_operand(offset: usize, broadcast: bool) -> MemoryOperand {
    MemoryOperand::new(Register::RIP, Register::None, 1, offset as i64, 8, broadcast, Register::None)
}

/// `[base + offset]`
pub(crate) fn at(base: Register, offset: i64) -> MemoryOperand {
    MemoryOperand::new(base, Register::None, 1, offset, 1, false, Register::None)
}

/// `[base + index · scale + offset]`
pub(crate) fn indexed(base: Register, index: Register, scale: u32, offset: i64) -> MemoryOperand {
    MemoryOperand::new(base, index, scale, offset, 1, false, Register::None)
}
