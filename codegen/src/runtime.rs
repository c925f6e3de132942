//! What native code reaches outside itself: the context of a call and the functions in its table.
//!
//! Native code holds no address. It is given a pointer to a [`StepContext`] and finds buffers, other kernels and
//! these functions through it, so that its bytes are the same in every process.

use crate::contraction::{contract, pack_shared};
use crate::indirect::contract_rows;
use crate::lines::work_on_lines;
use crate::loops::MEMORY;
use crate::pool::{Board, position_of_thread};
use crate::program::Program;
use crate::transposition::transpose;
use cranelift_codegen::ir::types::{F64, I64};
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Type, Value};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::FunctionBuilder;
use gradc_ir::types::DType;
use std::cell::Cell;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// What native code of one call knows.
#[repr(C)]
pub(crate) struct StepContext {
    /// Arena, persistent memory, constants, scratch.
    pub segments: [*mut u8; 4],
    /// The host's slices.
    pub host: *const *const u8,
    /// Panels that loops keep.
    pub kept: *mut u8,
    /// Addresses of the kernels.
    pub kernels: *const usize,
    /// Addresses of the functions of [`Function`].
    pub functions: *const usize,
    /// Tables of the executable.
    pub program: *const Program,
    /// Where other threads find chunks to compute; null where there are none.
    pub board: *const Board,
    /// The time of each action so far, ns; null unless times are measured.
    pub marks: *const AtomicU64,
    /// When the last action ended.
    pub last_mark_ns: Cell<u64>,
    /// How many threads do what this context is for at the same time.
    pub sharers: u64,
    /// In which of several places to work blocks are done with this context.
    pub place: u64,
    /// What times count from; none unless they are measured.
    pub start: Option<Instant>,
}

// SAFETY: chunks of a kernel share the context; they write disjoint parts of the buffers behind it and scratch of
// their own thread, the mark is that of the one thread that calls kernels, and everything else is only read.
unsafe impl Sync for StepContext {}

impl StepContext {
    /// Work space of the thread that calls, in a kernel that shares so many bytes.
    ///
    /// # Safety
    /// The context is that of a running call.
    pub unsafe fn scratch_of_thread(&self, shared_bytes: usize) -> *mut u8 {
        let thread = if self.board.is_null() { 0 } else { position_of_thread() };
        // SAFETY: the scratch was checked to have room for every thread of the pool the call runs in.
        unsafe { self.segments[3].add((*self.program).work_space_at(thread, shared_bytes)) }
    }
}

impl StepContext {
    /// Time since the start, ns; 0 unless times are measured.
    fn elapsed_ns(&self) -> u64 {
        self.start.map_or(0, |start| start.elapsed().as_nanos() as u64)
    }

    /// Work space of all threads.
    pub fn shared(&self) -> *mut f32 {
        self.segments[3].cast()
    }

    /// The context of a thread that does one of several blocks alone, shared work space included.
    ///
    /// # Safety
    /// The context is that of a running call of a program that has blocks.
    unsafe fn alone(&self, sharers: u64, place: usize) -> StepContext {
        let [arena, persistent, constants, _] = self.segments;
        StepContext {
            // SAFETY: as promised by the caller; the work space of a thread has room for that of a lone one.
            segments: [arena, persistent, constants, unsafe { self.scratch_of_thread(0) }],
            board: std::ptr::null(),
            last_mark_ns: Cell::new(self.elapsed_ns()),
            sharers,
            place: place as u64,
            ..*self
        }
    }
}

/// A kernel: context, addresses of operands and results, chunk.
pub(crate) type KernelFn = unsafe extern "C" fn(*const StepContext, *const *mut u8, usize);

