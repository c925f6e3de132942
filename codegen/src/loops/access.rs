//! Emission of reads and writes: addresses, guards, blocks of vectors.

use super::emitter::{Buffer, Emitter, UniformAxes, Which};
use super::plan::{AxisPlan, LoadPlan};
use super::values::{
    MEMORY, Rep, bits, blend, bytes_of_mask, mask_of_bytes, scalar_type, splat_f32, splat_i32, to_lanes, to_mask,
    to_vector,
};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32X4, I8, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use gradc_ir::lower::{Affine, ScalarId};
use gradc_ir::types::DType;

impl Emitter<'_, '_> {
    /// Address of a buffer at the open loops, without the constant term and the vector loop.
    pub fn pointer(&mut self, buffer: usize, flat: &Affine) -> Value {
        let Buffer { base, dtype } = self.buffers[buffer];
        let mut key = (buffer, vec![0; flat.coeffs.len()]);
        let mut pointer = base;
        for dim in self.open.clone() {
            let coeff = flat.coeffs[dim];
            if coeff == 0 {
                continue;
            }
            key.1[dim] = coeff;
            pointer = match self.known.pointers.get(&key) {
                Some(&known) => known,
                None => {
                    let index = self.index[dim].expect("an open loop has an index");
                    let next = self.add_scaled(pointer, index, coeff * dtype.size_bytes() as i64);
                    self.known.pointers.insert(key.clone(), next);
                    next
                }
            };
        }
        pointer
    }

    /// `to + index · by`
    pub fn add_scaled(&mut self, to: Value, index: Value, by: i64) -> Value {
        let scaled = match by {
            0 => return to,
            1 => index,
            2 | 4 | 8 => self.b.ins().ishl_imm_u(index, i64::from(by.trailing_zeros())),
            _ => self.b.ins().imul_imm_s(index, by),
        };
        self.b.ins().iadd(to, scaled)
    }

    /// Address of the first point of the block and the constant offset from it, in bytes.
    pub fn address(&mut self, buffer: usize, flat: &Affine) -> (Value, i64) {
        let size = self.buffers[buffer].dtype.size_bytes() as i64;
        let mut pointer = self.pointer(buffer, flat);
        if let Some(dim) = self.plan.vector
            && let Some(index) = self.index[dim]
        {
            pointer = self.add_scaled(pointer, index, flat.coeffs[dim] * size);
        }
        let offset = flat.base * size;
        match i32::try_from(offset).is_ok_and(|o| o.abs() < 1 << 30) {
            true => (pointer, offset),
            false => (self.b.ins().iadd_imm_s(pointer, offset), 0),
        }
    }

    /// Elements the flat part of an access moves by from one point of the block to the next.
    fn step(&self, flat: &Affine) -> i64 {
        self.plan.vector.filter(|_| self.width.lanes > 1).map_or(0, |v| flat.coeffs[v])
    }

    fn load_at(&mut self, ty: Type, pointer: Value, offset: i64) -> Value {
        self.b.ins().load(ty, MEMORY, pointer, offset as i32)
    }

    /// Reads an operand at the points of the block.
    pub fn load(&mut self, which: Which, id: ScalarId, load: &LoadPlan) -> Rep {
        let moving = self.plan.vector.is_some_and(|v| load.axes_move_with(self.body(which), v));
        if moving && !self.is_uniform(which, id) {
            return self.load_lanewise(which, load);
        }
        let axes = if load.axes.is_empty() {
            UniformAxes { offset_bytes: None, in_bounds: None }
        } else {
            self.uniform_axes(which, id, load)
        };
        let rep = self.load_block(which, id, load, axes.offset_bytes);
        match (axes.in_bounds, load.fill) {
            (Some(ok), Some(fill)) => self.filled(rep, ok, fill, self.buffers[load.operand].dtype),
            _ => rep,
        }
    }

    fn load_block(&mut self, which: Which, id: ScalarId, load: &LoadPlan, extra_bytes: Option<Value>) -> Rep {
        let dtype = self.buffers[load.operand].dtype;
        let (mut pointer, offset) = self.address(load.operand, &load.flat);
        if let Some(extra) = extra_bytes {
            pointer = self.b.ins().iadd(pointer, extra);
        }
        if self.is_uniform(which, id) {
            let one = self.load_at(scalar_type(dtype), pointer, offset);
            return if dtype == DType::F32 {
                Rep::Vector(vec![self.b.ins().splat(F32X4, one)])
            } else {
                Rep::Lanes(vec![one])
            };
        }
        let (step, size) = (self.step(&load.flat), dtype.size_bytes() as i64);
        let groups = self.width.groups as i64;
        match (dtype, step) {
            (DType::F32, 1) => {
                Rep::Vector((0..groups).map(|g| self.load_at(F32X4, pointer, offset + 16 * g)).collect())
            }
            (DType::Bool, 1) => Rep::Mask(
                (0..groups)
                    .map(|g| {
                        let bytes = self.load_at(I32, pointer, offset + 4 * g);
                        mask_of_bytes(self.b, bytes)
                    })
                    .collect(),
            ),
            _ => {
                let points = self.width.points() as i64;
                let at = |e: &mut Self, p: i64| e.load_far(scalar_type(dtype), pointer, offset + p * step * size);
                let lanes = (0..points).map(|p| at(self, p)).collect();
                self.canonical(dtype, lanes)
            }
        }
    }

