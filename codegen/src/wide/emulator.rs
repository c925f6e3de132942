//! The instructions strips are made of, carried out one by one: AVX-512 is tested on machines without it, and the
//! emulator itself on AVX2 against the processor.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// What strips may ask of a processor.
const FEATURES: [CpuidFeature; 8] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL386,
    CpuidFeature::X64,
    CpuidFeature::SSE,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::FMA,
    CpuidFeature::AVX512F,
];

type Lanes = [u32; 16];

/// Registers of a processor; memory is the process's own.
pub(crate) struct Emulator {
    general: [u64; 16],
    vectors: [Lanes; 32],
    masks: [u16; 8],
    /// What the last comparison or arithmetic would compare to 0.
    sign: std::cmp::Ordering,
}

impl Emulator {
    /// Calls a function with arguments in the registers of the System V convention.
    ///
    /// # Safety
    /// What the code reads and writes is valid memory of this process.
    pub unsafe fn call(code: &[u8], arguments: [u64; 2]) {
        let mut stack = vec![0u64; 4096];
        let mut emulator = Emulator {
            general: [0x55; 16],
            vectors: [[0x7FC0_1234; 16]; 32],
            masks: [0; 8],
            sign: std::cmp::Ordering::Equal,
        };
        let top = stack.as_mut_ptr() as u64 + 8 * 4000;
        *emulator.general_mut(Register::RSP) = top;
        *emulator.general_mut(Register::RDI) = arguments[0];
        *emulator.general_mut(Register::RSI) = arguments[1];
        let base = code.as_ptr() as u64;
        let mut decoder = Decoder::with_ip(64, code, base, DecoderOptions::NONE);
        let mut ip = base;
        loop {
            decoder.set_position((ip - base) as usize).expect("jumps stay inside the code");
            decoder.set_ip(ip);
            let instruction = decoder.decode();
            assert_ne!(instruction.code(), Code::INVALID, "only whole instructions are reached");
            let known = |f: &CpuidFeature| FEATURES.contains(f);
            assert!(instruction.cpuid_features().iter().all(known), "{:?} needs an extension", instruction.code());
            ip = instruction.next_ip();
            match instruction.mnemonic() {
                Mnemonic::Ret => break,
                Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 => {}
                Mnemonic::Jmp => ip = instruction.near_branch_target(),
                Mnemonic::Je | Mnemonic::Jne | Mnemonic::Jg | Mnemonic::Jle => {
                    let taken = match instruction.mnemonic() {
                        Mnemonic::Je => emulator.sign.is_eq(),
                        Mnemonic::Jne => emulator.sign.is_ne(),
                        Mnemonic::Jg => emulator.sign.is_gt(),
                        _ => emulator.sign.is_le(),
                    };
                    ip = if taken { instruction.near_branch_target() } else { ip };
                }
                // SAFETY: as promised by the caller.
                _ => unsafe { emulator.step(&instruction) },
            }
        }
        assert_eq!(*emulator.general_mut(Register::RSP), top, "the stack is left as it was found");
        for kept in [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15] {
            assert_eq!(*emulator.general_mut(kept), 0x55, "{kept:?} is kept");
        }
    }

    fn general_mut(&mut self, register: Register) -> &mut u64 {
        &mut self.general[register.full_register() as usize - Register::RAX as usize]
    }

    fn general(&self, register: Register) -> u64 {
        let full = self.general[register.full_register() as usize - Register::RAX as usize];
        match register.size() {
            8 => full,
            4 => full & 0xFFFF_FFFF,
            _ => full & 0xFF,
        }
    }

    fn set_general(&mut self, register: Register, value: u64) {
        let kept = if register.size() == 1 { *self.general_mut(register) & !0xFF } else { 0 };
        let value = match register.size() {
            8 => value,
            4 => value & 0xFFFF_FFFF,
            _ => value & 0xFF,
        };
        *self.general_mut(register) = kept | value;
    }

    fn address(&self, i: &Instruction) -> u64 {
        if i.memory_base() == Register::RIP {
            return i.memory_displacement64();
        }
        let part = |r: Register| if r == Register::None { 0 } else { self.general(r) };
        let index = part(i.memory_index()).wrapping_mul(i.memory_index_scale().into());
        part(i.memory_base()).wrapping_add(index).wrapping_add(i.memory_displacement64())
    }

    unsafe fn read<T: Copy>(address: u64) -> T {
        // SAFETY: the caller's code reads valid memory.
        unsafe { (address as *const T).read_unaligned() }
    }