/// Functions native code may call; the variants index the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Exp,
    Log,
    Tanh,
    Erf,
    Sin,
    Cos,
    Pow,
    Rem,
    /// (destination, source, bytes); they are equal or do not overlap.
    Copy,
    /// (address, elements, dtype) → whether all are finite.
    AllFinite,
    /// (context, kernel, arguments, chunks)
    ParallelFor,
    /// (context, function, steps made of the loops around, blocks, how many of them at once)
    Blocks,
    /// (context, contraction, arguments, chunk)
    Contract,
    /// (context, contraction, arguments, chunk)
    PackShared,
    /// (context, contraction, arguments, chunk)
    ContractRows,
    /// (context, transposition, arguments, chunk)
    Transpose,
    /// (context, lines, arguments, chunk)
    Lines,
    /// (context) → address of the work space of the thread that calls.
    WorkSpace,
    /// (context, action): adds the time since the last mark to that of an action, counted from 1; to none for 0.
    Mark,
}

impl Function {
    /// Addresses in the order of the variants.
    pub fn table() -> Vec<usize> {
        let scalar: [extern "C" fn(f64) -> f64; 6] = [exp, log, tanh, erf, sin, cos];
        let pair: [extern "C" fn(f64, f64) -> f64; 2] = [pow, rem];
        let mut table: Vec<usize> = scalar.iter().map(|&f| f as *const () as usize).collect();
        table.extend(pair.iter().map(|&f| f as *const () as usize));
        table.push(copy as *const () as usize);
        table.push(all_finite as *const () as usize);
        table.push(parallel_for as *const () as usize);
        table.push(blocks as *const () as usize);
        table.push(contract as *const () as usize);
        table.push(pack_shared as *const () as usize);
        table.push(contract_rows as *const () as usize);
        table.push(transpose as *const () as usize);
        table.push(work_on_lines as *const () as usize);
        table.push(work_space as *const () as usize);
        table.push(mark as *const () as usize);
        table
    }

    /// Parameter types and result type.
    fn types(self) -> (Vec<Type>, Option<Type>) {
        match self {
            Function::Pow | Function::Rem => (vec![F64; 2], Some(F64)),
            Function::Copy => (vec![I64; 3], None),
            Function::AllFinite => (vec![I64; 3], Some(I64)),
            Function::ParallelFor
            | Function::Contract
            | Function::PackShared
            | Function::ContractRows
            | Function::Transpose
            | Function::Lines => (vec![I64; 4], None),
            Function::Blocks => (vec![I64; 5], None),
            Function::WorkSpace => (vec![I64], Some(I64)),
            Function::Mark => (vec![I64; 2], None),
            _ => (vec![F64], Some(F64)),
        }
    }

    /// Emits a call through the context's table.
    pub fn emit_call(self, b: &mut FunctionBuilder, context: Value, arguments: &[Value]) -> Option<Value> {
        let (parameters, result) = self.types();
        let mut signature = Signature::new(host_convention());
        signature.params.extend(parameters.into_iter().map(AbiParam::new));
        signature.returns.extend(result.map(AbiParam::new));
        let signature = b.import_signature(signature);
        let table = load_field(b, context, offset_of!(StepContext, functions));
        let function = b.ins().load(I64, MEMORY, table, self as i32 * 8);
        let call = b.ins().call_indirect(signature, function, arguments);
        b.inst_results(call).first().copied()
    }
}

/// The calling convention of `extern "C"` on this machine.
pub(crate) fn host_convention() -> CallConv {
    CallConv::triple_default(&target_lexicon::Triple::host())
}

/// Emits the load of a pointer in the context.
pub(crate) fn load_field(b: &mut FunctionBuilder, context: Value, offset: usize) -> Value {
    b.ins().load(I64, MEMORY, context, offset as i32)
}

/// Emits the load of the address of the work space that threads share, the last of the segments.
pub(crate) fn load_shared(b: &mut FunctionBuilder, context: Value) -> Value {
    load_field(b, context, offset_of!(StepContext, segments) + 3 * size_of::<*mut u8>())
}

macro_rules! scalar_functions {
    ($($name:ident($($x:ident),+) = $value:expr;)+) => {
        $(extern "C" fn $name($($x: f64),+) -> f64 { $value })+
    };
}

scalar_functions! {
    exp(x) = x.exp();
    log(x) = x.ln();
    tanh(x) = x.tanh();
    erf(x) = libm::erf(x);
    sin(x) = x.sin();
    cos(x) = x.cos();
    pow(x, y) = x.powf(y);
    rem(x, y) = x % y;
}

