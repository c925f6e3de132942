//! Vector instructions of AVX2 and AVX-512F by what they do.
//!
//! Masks are vectors on both: AVX-512's mask registers are used within one operation, and for the strip's last vector.

use super::assembler::{Assembler, at};
use crate::simd::{Op1, Op2, Relation};
use iced_x86::{Code, Instruction, MemoryOperand, Register};

/// The instruction sets strips are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 256 bits, 16 registers.
    Avx2,
    /// 512 bits, 32 registers.
    Avx512,
}

impl Isa {
    /// f32 in a vector.
    pub fn lanes(self) -> usize {
        self.choose(8, 16)
    }

    /// Bytes of a vector.
    pub fn bytes(self) -> usize {
        4 * self.lanes()
    }

    /// Vector registers.
    pub fn registers(self) -> usize {
        self.choose(16, 32)
    }

    fn choose<T>(self, avx2: T, avx512: T) -> T {
        match self {
            Isa::Avx2 => avx2,
            Isa::Avx512 => avx512,
        }
    }
}

/// Where an operand is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In a vector register.
    Register(u8),
    /// In memory: a whole vector, or with AVX-512 one element for all lanes.
    Memory(MemoryOperand),
}

/// Which product a fused multiply-add overwrites, in the machine's own numbering of operands (1 is overwritten).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fused {
    /// `1 · 3 + 2`
    F132,
    /// `2 · 1 + 3`
    F213,
    /// `2 · 3 + 1`
    F231,
}

/// Mask register of the lanes inside the strip.
const INSIDE: Register = Register::K7;

/// Mask register used within one operation.
const TEMPORARY: Register = Register::K1;

/// Emits vector instructions.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The instruction set.
    pub isa: Isa,
    /// Where they go.
    pub asm: Assembler,
}

fn numbered(first: Register, n: u8) -> Register {
    Register::try_from(first as usize + usize::from(n)).expect("register numbers are below 32")
}

fn made(instruction: Result<Instruction, iced_x86::IcedError>) -> Instruction {
    instruction.expect("operands are as many as the code takes")
}

impl Machine {
    /// A machine of an instruction set.
    pub fn new(isa: Isa) -> Machine {
        Machine { isa, asm: Assembler::default() }
    }

    fn vector(&self, n: u8) -> Register {
        numbered(self.isa.choose(Register::YMM0, Register::ZMM0), n)
    }

    /// The lower half of a vector register.
    fn half(&self, n: u8) -> Register {
        numbered(self.isa.choose(Register::XMM0, Register::YMM0), n)
    }

    fn two(&mut self, code: Code, to: Register, x: Register) {
        self.asm.push(made(Instruction::with2(code, to, x)));
    }

    fn two_by(&mut self, code: Code, to: Register, x: Register, immediate: u8) {
        self.asm.push(made(Instruction::with3(code, to, x, i32::from(immediate))));
    }

    fn three(&mut self, code: Code, to: Register, x: Register, y: Place) {
        let instruction = match y {
            Place::Register(y) => Instruction::with3(code, to, x, self.vector(y)),
            Place::Memory(y) => Instruction::with3(code, to, x, y),
        };
        self.asm.push(made(instruction));
    }

    fn three_by(&mut self, code: Code, to: Register, x: Register, y: Place, immediate: u8) {
        let instruction = match y {
            Place::Register(y) => Instruction::with4(code, to, x, self.vector(y), i32::from(immediate)),
            Place::Memory(y) => Instruction::with4(code, to, x, y, i32::from(immediate)),
        };
        self.asm.push(made(instruction));
    }

    /// `to = x`
    pub fn copy(&mut self, to: u8, x: u8) {
        let code = self.isa.choose(Code::VEX_Vmovaps_ymm_ymmm256, Code::EVEX_Vmovaps_zmm_k1z_zmmm512);
        self.two(code, self.vector(to), self.vector(x));
    }

    /// A whole vector from memory, or one element in all lanes.
    pub fn load(&mut self, to: u8, from: MemoryOperand) {
        if from.is_broadcast {
            return self.broadcast(to, MemoryOperand { is_broadcast: false, ..from });
        }
        let code = self.isa.choose(Code::VEX_Vmovups_ymm_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512);
        self.asm.push(made(Instruction::with2(code, self.vector(to), from)));
    }

    /// One f32 in all lanes.
    pub fn broadcast(&mut self, to: u8, from: MemoryOperand) {
        let code = self.isa.choose(Code::VEX_Vbroadcastss_ymm_m32, Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32);
        self.asm.push(made(Instruction::with2(code, self.vector(to), from)));
    }