    unsafe fn write<T>(address: u64, value: T) {
        // SAFETY: the caller's code writes valid memory.
        unsafe { (address as *mut T).write_unaligned(value) }
    }

    /// A scalar operand.
    unsafe fn scalar(&self, i: &Instruction, operand: u32) -> u64 {
        match i.op_kind(operand) {
            OpKind::Register => self.general(i.op_register(operand)),
            OpKind::Memory if i.op_register(0).size() == 1 => {
                // SAFETY: see `read`.
                u64::from(unsafe { Self::read::<u8>(self.address(i)) })
            }
            // SAFETY: see `read`.
            OpKind::Memory => unsafe { Self::read(self.address(i)) },
            _ => i.immediate(operand),
        }
    }

    fn number(register: Register) -> usize {
        let first = match register.size() {
            16 => Register::XMM0,
            32 => Register::YMM0,
            _ => Register::ZMM0,
        };
        register as usize - first as usize
    }

    /// A vector operand of so many 32-bit lanes; lanes that a mask excludes are not read from memory.
    unsafe fn vector(&self, i: &Instruction, operand: u32, lanes: usize, mask: u16) -> Lanes {
        if i.op_kind(operand) == OpKind::Register {
            return self.vectors[Self::number(i.op_register(operand))];
        }
        let address = self.address(i);
        let mut out = [0; 16];
        for (k, lane) in out.iter_mut().enumerate().take(lanes).filter(|(k, _)| mask & (1 << k) != 0) {
            let at = if i.is_broadcast() { address } else { address + 4 * k as u64 };
            // SAFETY: see `read`.
            *lane = unsafe { Self::read(at) };
        }
        out
    }

    fn mask(&self, i: &Instruction) -> u16 {
        match i.op_mask() {
            Register::None => u16::MAX,
            k => self.masks[k as usize - Register::K0 as usize],
        }
    }

    /// Writes a vector register: lanes beyond its size become 0, masked ones 0 or what they were.
    fn set_vector(&mut self, i: &Instruction, value: Lanes) {
        let register = i.op_register(0);
        let (number, lanes, mask) = (Self::number(register), register.size() / 4, self.mask(i));
        for (k, (old, new)) in self.vectors[number].iter_mut().zip(value).enumerate() {
            *old = match (k < lanes, mask & (1 << k) != 0) {
                (true, true) => new,
                (true, false) if !i.zeroing_masking() => *old,
                _ => 0,
            };
        }
    }

    fn set_mask_or_vector(&mut self, i: &Instruction, lanes: usize, holds: impl Fn(usize) -> bool) {
        let register = i.op_register(0);
        if register.is_k() {
            let bits = (0..lanes).filter(|&k| holds(k)).fold(0, |set, k| set | 1 << k);
            self.masks[register as usize - Register::K0 as usize] = bits;
        } else {
            self.set_vector(i, std::array::from_fn(|k| if holds(k) { u32::MAX } else { 0 }));
        }
    }

    /// # Safety
    /// As for [`call`](Self::call).
    unsafe fn step(&mut self, i: &Instruction) {
        // SAFETY: as promised by the caller.
        unsafe {
            if self.general_step(i) || self.move_step(i) {
                return;
            }
            self.compute_step(i);
        }
    }

    /// Instructions on general registers; whether this was one.
    unsafe fn general_step(&mut self, i: &Instruction) -> bool {
        let to = i.op0_register();
        // SAFETY: as promised by the caller of `call`.
        unsafe {
            match i.mnemonic() {
                Mnemonic::Push => {
                    let rsp = self.general(Register::RSP) - 8;
                    *self.general_mut(Register::RSP) = rsp;
                    Self::write(rsp, self.general(to));
                }
                Mnemonic::Pop => {
                    let rsp = self.general(Register::RSP);
                    self.set_general(to, Self::read(rsp));
                    *self.general_mut(Register::RSP) = rsp + 8;
                }
                Mnemonic::Mov if i.op0_kind() == OpKind::Memory => {
                    assert_eq!(i.op1_register().size(), 1, "only bytes are stored");
                    Self::write(self.address(i), self.general(i.op1_register()) as u8);
                }
                Mnemonic::Mov => {
                    let value = self.scalar(i, 1);
                    self.set_general(to, value);
                }
                Mnemonic::Lea => self.set_general(to, self.address(i)),
                Mnemonic::Kmovw => {
                    self.masks[to as usize - Register::K0 as usize] = self.general(i.op1_register()) as u16
                }
                Mnemonic::Add | Mnemonic::Sub | Mnemonic::And | Mnemonic::Xor | Mnemonic::Shl | Mnemonic::Cmp => {
                    let (x, y) = (self.general(to), self.scalar(i, 1));
                    let value = match i.mnemonic() {
                        Mnemonic::Add => x.wrapping_add(y),
                        Mnemonic::And => x & y,
                        Mnemonic::Xor => x ^ y,
                        Mnemonic::Shl => x << (y & 31),
                        _ => x.wrapping_sub(y),
                    };
                    self.sign = (value as i64).cmp(&0);
                    if i.mnemonic() != Mnemonic::Cmp {
                        self.set_general(to, value);
                    }
                }
                Mnemonic::Neg | Mnemonic::Dec => {
                    let x = self.general(to);
                    let value = if i.mnemonic() == Mnemonic::Neg { x.wrapping_neg() } else { x.wrapping_sub(1) };
                    self.sign = (value as i64).cmp(&0);
                    self.set_general(to, value);
                }
                _ => return false,
            }
        }
        true
    }

