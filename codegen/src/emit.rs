//! Native functions: one per kernel, and one per entry that calls them.

use crate::compile::{CodegenOptions, EntryCode, Operand, PlacedAction, Until};
use crate::executable::append_aligned;
use crate::fixed::{Fixed, fixed_operands};
use crate::kernel_code::KernelCode;
use crate::loops::{Buffer, KernelArguments, MEMORY, SimdOptions, emit_epilogue, emit_loops, emit_rows, emit_scatter};
use crate::runtime::{Function, StepContext, host_convention, load_field, load_shared};
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::entity::PrimaryMap;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{
    AbiParam, ExternalName, InstBuilder, Signature as FunctionSignature, StackSlot, StackSlotData, StackSlotKind,
    UserExternalName, UserExternalNameRef, Value,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{Context, FinalizedMachReloc, FinalizedRelocTarget};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::plan::{Place, Segment};
use gradc_ir::types::DType;
use std::collections::BTreeSet;
use std::mem::offset_of;

/// Memory of the compiler that is used again for every function.
pub(crate) type Scratch = (Context, FunctionBuilderContext);

/// Machine code of one function.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The bytes, free of relocations.
    pub bytes: Vec<u8>,
    /// Its intermediate text, when kept.
    pub text: Option<String>,
}

/// Compiles one kernel; what its function calls besides the runtime's functions stands behind it.
pub(crate) fn compile_kernel(
    code: &KernelCode,
    isa: &dyn TargetIsa,
    simd: SimdOptions,
    scratch: &mut Scratch,
    keep_text: bool,
) -> Result<Compiled, Diagnostic> {
    compile_function(isa, scratch, 3, false, keep_text, |b, parameters| {
        let arguments = KernelArguments { context: parameters[0], chunk: parameters[2] };
        let mut strips = vec![];
        match code {
            KernelCode::Loops(plan, dtypes) => {
                let buffers = load_buffers(b, parameters[1], dtypes);
                strips = emit_loops(b, plan, &buffers, arguments, simd);
            }
            KernelCode::Rows(plan, dtypes) => {
                let buffers = load_buffers(b, parameters[1], dtypes);
                strips = emit_rows(b, plan, &buffers, arguments, simd);
            }
            KernelCode::Finish(plan, dtypes) => {
                let mut buffers = load_buffers(b, parameters[1], dtypes);
                let base = load_shared(b, parameters[0]);
                buffers.insert(dtypes.len() - plan.stores.len(), Buffer { base, dtype: DType::F32 });
                strips = emit_loops(b, plan, &buffers, arguments, simd);
            }
            KernelCode::Copy(plan, dtypes, first) => {
                let mut buffers = load_buffers(b, parameters[1], dtypes);
                let shared = load_shared(b, parameters[0]);
                let base = b.ins().iadd_imm_s(shared, 4 * *first as i64);
                buffers.push(Buffer { base, dtype: DType::F32 });
                strips = emit_loops(b, plan, &buffers, arguments, simd);
            }
            KernelCode::Scatter(plan, dtypes) => {
                let buffers = load_buffers(b, parameters[1], dtypes);
                emit_scatter(b, plan, &buffers, arguments, simd);
            }
            KernelCode::Epilogue(plan, dtypes) => {
                let buffers = load_buffers(b, parameters[1], dtypes);
                strips = emit_epilogue(b, plan, buffers, [parameters[0], parameters[2]], simd);
            }
            KernelCode::Call { function, tables, .. } => {
                let tables = b.ins().iconst(I64, *tables as i64);
                let [context, operands, chunk] = [parameters[0], parameters[1], parameters[2]];
                function.emit_call(b, context, &[context, tables, operands, chunk]);
            }
            KernelCode::Sequence(_) | KernelCode::Kept { .. } => {}
        }
        b.ins().return_(&[]);
        strips
    })
}

fn load_buffers(b: &mut FunctionBuilder, arguments: Value, dtypes: &[DType]) -> Vec<Buffer> {
    let load =
        |(k, &dtype): (usize, &DType)| Buffer { base: b.ins().load(I64, MEMORY, arguments, 8 * k as i32), dtype };
    dtypes.iter().enumerate().map(load).collect()
}