unsafe extern "C" fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    if !std::ptr::addr_eq(to, from) {
        // SAFETY: places are checked against the sizes of their segments; distinct ones do not overlap by plan.
        unsafe { std::ptr::copy(from, to, bytes) }
    }
}

unsafe extern "C" fn all_finite(at: *const u8, elements: usize, dtype: usize) -> usize {
    // SAFETY: the place of the operand was checked against its segment; unaligned reads are allowed for.
    let finite = unsafe {
        match DType::ALL[dtype] {
            DType::F32 => (0..elements).all(|k| at.cast::<f32>().add(k).read_unaligned().is_finite()),
            DType::F64 => (0..elements).all(|k| at.cast::<f64>().add(k).read_unaligned().is_finite()),
            _ => true,
        }
    };
    finite.into()
}

unsafe extern "C" fn parallel_for(
    context: *const StepContext,
    kernel: usize,
    arguments: *const *mut u8,
    chunks: usize,
) {
    // SAFETY: native code passes its own context, the address of one of its kernels, and arguments that live in its
    // frame until all chunks are done; chunks write disjoint parts of the kernel's results.
    unsafe {
        let kernel: KernelFn = std::mem::transmute(kernel);
        match ((*context).board.as_ref(), u16::try_from(chunks)) {
            (Some(board), Ok(chunks)) => board.lead(kernel, context, arguments, chunks),
            _ => (0..chunks).for_each(|chunk| kernel(context, arguments, chunk)),
        }
    }
}

unsafe extern "C" fn blocks(
    context: *const StepContext,
    function: usize,
    made: *const *mut u8,
    count: usize,
    at_once: usize,
) {
    // SAFETY: native code passes its own context, the address of one of its functions, and what lives in its frame until
    // all blocks are done; these write to different places, and those that are done at once work in different ones.
    unsafe {
        let function: KernelFn = std::mem::transmute(function);
        match ((*context).board.as_ref(), u16::try_from(at_once)) {
            (Some(board), Ok(at_once)) => {
                let sharers = board.threads().min(at_once.into());
                let blocks = Blocks { function, made, count, next: AtomicUsize::new(0), sharers: sharers as u64 };
                let blocks = (&raw const blocks).cast_mut().cast();
                board.lead(blocks_in_place, context, &blocks, at_once);
            }
            _ => (0..count).for_each(|block| function(context, made, block)),
        }
    }
}

/// Blocks that threads share.
struct Blocks {
    function: KernelFn,
    /// The steps made of the loops around.
    made: *const *mut u8,
    /// How many there are.
    count: usize,
    /// The first that no thread has taken.
    next: AtomicUsize,
    /// How many threads share them.
    sharers: u64,
}

/// Does blocks in one of the places to work, on the thread that calls, until none are left.
unsafe extern "C" fn blocks_in_place(context: *const StepContext, blocks: *const *mut u8, place: usize) {
    // SAFETY: `blocks` passes them, and no two threads the same place.
    unsafe {
        let blocks = &*(*blocks).cast::<Blocks>();
        let context = (*context).alone(blocks.sharers, place);
        let next = || Some(blocks.next.fetch_add(1, Relaxed)).filter(|&block| block < blocks.count);
        while let Some(block) = next() {
            (blocks.function)(&context, blocks.made, block);
        }
    }
}

unsafe extern "C" fn work_space(context: *const StepContext) -> *mut u8 {
    // SAFETY: native code passes its own context, that of a running call; kernels that ask share nothing.
    unsafe { (*context).scratch_of_thread(0) }
}

unsafe extern "C" fn mark(context: *const StepContext, action: usize) {
    // SAFETY: the context outlives the call, and there is room for the marks of all actions where there is any.
    unsafe {
        let context = &*context;
        if !context.marks.is_null() {
            let now_ns = context.elapsed_ns();
            let before_ns = context.last_mark_ns.replace(now_ns);
            if action > 0 {
                (*context.marks.add(action - 1)).fetch_add((now_ns - before_ns) / context.sharers, Relaxed);
            }
        }
    }
}