    /// Moves of vectors; whether this was one.
    unsafe fn move_step(&mut self, i: &Instruction) -> bool {
        let mask = self.mask(i);
        // SAFETY: as promised by the caller of `call`.
        unsafe {
            match i.mnemonic() {
                Mnemonic::Vmovups | Mnemonic::Vmovaps if i.op0_kind() == OpKind::Memory => {
                    let from = i.op1_register();
                    self.store_lanes(i, self.vectors[Self::number(from)], from.size() / 4, mask);
                }
                Mnemonic::Vmovups | Mnemonic::Vmovaps => {
                    let value = self.vector(i, 1, i.op0_register().size() / 4, mask);
                    self.set_vector(i, value);
                }
                Mnemonic::Vmaskmovps => {
                    let signs = self.vectors[Self::number(i.op1_register())];
                    let mask = (0..8).filter(|&k| signs[k] >> 31 == 1).fold(0, |set, k| set | 1 << k);
                    if i.op0_kind() == OpKind::Memory {
                        self.store_lanes(i, self.vectors[Self::number(i.op2_register())], 8, mask);
                    } else {
                        let value = self.vector(i, 2, 8, mask);
                        self.set_vector(i, value);
                    }
                }
                Mnemonic::Vmovss
                | Mnemonic::Vmovsd
                | Mnemonic::Vmovq
                | Mnemonic::Vextractf64x4
                | Mnemonic::Vextractf32x4
                    if i.op0_kind() == OpKind::Memory =>
                {
                    let lanes = i.memory_size().size() / 4;
                    self.store_lanes(i, self.vectors[Self::number(i.op1_register())], lanes, mask);
                }
                Mnemonic::Vpmovdb => {
                    for (k, lane) in self.vectors[Self::number(i.op1_register())].into_iter().enumerate() {
                        Self::write(self.address(i) + k as u64, lane as u8);
                    }
                }
                Mnemonic::Vpextrd | Mnemonic::Vpextrw | Mnemonic::Vpextrb => {
                    let size = i.memory_size().size();
                    let x: Vec<u8> = self.vectors[Self::number(i.op1_register())].map(u32::to_le_bytes).concat();
                    let first = size * usize::from(i.immediate8());
                    for (k, &byte) in x[first..first + size].iter().enumerate() {
                        Self::write(self.address(i) + k as u64, byte);
                    }
                }
                Mnemonic::Vbroadcastss => self.set_vector(i, [Self::read(self.address(i)); 16]),
                Mnemonic::Vmovd => {
                    let mut value = [0; 16];
                    value[0] = self.general(i.op1_register()) as u32;
                    self.set_vector(i, value);
                }
                Mnemonic::Vpbroadcastd => {
                    let from = i.op1_register();
                    let word =
                        if from.is_gpr() { self.general(from) as u32 } else { self.vectors[Self::number(from)][0] };
                    self.set_vector(i, [word; 16]);
                }
                Mnemonic::Vpmovzxbd => {
                    let lanes = i.op0_register().size() / 4;
                    let at = |k: usize| if k < lanes { Self::read::<u8>(self.address(i) + k as u64).into() } else { 0 };
                    self.set_vector(i, std::array::from_fn(at));
                }
                Mnemonic::Vzeroupper => self.vectors[..16].iter_mut().for_each(|v| v[4..].fill(0)),
                _ => return false,
            }
        }
        true
    }

    unsafe fn store_lanes(&self, i: &Instruction, value: Lanes, lanes: usize, mask: u16) {
        for k in (0..lanes).filter(|k| mask & (1 << k) != 0) {
            // SAFETY: as promised by the caller of `call`.
            unsafe { Self::write(self.address(i) + 4 * k as u64, value[k]) };
        }
    }