    fn load_far(&mut self, ty: Type, pointer: Value, offset: i64) -> Value {
        if i32::try_from(offset).is_ok() {
            return self.load_at(ty, pointer, offset);
        }
        let pointer = self.b.ins().iadd_imm_s(pointer, offset);
        self.load_at(ty, pointer, 0)
    }

    /// One scalar per point in the form its dtype computes in.
    fn canonical(&mut self, dtype: DType, lanes: Vec<Value>) -> Rep {
        let rep = Rep::Lanes(lanes);
        if dtype == DType::F32 { Rep::Vector(to_vector(self.b, &rep)) } else { rep }
    }

    /// Reads with guards or divisions of its own at every point.
    fn load_lanewise(&mut self, which: Which, load: &LoadPlan) -> Rep {
        let dtype = self.buffers[load.operand].dtype;
        let (pointer, offset) = self.address(load.operand, &load.flat);
        let (step, size) = (self.step(&load.flat), dtype.size_bytes() as i64);
        let mut lanes = Vec::with_capacity(self.width.points());
        for point in 0..self.width.points() {
            let axes = self.axes_at(which, load, point);
            let extra = axes.offset_bytes.expect("a lane-wise load has axes");
            let address = self.b.ins().iadd(pointer, extra);
            let mut value = self.load_far(scalar_type(dtype), address, offset + point as i64 * step * size);
            if let (Some(ok), Some(fill)) = (axes.in_bounds, load.fill) {
                let fill = self.constant_lane(dtype, fill);
                value = self.b.ins().select(ok, value, fill);
            }
            lanes.push(value);
        }
        self.canonical(dtype, lanes)
    }

    fn filled(&mut self, rep: Rep, ok: Value, fill: f64, dtype: DType) -> Rep {
        match rep {
            Rep::Vector(v) => {
                let mask = to_mask(self.b, &Rep::Lanes(vec![ok]))[0];
                let fill = splat_f32(self.b, fill as f32);
                Rep::Vector(v.into_iter().map(|x| blend(self.b, mask, x, fill)).collect())
            }
            Rep::Mask(v) => {
                let mask = to_mask(self.b, &Rep::Lanes(vec![ok]))[0];
                let fill = splat_i32(self.b, if fill == 0.0 { 0 } else { -1 });
                Rep::Mask(v.into_iter().map(|x| self.b.ins().bitselect(mask, x, fill)).collect())
            }
            Rep::Lanes(v) => {
                let fill = self.constant_lane(dtype, fill);
                Rep::Lanes(v.into_iter().map(|x| self.b.ins().select(ok, x, fill)).collect())
            }
        }
    }

    pub fn uniform_axes(&mut self, which: Which, id: ScalarId, load: &LoadPlan) -> UniformAxes {
        if let Some(&known) = self.known.axes.get(&(which, id.0)) {
            return known;
        }
        let axes = self.axes_at(which, load, 0);
        self.known.axes.insert((which, id.0), axes);
        axes
    }

    /// Offset of all axes of a load at one point of the block, and whether it is in bounds there.
    fn axes_at(&mut self, which: Which, load: &LoadPlan, point: usize) -> UniformAxes {
        let size = self.buffers[load.operand].dtype.size_bytes() as i64;
        let mut out = UniformAxes { offset_bytes: None, in_bounds: None };
        for axis in &load.axes {
            let (index, ok) = self.axis_index(which, axis, point, load.fill.is_some());
            let offset = self.b.ins().imul_imm_s(index, axis.stride * size);
            out.offset_bytes = Some(out.offset_bytes.map_or(offset, |sum| self.b.ins().iadd(sum, offset)));
            out.in_bounds = match (out.in_bounds, ok) {
                (Some(a), Some(b)) => Some(self.b.ins().band(a, b)),
                (a, b) => a.or(b),
            };
        }
        out
    }

    /// Index into one axis, always inside it, and whether it was inside before.
    fn axis_index(&mut self, which: Which, axis: &AxisPlan, point: usize, guarded: bool) -> (Value, Option<Value>) {
        let (index, divides) = self.divided_index(which, axis, point);
        if axis.index.loaded.is_some() {
            let zero = self.b.ins().iconst(I64, 0);
            let last = self.b.ins().iconst(I64, axis.extent as i64 - 1);
            let low = self.b.ins().smax(index, zero);
            return (self.b.ins().smin(low, last), divides.filter(|_| guarded));
        }
        if !guarded {
            return (index, None);
        }
        let extent = self.b.ins().iconst(I64, axis.extent as i64);
        let mut ok = self.b.ins().icmp(IntCC::UnsignedLessThan, index, extent);
        if let Some(divides) = divides {
            ok = self.b.ins().band(ok, divides);
        }
        let zero = self.b.ins().iconst(I64, 0);
        (self.b.ins().select(ok, index, zero), Some(ok))
    }