    /// The low 32 bits of a general register in every lane.
    pub fn broadcast_word(&mut self, to: u8, from: Register) {
        match self.isa {
            Isa::Avx2 => {
                let low = self.half(to);
                self.two(Code::VEX_Vmovd_xmm_rm32, low, from);
                self.two(Code::VEX_Vpbroadcastd_ymm_xmmm32, self.vector(to), low);
            }
            Isa::Avx512 => self.two(Code::EVEX_Vpbroadcastd_zmm_k1z_r32, self.vector(to), from),
        }
    }

    /// A whole vector to memory.
    pub fn store(&mut self, to: MemoryOperand, x: u8) {
        let code = self.isa.choose(Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm);
        self.asm.push(made(Instruction::with2(code, to, self.vector(x))));
    }

    /// Lane 0 to memory, as f64 or f32.
    pub fn store_lane(&mut self, to: MemoryOperand, x: u8, wide: bool) {
        let code = match (self.isa, wide) {
            (Isa::Avx2, false) => Code::VEX_Vmovss_m32_xmm,
            (Isa::Avx2, true) => Code::VEX_Vmovsd_m64_xmm,
            (Isa::Avx512, false) => Code::EVEX_Vmovss_m32_k1_xmm,
            (Isa::Avx512, true) => Code::EVEX_Vmovsd_m64_k1_xmm,
        };
        self.asm.push(made(Instruction::with2(code, to, numbered(Register::XMM0, x))));
    }

    /// The lanes of a vector that are inside the strip; the others are 0.
    pub fn load_inside(&mut self, to: u8, from: MemoryOperand, inside: u8) {
        let to = self.vector(to);
        let instruction = match self.isa {
            Isa::Avx2 => made(Instruction::with3(Code::VEX_Vmaskmovps_ymm_ymm_m256, to, self.vector(inside), from)),
            Isa::Avx512 => zeroing(made(Instruction::with2(Code::EVEX_Vmovups_zmm_k1z_zmmm512, to, from)), INSIDE),
        };
        self.asm.push(instruction);
    }

    /// Writes the lanes that are inside the strip; AVX-512.
    pub fn store_inside(&mut self, to: MemoryOperand, x: u8) {
        let x = self.vector(x);
        self.asm.push(masked(made(Instruction::with2(Code::EVEX_Vmovups_zmmm512_k1z_zmm, to, x)), INSIDE));
    }

    /// Writes the first lanes: eight (AVX-512, which has no narrower vectors but stores parts of its own), four, two or one.
    pub fn store_piece(&mut self, to: MemoryOperand, x: u8, lanes: u8) {
        let (all, low) = (self.vector(x), numbered(Register::XMM0, x));
        self.asm.push(made(match (lanes, self.isa) {
            (8, _) => Instruction::with3(Code::EVEX_Vextractf64x4_ymmm256_k1z_zmm_imm8, to, all, 0),
            (4, Isa::Avx512) => Instruction::with3(Code::EVEX_Vextractf32x4_xmmm128_k1z_zmm_imm8, to, all, 0),
            (4, Isa::Avx2) => Instruction::with2(Code::VEX_Vmovups_xmmm128_xmm, to, low),
            _ => return self.store_lane(to, x, lanes == 2),
        }));
    }

    /// Bytes widened to i32.
    pub fn load_bytes(&mut self, to: u8, from: MemoryOperand) {
        let code = self.isa.choose(Code::VEX_Vpmovzxbd_ymm_xmmm64, Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128);
        self.asm.push(made(Instruction::with2(code, self.vector(to), from)));
    }

    /// The lanes of a mask as bytes 0 and 1 of a register; AVX2.
    pub fn pack_mask(&mut self, to: u8, x: u8) {
        let (low, packed) = (numbered(Register::XMM0, x), numbered(Register::XMM0, to));
        self.two_by(Code::VEX_Vextractf128_xmmm128_ymm_imm8, packed, self.vector(x), 1);
        self.asm.push(made(Instruction::with3(Code::VEX_Vpackssdw_xmm_xmm_xmmm128, packed, low, packed)));
        self.asm.push(made(Instruction::with3(Code::VEX_Vpacksswb_xmm_xmm_xmmm128, packed, packed, packed)));
        self.two(Code::VEX_Vpabsb_xmm_xmmm128, packed, packed);
    }