    /// Everything that computes.
    unsafe fn compute_step(&mut self, i: &Instruction) {
        let count = i.op_count();
        let immediate = if i.op_kind(count - 1) == OpKind::Immediate8 { i.immediate8() } else { 0 };
        let to = i.op0_register();
        let lanes = if to.is_k() { i.op1_register().size() / 4 } else { to.size() / 4 };
        // SAFETY: as promised by the caller of `call`.
        let operand = |n: u32| unsafe { self.vector(i, n, lanes, u16::MAX) };
        let value = match i.mnemonic() {
            Mnemonic::Vextractf128 | Mnemonic::Vextractf64x4 => {
                let x = operand(1);
                std::array::from_fn(|k| if k < lanes { x[k + lanes * usize::from(immediate)] } else { 0 })
            }
            Mnemonic::Vsqrtps => unary(operand(1), f32::sqrt),
            Mnemonic::Vroundps | Mnemonic::Vrndscaleps => unary(operand(1), |x| rounded(x.into(), immediate) as f32),
            Mnemonic::Vroundpd | Mnemonic::Vrndscalepd => wide(operand(1), [0; 16], |x, _| rounded(x, immediate)),
            Mnemonic::Vcvtdq2ps => operand(1).map(|x| (x as i32 as f32).to_bits()),
            Mnemonic::Vcvtps2pd => {
                let x = operand(1);
                pairs(|k| f64::from(f32::from_bits(x[k])))
            }
            Mnemonic::Vcvtpd2ps => {
                let x = operand(1);
                std::array::from_fn(|k| if k < lanes.min(8) { (double(x, k) as f32).to_bits() } else { 0 })
            }
            Mnemonic::Vpabsb => operand(1).map(|x| bytes(x, |b| b.unsigned_abs())),
            Mnemonic::Vpslld => operand(1).map(|x| x << immediate),
            Mnemonic::Vpsrld => operand(1).map(|x| x >> immediate),
            Mnemonic::Vpsrad => operand(1).map(|x| ((x as i32) >> immediate) as u32),
            _ => return self.binary_step(i, lanes, immediate),
        };
        self.set_vector(i, value);
    }

    /// What computes from two or three operands.
    fn binary_step(&mut self, i: &Instruction, lanes: usize, immediate: u8) {
        // SAFETY: as promised by the caller of `call`.
        let operand = |n: u32| unsafe { self.vector(i, n, lanes, u16::MAX) };
        let (old, x, y) = (
            self.vectors[if i.op0_register().is_k() { 0 } else { Self::number(i.op0_register()) }],
            operand(1),
            operand(2),
        );
        let value = match i.mnemonic() {
            Mnemonic::Vaddps => binary(x, y, |x, y| x + y),
            Mnemonic::Vsubps => binary(x, y, |x, y| x - y),
            Mnemonic::Vmulps => binary(x, y, |x, y| x * y),
            Mnemonic::Vdivps => binary(x, y, |x, y| x / y),
            Mnemonic::Vmaxps => binary(x, y, |x, y| if x > y { x } else { y }),
            Mnemonic::Vminps => binary(x, y, |x, y| if x < y { x } else { y }),
            Mnemonic::Vaddpd => wide(x, y, |x, y| x + y),
            Mnemonic::Vmulpd => wide(x, y, |x, y| x * y),
            Mnemonic::Vandps | Mnemonic::Vpandd => words(x, y, |x, y| x & y),
            Mnemonic::Vorps | Mnemonic::Vpord => words(x, y, |x, y| x | y),
            Mnemonic::Vxorps | Mnemonic::Vpxord => words(x, y, |x, y| x ^ y),
            Mnemonic::Vpaddd => words(x, y, u32::wrapping_add),
            Mnemonic::Vpsubd => words(x, y, u32::wrapping_sub),
            Mnemonic::Vfmadd132ps => fused(old, y, x),
            Mnemonic::Vfmadd213ps => fused(x, old, y),
            Mnemonic::Vfmadd231ps => fused(x, y, old),
            Mnemonic::Vpternlogd => std::array::from_fn(|k| ternary(immediate, old[k], x[k], y[k])),
            Mnemonic::Vblendvps => {
                let mask = operand(3);
                std::array::from_fn(|k| if mask[k] >> 31 == 1 { y[k] } else { x[k] })
            }
            Mnemonic::Vcmpps => {
                let holds = |k: usize| compared(f32::from_bits(x[k]), f32::from_bits(y[k]), immediate);
                return self.set_mask_or_vector(i, lanes, holds);
            }
            Mnemonic::Vpcmpgtd => {
                return self.set_mask_or_vector(i, lanes, |k| x[k] as i32 > y[k] as i32);
            }
            Mnemonic::Vinsertf128 | Mnemonic::Vinsertf64x4 => {
                assert_eq!(immediate, 1);
                std::array::from_fn(|k| if k < lanes / 2 { x[k] } else { y[k - lanes / 2] })
            }
            Mnemonic::Vshufps => std::array::from_fn(|k| {
                let from = k - k % 4 + usize::from(immediate >> (2 * (k % 4)) & 3);
                if k % 4 < 2 { x[from] } else { y[from] }
            }),
            Mnemonic::Vshuff32x4 => std::array::from_fn(|k| {
                let from = 4 * usize::from(immediate >> (2 * (k / 4)) & 3) + k % 4;
                if k / 4 < 2 { x[from] } else { y[from] }
            }),
            Mnemonic::Vperm2f128 => {
                assert_eq!(immediate, 1, "the halves are swapped");
                std::array::from_fn(|k| if k < 4 { x[k + 4] } else { x[k % 8 - 4 * usize::from(k < 8)] })
            }
            Mnemonic::Vpackssdw => packed::<2>(x, y),
            Mnemonic::Vpacksswb => packed::<4>(x, y),
            other => panic!("{other:?} is not emulated"),
        };
        self.set_vector(i, value);
    }
}