fn compile_function(
    isa: &dyn TargetIsa,
    (context, builder_context): &mut Scratch,
    parameters: usize,
    returns: bool,
    keep_text: bool,
    emit: impl FnOnce(&mut FunctionBuilder, &[Value]) -> Vec<Vec<u8>>,
) -> Result<Compiled, Diagnostic> {
    context.clear();
    context.func.signature = FunctionSignature::new(host_convention());
    context.func.signature.params = vec![AbiParam::new(I64); parameters];
    context.func.signature.returns = vec![AbiParam::new(I64); returns.into()];
    let mut b = FunctionBuilder::new(&mut context.func, builder_context);
    let block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    let values = b.block_params(block).to_vec();
    let parts = emit(&mut b, &values);
    b.seal_all_blocks();
    b.finalize(isa.frontend_config());
    let text = keep_text.then(|| context.func.display().to_string());
    let compiled = context.compile(isa, &mut ControlPlane::default());
    let compiled =
        compiled.map_err(|e| Diagnostic::new("codegen-bug", format!("Cranelift refused a kernel: {e:?}")))?;
    let code = compiled.code_buffer().to_vec();
    let relocations = compiled.buffer.relocs().to_vec();
    let bytes = with_parts(code, &parts, &relocations, context.func.params.user_named_funcs())?;
    Ok(Compiled { bytes, text })
}

/// Puts the parts a function calls behind it and makes the calls point there.
fn with_parts(
    mut code: Vec<u8>,
    parts: &[Vec<u8>],
    relocations: &[FinalizedMachReloc],
    names: &PrimaryMap<UserExternalNameRef, UserExternalName>,
) -> Result<Vec<u8>, Diagnostic> {
    let starts: Vec<usize> = parts.iter().map(|part| append_aligned(&mut code, part)).collect();
    for relocation in relocations {
        let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = relocation.target else {
            let message = "machine code refers to addresses outside itself";
            return Err(Diagnostic::new("codegen-bug", message).found(format!("{:?}", relocation.target)));
        };
        assert_eq!(relocation.kind, Reloc::X86CallPCRel4, "parts are called near");
        let (field, start) = (relocation.offset as usize, starts[names[name].index as usize]);
        let distance = start as i64 + relocation.addend - field as i64;
        let distance = i32::try_from(distance).expect("a kernel is smaller than 2 GiB");
        code[field..field + 4].copy_from_slice(&distance.to_le_bytes());
    }
    Ok(code)
}

/// Compiles one entry, and what it does for blocks as functions that native code knows by numbers from `first` on.
///
/// `runs` names the kernel of each leaf among its actions that has one; `codes` are all kernels.
pub(crate) fn compile_entry(
    entry: &EntryCode,
    (runs, codes): (&[Option<usize>], &[KernelCode]),
    first: usize,
    isa: &dyn TargetIsa,
    scratch: &mut Scratch,
    options: &CodegenOptions,
) -> Result<(Compiled, Vec<Compiled>), Diagnostic> {
    let fixed = fixed_operands(&entry.actions);
    let mut blocks = vec![];
    let function = compile_function(isa, scratch, 1, true, options.keep_text, |b, parameters| {
        let mut emitter = EntryEmitter::new(b, parameters[0], entry, (runs, codes), &fixed, options.profile);
        emitter.first_function = first;
        emitter.mark(0);
        emitter.actions(&entry.actions);
        emitter.commit(&entry.commits);
        blocks = emitter.blocks;
        vec![]
    })?;
    let blocks = blocks.into_iter().map(|block| {
        compile_function(isa, scratch, 3, false, options.keep_text, |b, parameters| {
            let mut emitter = EntryEmitter::new(b, parameters[0], entry, (runs, codes), &fixed, options.profile);
            emitter.block(&block, parameters[1], parameters[2]);
            vec![]
        })
    });
    Ok((function, blocks.collect::<Result<_, _>>()?))
}

/// What is done for each of several blocks, a function of its own.
struct BlockBody<'e> {
    actions: &'e [PlacedAction],
    /// Leaves of the entry before it.
    leaves_before: usize,
    /// Loops around it.
    depth: usize,
}