    /// Writes bytes of a register from `first` on: four, two or one, `first` a multiple of that; AVX2.
    pub fn store_bytes(&mut self, to: MemoryOperand, x: u8, first: usize, bytes: usize) {
        let code = match bytes {
            4 => Code::VEX_Vpextrd_rm32_xmm_imm8,
            2 => Code::VEX_Vpextrw_r32m16_xmm_imm8,
            _ => Code::VEX_Vpextrb_r32m8_xmm_imm8,
        };
        let x = numbered(Register::XMM0, x);
        self.asm.push(made(Instruction::with3(code, to, x, (first / bytes) as i32)));
    }

    /// A mask as bytes 0 and 1; `work` is overwritten.
    pub fn store_mask(&mut self, to: MemoryOperand, x: u8, work: u8) {
        match self.isa {
            Isa::Avx2 => {
                self.pack_mask(work, x);
                self.asm.push(made(Instruction::with2(Code::VEX_Vmovq_xmmm64_xmm, to, numbered(Register::XMM0, work))));
            }
            Isa::Avx512 => {
                self.two_by(Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, self.vector(work), self.vector(x), 31);
                self.asm.push(made(Instruction::with2(Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, to, self.vector(work))));
            }
        }
    }

    /// Makes a mask of the first lanes, as many as the low bits of a register of the processor's say.
    pub fn set_inside(&mut self, to: u8, count: Register, work: Register) {
        match self.isa {
            Isa::Avx2 => {
                let ramp: Vec<u8> = [[0xFF; 32], [0; 32]].concat();
                let table = self.asm.constant(&ramp);
                let pool = super::assembler::pool_operand(table, false);
                self.asm.push(made(Instruction::with2(Code::Lea_r64_m, work, pool)));
                self.asm.push(made(Instruction::with1(Code::Neg_rm64, count)));
                self.load(to, super::assembler::indexed(work, count, 4, 32));
                self.asm.push(made(Instruction::with1(Code::Neg_rm64, count)));
            }
            Isa::Avx512 => {
                self.asm.push(made(Instruction::with2(Code::Mov_r32_imm32, Register::EDX, 1)));
                self.asm.push(made(Instruction::with2(Code::Mov_r64_rm64, Register::RCX, count)));
                self.asm.push(made(Instruction::with2(Code::Shl_rm32_CL, Register::EDX, Register::CL)));
                self.asm.push(made(Instruction::with1(Code::Dec_rm32, Register::EDX)));
                self.asm.push(made(Instruction::with2(Code::VEX_Kmovw_kr_r32, INSIDE, Register::EDX)));
                self.mask_of(to, INSIDE);
            }
        }
    }

    /// Makes a mask of so many first lanes.
    pub fn set_first(&mut self, to: u8, count: usize) {
        match self.isa {
            Isa::Avx2 => {
                let mask: Vec<u8> = (0..32).map(|byte| if byte < 4 * count { 0xFF } else { 0 }).collect();
                let table = self.asm.constant(&mask);
                self.load(to, super::assembler::pool_operand(table, false));
            }
            Isa::Avx512 => {
                let bits = (1 << count) - 1;
                self.asm.push(made(Instruction::with2(Code::Mov_r32_imm32, Register::EDX, bits)));
                self.two(Code::VEX_Kmovw_kr_r32, INSIDE, Register::EDX);
                self.mask_of(to, INSIDE);
            }
        }
    }

    /// All bits of the lanes a mask register has, none of the others.
    fn mask_of(&mut self, to: u8, mask: Register) {
        let to = self.vector(to);
        let code = Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8;
        self.asm.push(zeroing(made(Instruction::with4(code, to, to, to, 0xFF)), mask));
    }