fn unary(x: Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    x.map(|x| f(f32::from_bits(x)).to_bits())
}

fn binary(x: Lanes, y: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    words(x, y, |x, y| f(f32::from_bits(x), f32::from_bits(y)).to_bits())
}

fn words(x: Lanes, y: Lanes, f: impl Fn(u32, u32) -> u32) -> Lanes {
    std::array::from_fn(|k| f(x[k], y[k]))
}

/// `x · y + z`
fn fused(x: Lanes, y: Lanes, z: Lanes) -> Lanes {
    let [x, y, z] = [x, y, z].map(|v| v.map(f32::from_bits));
    std::array::from_fn(|k| x[k].mul_add(y[k], z[k]).to_bits())
}

fn double(x: Lanes, k: usize) -> f64 {
    f64::from_bits(u64::from(x[2 * k]) | u64::from(x[2 * k + 1]) << 32)
}

fn pairs(f: impl Fn(usize) -> f64) -> Lanes {
    std::array::from_fn(|k| (f(k / 2).to_bits() >> (32 * (k % 2))) as u32)
}

fn wide(x: Lanes, y: Lanes, f: impl Fn(f64, f64) -> f64) -> Lanes {
    pairs(|k| f(double(x, k), double(y, k)))
}

fn rounded(x: f64, immediate: u8) -> f64 {
    match immediate {
        0x8 => x.round_ties_even(),
        0x9 => x.floor(),
        0xA => x.ceil(),
        other => panic!("rounding {other:#x} is not emulated"),
    }
}

fn ternary(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let bit = |k: u32| u32::from(table >> ((a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1)) & 1) << k;
    (0..32).map(bit).sum()
}

fn compared(x: f32, y: f32, predicate: u8) -> bool {
    match predicate {
        0x00 => x == y,
        0x11 => x < y,
        0x12 => x <= y,
        0x03 => x.is_nan() || y.is_nan(),
        0x04 => x != y,
        0x19 => x.is_nan() || y.is_nan() || x < y,
        0x1D => x >= y,
        0x1E => x > y,
        other => panic!("predicate {other:#x} is not emulated"),
    }
}

fn bytes(x: u32, f: impl Fn(i8) -> u8) -> u32 {
    u32::from_le_bytes(x.to_le_bytes().map(|b| f(b as i8)))
}

/// 128 bits of signed numbers of `x`, then of `y`, narrowed to half their size with saturation; `PER` in 32 bits after.
fn packed<const PER: usize>(x: Lanes, y: Lanes) -> Lanes {
    let bits = 32 / PER as u32;
    let number = |v: Lanes, k: usize| {
        let word = v[k * 2 / PER] as i32;
        let low = 32 - 2 * bits * (k % (PER / 2)) as u32 - 2 * bits;
        i64::from(word << low >> (32 - 2 * bits))
    };
    let most = (1i64 << (bits - 1)) - 1;
    let mut out = [0; 16];
    for k in 0..4 * PER {
        let source = if k < 2 * PER { number(x, k) } else { number(y, k - 2 * PER) };
        let narrow = source.clamp(-most - 1, most) as u32 & (u32::MAX >> (32 - bits));
        out[k / PER] |= narrow << (bits * (k % PER) as u32);
    }
    out
}