/// Emits the calls of one entry, and the loops and branches around them.
struct EntryEmitter<'b, 'e, 'f> {
    b: &'b mut FunctionBuilder<'f>,
    context: Value,
    kernels: Value,
    /// Where the addresses given to a kernel stand.
    arguments: StackSlot,
    /// The kernel of each leaf that has one.
    runs: &'e [Option<usize>],
    codes: &'e [KernelCode],
    /// What is fixed of each leaf's operands.
    fixed: &'e [Vec<Option<Fixed>>],
    profile: bool,
    /// How many leaves are emitted.
    emitted: usize,
    /// Steps made of the loops around, outermost first.
    made: Vec<Value>,
    /// Number of the function for the first of `blocks`.
    first_function: usize,
    /// What functions of their own do.
    blocks: Vec<BlockBody<'e>>,
}

impl<'b, 'e, 'f> EntryEmitter<'b, 'e, 'f> {
    fn new(
        b: &'b mut FunctionBuilder<'f>,
        context: Value,
        entry: &EntryCode,
        (runs, codes): (&'e [Option<usize>], &'e [KernelCode]),
        fixed: &'e [Vec<Option<Fixed>>],
        profile: bool,
    ) -> Self {
        let most = entry.actions.iter().flat_map(PlacedAction::leaves).map(|action| match action {
            PlacedAction::Run { operands, results, .. } => operands.len() + results.len(),
            _ => 0,
        });
        let bytes = 8 * most.max().unwrap_or(0) as u32;
        let arguments = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3));
        let kernels = load_field(b, context, offset_of!(StepContext, kernels));
        let (made, blocks) = (vec![], vec![]);
        let (emitted, first_function) = (0, 0);
        EntryEmitter {
            b,
            context,
            kernels,
            arguments,
            runs,
            codes,
            fixed,
            profile,
            emitted,
            made,
            first_function,
            blocks,
        }
    }

    fn actions(&mut self, actions: &'e [PlacedAction]) {
        for action in actions {
            self.pack_for(action);
            match action {
                PlacedAction::Blocks { count, at_once, body } => self.call_blocks([*count, *at_once], body),
                PlacedAction::Loop { steps, body, until } => self.repeat(*steps, body, until.as_ref()),
                PlacedAction::Branch { predicate, bodies } => self.branch(predicate, bodies),
                leaf => self.leaf(leaf),
            }
        }
    }

    fn leaf(&mut self, action: &PlacedAction) {
        match action {
            PlacedAction::Run { operands, results, .. } => {
                let kernel = self.runs[self.emitted].expect("every run has a kernel");
                self.run(kernel, [operands, results]);
            }
            PlacedAction::CheckFinite { operand } => self.check_finite(operand),
            PlacedAction::Copy { from, to } => {
                let [source, destination] = [from, to].map(|o| self.operand_address(o));
                let bytes = self.constant(from.ty.size_bytes());
                Function::Copy.emit_call(self.b, self.context, &[destination, source, bytes]);
            }
            PlacedAction::Loop { .. } | PlacedAction::Branch { .. } | PlacedAction::Blocks { .. } => {
                unreachable!("they have parts of their own")
            }
        }
        self.emitted += 1;
        self.mark(self.emitted);
    }

    /// Emits `do { body } while (++made < steps && !done)`.
    fn repeat(&mut self, steps: usize, body: &'e [PlacedAction], until: Option<&Until>) {
        let (head, behind) = (self.b.create_block(), self.b.create_block());
        let [made, all] = [head, behind].map(|block| self.b.append_block_param(block, I64));
        let none = self.constant(0);
        self.b.ins().jump(head, &[none.into()]);
        self.b.switch_to_block(head);
        self.made.push(made);
        self.actions(body);
        let next = self.b.ins().iadd_imm_s(made, 1);
        let mut goes_on = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, next, steps as i64);
        if let Some(until) = until {
            let done = self.flag(&until.done);
            let goes_on_by_data = self.b.ins().icmp_imm_s(IntCC::Equal, done, 0);
            goes_on = self.b.ins().band(goes_on, goes_on_by_data);
        }
        self.made.pop();
        self.b.ins().brif(goes_on, head, &[next.into()], behind, &[next.into()]);
        self.b.switch_to_block(behind);
        if let Some(until) = until {
            let count = self.operand_address(&until.count);
            self.b.ins().store(MEMORY, all, count, 0);
        }
    }

    /// Packs what the loop that follows keeps for all of its steps, but not the loop around it.
    fn pack_for(&mut self, action: &PlacedAction) {
        if !matches!(action, PlacedAction::Loop { .. } | PlacedAction::Blocks { .. }) {
            return;
        }
        let mut packed = BTreeSet::new();
        for (leaf, action) in (self.emitted..).zip(action.leaves()) {
            let (Some(kernel), PlacedAction::Run { operands, .. }) = (self.runs[leaf], action) else { continue };
            let KernelCode::Kept { packing, operand } = self.codes[kernel] else { continue };
            let fixed = self.fixed[leaf][operand].as_ref().expect("only what is fixed is kept");
            if fixed.depth == self.made.len() && packed.insert(packing) {
                let address = self.operand_address(&operands[operand]);
                self.b.ins().stack_store(I64, address, self.arguments, 8 * operand as i32);
                let arguments = self.b.ins().stack_addr(I64, self.arguments, 0);
                self.call(packing, self.codes[packing].chunks(), arguments);
                self.mark(leaf + 1);
            }
        }
    }

    /// Emits the call that does the blocks, which are to be emitted as a function.
    fn call_blocks(&mut self, [count, at_once]: [usize; 2], actions: &'e [PlacedAction]) {
        let depth = self.made.len();
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, 8 * depth as u32, 3);
        let slot = self.b.create_sized_stack_slot(slot);
        for (k, &made) in self.made.iter().enumerate() {
            self.b.ins().stack_store(I64, made, slot, 8 * k as i32);
        }
        let made = self.b.ins().stack_addr(I64, slot, 0);
        let number = self.first_function + self.blocks.len();
        let function = self.b.ins().load(I64, MEMORY, self.kernels, 8 * number as i32);
        let [count, at_once] = [count, at_once].map(|n| self.constant(n));
        Function::Blocks.emit_call(self.b, self.context, &[self.context, function, made, count, at_once]);
        self.mark(0);
        self.blocks.push(BlockBody { actions, leaves_before: self.emitted, depth });
        self.emitted += actions.iter().flat_map(PlacedAction::leaves).count();
    }

    /// Emits what is done for a block, given where the steps made of the loops around stand and which block it is.
    fn block(&mut self, block: &BlockBody<'e>, made: Value, number: Value) {
        let steps = (0..block.depth).map(|k| self.b.ins().load(I64, MEMORY, made, 8 * k as i32));
        self.made = steps.collect();
        let place = load_field(self.b, self.context, offset_of!(StepContext, place));
        self.made.extend([number, place]);
        self.emitted = block.leaves_before;
        self.actions(block.actions);
        self.b.ins().return_(&[]);
    }

    fn branch(&mut self, predicate: &Operand, [then, otherwise]: &'e [Vec<PlacedAction>; 2]) {
        let [then_block, else_block, behind] = [(); 3].map(|()| self.b.create_block());
        let holds = self.flag(predicate);
        self.b.ins().brif(holds, then_block, &[], else_block, &[]);
        for (block, body) in [(then_block, then), (else_block, otherwise)] {
            self.b.switch_to_block(block);
            self.actions(body);
            self.b.ins().jump(behind, &[]);
        }
        self.b.switch_to_block(behind);
    }

    /// A boolean scalar.
    fn flag(&mut self, operand: &Operand) -> Value {
        let address = self.operand_address(operand);
        self.b.ins().load(I8, MEMORY, address, 0)
    }

    /// Where an operand is in the steps that the loops around are at.
    fn operand_address(&mut self, operand: &Operand) -> Value {
        let mut address = self.address(operand.place);
        for (k, &stride) in operand.strides_bytes.iter().enumerate().filter(|(_, stride)| **stride != 0) {
            let distance = self.b.ins().imul_imm_s(self.made[k], stride);
            address = self.b.ins().iadd(address, distance);
        }
        address
    }

    fn address(&mut self, place: Place) -> Value {
        let segments = offset_of!(StepContext, segments);
        let base = match place.segment {
            Segment::Arena => load_field(self.b, self.context, segments),
            Segment::Persistent => load_field(self.b, self.context, segments + 8),
            Segment::Constants => load_field(self.b, self.context, segments + 16),
            Segment::Host(k) => {
                let host = load_field(self.b, self.context, offset_of!(StepContext, host));
                self.b.ins().load(I64, MEMORY, host, 8 * k as i32)
            }
            Segment::Argument(_) | Segment::Result(_) => unreachable!("places of bodies are refused"),
        };
        self.b.ins().iadd_imm_s(base, place.offset_bytes as i64)
    }

    /// Adds the time since the last mark to that of an action, counted from 1.
    fn mark(&mut self, action: usize) {
        if self.profile {
            let action = self.constant(action);
            Function::Mark.emit_call(self.b, self.context, &[self.context, action]);
        }
    }

    fn constant(&mut self, value: usize) -> Value {
        self.b.ins().iconst(I64, value as i64)
    }

    fn run(&mut self, kernel: usize, [operands, results]: [&[Operand]; 2]) {
        let addresses: Vec<Value> = operands.iter().chain(results).map(|o| self.operand_address(o)).collect();
        for (k, address) in addresses.into_iter().enumerate() {
            self.b.ins().stack_store(I64, address, self.arguments, 8 * k as i32);
        }
        let arguments = self.b.ins().stack_addr(I64, self.arguments, 0);
        let codes = self.codes;
        match &codes[kernel] {
            KernelCode::Sequence(steps) => {
                steps.clone().for_each(|step| self.call(step, codes[step].chunks(), arguments));
            }
            KernelCode::Kept { packing, .. } => self.call(packing + 1, codes[packing + 1].chunks(), arguments),
            _ => self.call(kernel, codes[kernel].chunks(), arguments),
        }
    }

    fn call(&mut self, kernel: usize, chunks: usize, arguments: Value) {
        if let (KernelCode::Call { function, tables, .. }, 1) = (&self.codes[kernel], chunks) {
            let [tables, first] = [*tables, 0].map(|number| self.constant(number));
            function.emit_call(self.b, self.context, &[self.context, tables, arguments, first]);
            return;
        }
        let function = self.b.ins().load(I64, MEMORY, self.kernels, 8 * kernel as i32);
        if chunks > 1 {
            let chunks = self.constant(chunks);
            Function::ParallelFor.emit_call(self.b, self.context, &[self.context, function, arguments, chunks]);
            return;
        }
        let mut signature = FunctionSignature::new(host_convention());
        signature.params = vec![AbiParam::new(I64); 3];
        let signature = self.b.import_signature(signature);
        let first = self.constant(0);
        self.b.ins().call_indirect(signature, function, &[self.context, arguments, first]);
    }

    fn check_finite(&mut self, operand: &Operand) {
        let address = self.operand_address(operand);
        let elements = self.constant(operand.ty.elements());
        let dtype = DType::ALL.iter().position(|d| *d == operand.ty.dtype).expect("ALL has every dtype");
        let dtype = self.constant(dtype);
        let finite = Function::AllFinite.emit_call(self.b, self.context, &[address, elements, dtype]);
        self.leave_unless(finite.expect("the check has a result"));
    }

    /// Returns the number of the leaf being emitted, counted from 1, when `ok` is 0.
    fn leave_unless(&mut self, ok: Value) {
        let (failed, passed) = (self.b.create_block(), self.b.create_block());
        let ok = self.b.ins().icmp_imm_s(IntCC::NotEqual, ok, 0);
        self.b.ins().brif(ok, passed, &[], failed, &[]);
        self.b.switch_to_block(failed);
        let status = self.constant(self.emitted + 1);
        self.b.ins().return_(&[status]);
        self.b.switch_to_block(passed);
    }

    fn commit(&mut self, commits: &[(Place, Place, usize)]) {
        for &(from, to, bytes) in commits {
            let (from, to, bytes) = (self.address(from), self.address(to), self.constant(bytes));
            Function::Copy.emit_call(self.b, self.context, &[to, from, bytes]);
        }
        let done = self.constant(0);
        self.b.ins().return_(&[done]);
    }
}