    /// An operation on one vector.
    pub fn op1(&mut self, op: Op1, to: u8, x: u8) {
        let isa = self.isa;
        let round = isa.choose(Code::VEX_Vroundps_ymm_ymmm256_imm8, Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae);
        let round_wide =
            isa.choose(Code::VEX_Vroundpd_ymm_ymmm256_imm8, Code::EVEX_Vrndscalepd_zmm_k1z_zmmm512b64_imm8_sae);
        let widen = isa.choose(Code::VEX_Vcvtps2pd_ymm_xmmm128, Code::EVEX_Vcvtps2pd_zmm_k1z_ymmm256b32_sae);
        let (vector, from) = (self.vector(to), self.vector(x));
        // Bit 3 of a rounding immediate keeps the inexact flag clear.
        match op {
            Op1::Sqrt => {
                let code = isa.choose(Code::VEX_Vsqrtps_ymm_ymmm256, Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er);
                self.two(code, vector, from);
            }
            Op1::Round => self.two_by(round, vector, from, 0x8),
            Op1::Floor => self.two_by(round, vector, from, 0x9),
            Op1::Ceil => self.two_by(round, vector, from, 0xA),
            Op1::RoundWide => self.two_by(round_wide, vector, from, 0x8),
            Op1::FloorWide => self.two_by(round_wide, vector, from, 0x9),
            Op1::ShiftLeft(by) => {
                let code = isa.choose(Code::VEX_Vpslld_ymm_ymm_imm8, Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8);
                self.two_by(code, vector, from, by);
            }
            Op1::ShiftRight(by) => {
                let code = isa.choose(Code::VEX_Vpsrad_ymm_ymm_imm8, Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8);
                self.two_by(code, vector, from, by);
            }
            Op1::FloatOfInt => {
                let code = isa.choose(Code::VEX_Vcvtdq2ps_ymm_ymmm256, Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er);
                self.two(code, vector, from);
            }
            Op1::WidenLow => self.two(widen, vector, self.half(x)),
            Op1::WidenHigh => {
                let code =
                    isa.choose(Code::VEX_Vextractf128_xmmm128_ymm_imm8, Code::EVEX_Vextractf64x4_ymmm256_k1z_zmm_imm8);
                self.two_by(code, self.half(to), from, 1);
                self.two(widen, vector, self.half(to));
            }
            Op1::Narrow => {
                let code = isa.choose(Code::VEX_Vcvtpd2ps_xmm_ymmm256, Code::EVEX_Vcvtpd2ps_ymm_k1z_zmmm512b64_er);
                self.two(code, self.half(to), from);
            }
        }
    }

    /// An operation on two vectors.
    pub fn op2(&mut self, op: Op2, to: u8, x: u8, y: Place) {
        let (vector, left) = (self.vector(to), self.vector(x));
        match op {
            Op2::Compare(relation) => self.compare(relation, to, left, y),
            Op2::GreaterInt => match self.isa {
                Isa::Avx2 => self.three(Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, vector, left, y),
                Isa::Avx512 => {
                    self.three(Code::EVEX_Vpcmpgtd_kr_k1_zmm_zmmm512b32, TEMPORARY, left, y);
                    self.mask_of(to, TEMPORARY);
                }
            },
            Op2::Join => {
                let Place::Register(y) = y else { unreachable!("halves are joined in registers") };
                let code = self.isa.choose(
                    Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8,
                    Code::EVEX_Vinsertf64x4_zmm_k1z_zmm_ymmm256_imm8,
                );
                self.asm.push(made(Instruction::with4(code, vector, left, self.half(y), 1)));
            }
            _ => self.three(self.isa.choose(avx2_code(op), avx512_code(op)), vector, left, y),
        }
    }

    fn compare(&mut self, relation: Relation, to: u8, x: Register, y: Place) {
        let immediate = immediate(relation);
        match self.isa {
            Isa::Avx2 => self.three_by(Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8, self.vector(to), x, y, immediate),
            Isa::Avx512 => {
                self.three_by(Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae, TEMPORARY, x, y, immediate);
                self.mask_of(to, TEMPORARY);
            }
        }
    }

    /// Fused multiply-add; `to` is operand 1.
    pub fn fused(&mut self, form: Fused, to: u8, second: u8, third: Place) {
        let code = match form {
            Fused::F132 => {
                self.isa.choose(Code::VEX_Vfmadd132ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er)
            }
            Fused::F213 => {
                self.isa.choose(Code::VEX_Vfmadd213ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er)
            }
            Fused::F231 => {
                self.isa.choose(Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er)
            }
        };
        self.three(code, self.vector(to), self.vector(second), third);
    }

    /// `to = mask ? x : y`, AVX2.
    pub fn blend(&mut self, to: u8, mask: u8, x: Place, y: u8) {
        let (to, mask, y) = (self.vector(to), self.vector(mask), self.vector(y));
        let code = Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm;
        let instruction = match x {
            Place::Register(x) => Instruction::with4(code, to, y, self.vector(x), mask),
            Place::Memory(x) => Instruction::with4(code, to, y, x, mask),
        };
        self.asm.push(made(instruction));
    }

    /// `mask = mask ? x : y`, AVX-512; with `swapped`, `mask = mask ? y : x`.
    pub fn blend_bits(&mut self, mask: u8, x: u8, y: Place, swapped: bool) {
        // Bit `4·mask + 2·x + y` of the immediate is the result.
        let table = if swapped { 0b1010_1100 } else { 0b1100_1010 };
        let code = Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8;
        self.three_by(code, self.vector(mask), self.vector(x), y, table);
    }