    /// `affine / divisor + loaded` at one point, and whether the division is exact.
    ///
    /// A negative dividend gives a huge quotient or a negative index, both out of bounds.
    pub fn divided_index(&mut self, which: Which, axis: &AxisPlan, point: usize) -> (Value, Option<Value>) {
        let affine = self.affine(&axis.index.affine, point);
        let (mut index, divides) = match axis.index.divisor {
            1 => (affine, None),
            d => {
                let divisor = self.b.ins().iconst(I64, d);
                let quotient = self.b.ins().sdiv(affine, divisor);
                let back = self.b.ins().imul(quotient, divisor);
                let exact = self.b.ins().icmp(IntCC::Equal, back, affine);
                (quotient, Some(exact))
            }
        };
        if let Some(loaded) = axis.index.loaded {
            let lanes = self.lanes(which, loaded);
            let lane = lanes[point % lanes.len()];
            let wide = self.widened(lane, self.body(which).dtype(loaded));
            index = self.b.ins().iadd(index, wide);
        }
        (index, divides)
    }

    fn affine(&mut self, affine: &Affine, point: usize) -> Value {
        let along = self.plan.vector.filter(|&v| self.index[v].is_some()).map_or(0, |v| affine.coeffs[v]);
        let mut sum = self.b.ins().iconst(I64, affine.base + along * point as i64);
        for (dim, &coeff) in affine.coeffs.iter().enumerate() {
            if coeff != 0 {
                let index = self.index[dim].expect("an access uses open loops");
                sum = self.add_scaled(sum, index, coeff);
            }
        }
        sum
    }

    /// Writes a scalar to a result at the points of the block.
    pub fn store(&mut self, buffer: usize, flat: &Affine, which: Which, id: ScalarId) {
        let dtype = self.buffers[buffer].dtype;
        let (pointer, offset) = self.address(buffer, flat);
        let rep = self.rep(which, id);
        let size = dtype.size_bytes() as i64;
        let step = self.step(flat);
        let groups = self.width.groups;
        match rep {
            Rep::Vector(v) if step == 1 => {
                for g in 0..groups {
                    self.b.ins().store(MEMORY, v[g % v.len()], pointer, (offset + 16 * g as i64) as i32);
                }
            }
            Rep::Mask(v) if step == 1 => {
                for g in 0..groups {
                    let bytes = bytes_of_mask(self.b, v[g % v.len()]);
                    self.b.ins().store(MEMORY, bytes, pointer, (offset + 4 * g as i64) as i32);
                }
            }
            rep => {
                let uniform = self.is_uniform(which, id);
                let lanes = to_lanes(self.b, &rep, uniform);
                for p in 0..self.width.points() {
                    let offset = offset + p as i64 * step * size;
                    self.b.ins().store(MEMORY, lanes[p % lanes.len()], pointer, offset as i32);
                }
            }
        }
    }

    /// A constant of a dtype as a scalar.
    pub fn constant_lane(&mut self, dtype: DType, value: f64) -> Value {
        match dtype {
            DType::F32 => self.b.ins().f32const(value as f32),
            DType::F64 => self.b.ins().f64const(value),
            DType::Bool => self.b.ins().iconst(I8, i64::from(value != 0.0)),
            DType::U8 => self.b.ins().iconst(I8, i64::from(value as i64 as u8)),
            DType::I32 => self.b.ins().iconst(I32, i64::from(value as i32 as u32)),
            _ => self.b.ins().iconst(I64, value as i64),
        }
    }

    /// An integer scalar as `I64`.
    pub fn widened(&mut self, lane: Value, dtype: DType) -> Value {
        match dtype {
            DType::I64 => lane,
            DType::I32 => self.b.ins().sextend(I64, lane),
            _ => self.b.ins().uextend(I64, lane),
        }
    }

    /// The indices of a loop at the points of the block.
    pub fn loop_index(&mut self, dim: usize) -> Rep {
        let index = self.index[dim].expect("a body uses open loops");
        let points = if self.plan.vector == Some(dim) { self.width.points() } else { 1 };
        Rep::Lanes((0..points).map(|p| if p == 0 { index } else { self.b.ins().iadd_imm_s(index, p as i64) }).collect())
    }

    /// A mask of lanes as `F32X4` bits.
    pub fn mask_bits(&mut self, mask: Value) -> Value {
        bits(self.b, F32X4, mask)
    }
}