    /// Lanes swapped with those `distance` away.
    pub fn exchange(&mut self, distance: u8, to: u8, x: u8) {
        let (to, x, y) = (self.vector(to), self.vector(x), Place::Register(x));
        let within =
            self.isa.choose(Code::VEX_Vshufps_ymm_ymm_ymmm256_imm8, Code::EVEX_Vshufps_zmm_k1z_zmm_zmmm512b32_imm8);
        let across = Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8;
        match (distance, self.isa) {
            (8, _) => self.three_by(across, to, x, y, 0x4E),
            (4, Isa::Avx512) => self.three_by(across, to, x, y, 0xB1),
            (4, Isa::Avx2) => self.three_by(Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, to, x, y, 1),
            (2, _) => self.three_by(within, to, x, y, 0x4E),
            _ => self.three_by(within, to, x, y, 0xB1),
        }
    }

    /// All bits 0.
    pub fn clear(&mut self, to: u8) {
        self.op2(Op2::Xor, to, to, Place::Register(to));
    }

    /// An instruction on general registers.
    pub fn general(&mut self, instruction: Result<Instruction, iced_x86::IcedError>) {
        self.asm.push(made(instruction));
    }

    /// `to = [base + offset]`, 64 bits.
    pub fn load_pointer(&mut self, to: Register, base: Register, offset: i64) {
        self.general(Instruction::with2(Code::Mov_r64_rm64, to, at(base, offset)));
    }

    /// Leaves the upper halves of vector registers clean, as callers expect.
    pub fn leave_vectors(&mut self) {
        self.asm.push(Instruction::with(Code::VEX_Vzeroupper));
    }
}

fn masked(mut instruction: Instruction, mask: Register) -> Instruction {
    instruction.set_op_mask(mask);
    instruction
}

fn zeroing(instruction: Instruction, mask: Register) -> Instruction {
    let mut instruction = masked(instruction, mask);
    instruction.set_zeroing_masking(true);
    instruction
}

/// The immediate of `cmpps` that does not signal for quiet NaN.
fn immediate(relation: Relation) -> u8 {
    match relation {
        Relation::Eq => 0x00,
        Relation::Lt => 0x11,
        Relation::Le => 0x12,
        Relation::Unordered => 0x03,
        Relation::Ne => 0x04,
        Relation::UnorderedOrLess => 0x19,
        Relation::Ge => 0x1D,
        Relation::Gt => 0x1E,
    }
}

fn avx2_code(op: Op2) -> Code {
    match op {
        Op2::Add => Code::VEX_Vaddps_ymm_ymm_ymmm256,
        Op2::Sub => Code::VEX_Vsubps_ymm_ymm_ymmm256,
        Op2::Mul => Code::VEX_Vmulps_ymm_ymm_ymmm256,
        Op2::Div => Code::VEX_Vdivps_ymm_ymm_ymmm256,
        Op2::Greater => Code::VEX_Vmaxps_ymm_ymm_ymmm256,
        Op2::Less => Code::VEX_Vminps_ymm_ymm_ymmm256,
        Op2::And => Code::VEX_Vandps_ymm_ymm_ymmm256,
        Op2::Or => Code::VEX_Vorps_ymm_ymm_ymmm256,
        Op2::Xor => Code::VEX_Vxorps_ymm_ymm_ymmm256,
        Op2::AddInt => Code::VEX_Vpaddd_ymm_ymm_ymmm256,
        Op2::SubInt => Code::VEX_Vpsubd_ymm_ymm_ymmm256,
        Op2::AddWide => Code::VEX_Vaddpd_ymm_ymm_ymmm256,
        Op2::MulWide => Code::VEX_Vmulpd_ymm_ymm_ymmm256,
        Op2::Compare(_) | Op2::GreaterInt | Op2::Join => unreachable!("emitted by themselves"),
    }
}

fn avx512_code(op: Op2) -> Code {
    match op {
        Op2::Add => Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
        Op2::Sub => Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er,
        Op2::Mul => Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er,
        Op2::Div => Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er,
        Op2::Greater => Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
        Op2::Less => Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae,
        Op2::And => Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32,
        Op2::Or => Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32,
        Op2::Xor => Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32,
        Op2::AddInt => Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32,
        Op2::SubInt => Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32,
        Op2::AddWide => Code::EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er,
        Op2::MulWide => Code::EVEX_Vmulpd_zmm_k1z_zmm_zmmm512b64_er,
        Op2::Compare(_) | Op2::GreaterInt | Op2::Join => unreachable!("emitted by themselves"),
    }
}
