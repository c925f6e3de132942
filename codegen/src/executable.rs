//! Machine code that can be run.

use crate::backend::Engine;
use crate::code_memory::CodeMemory;
use crate::compile::{EntryCode, Operand, PlacedAction};
use crate::emit::Compiled;
use crate::memory::Memory;
use crate::pool::Pool;
use crate::program::Program;
use crate::runtime::{Function, StepContext};
use crate::subnormals::FlushToZero;
use gradc_ir::diagnostic::Diagnostic;
use gradc_ir::plan::{ALIGNMENT_BYTES, Place, Segment};
use gradc_ir::types::{DType, TensorType};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Why a call of an entry did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepFailure {
    /// The action with this position among the [leaves](PlacedAction::leaves) of the entry's failed: its check found a
    /// value that is not finite.
    Action(usize),
    /// What the entry was given does not fit it; nothing was run.
    Arguments(Diagnostic),
}

/// Bytes an entry needs of each block of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    arena: usize,
    persistent: usize,
    constants: usize,
    /// Exact sizes of the host's slices; `None` for those the entry does not read.
    host: Vec<Option<usize>>,
}

impl Needs {
    /// What the places of an entry add up to.
    pub fn of(entry: &EntryCode) -> Result<Needs, Diagnostic> {
        let mut needs = Needs::default();
        needs.cover_actions(&entry.actions, &mut vec![])?;
        for &(from, to, bytes) in &entry.commits {
            needs.cover(from, bytes)?;
            needs.cover(to, bytes)?;
        }
        Ok(needs)
    }

    /// Covers what actions read and write inside loops of these numbers of steps, outermost first.
    fn cover_actions(&mut self, actions: &[PlacedAction], loops: &mut Vec<usize>) -> Result<(), Diagnostic> {
        for action in actions {
            match action {
                PlacedAction::Run { operands, results, .. } => {
                    operands.iter().chain(results).try_for_each(|o| self.cover_operand(o, loops))?
                }
                PlacedAction::CheckFinite { operand } => self.cover_operand(operand, loops)?,
                PlacedAction::Copy { from, to } => {
                    writable(to)?;
                    [from, to].into_iter().try_for_each(|o| self.cover_operand(o, loops))?;
                    if from.ty.size_bytes() != to.ty.size_bytes() {
                        return Err(invalid_place(to.place));
                    }
                }
                PlacedAction::Loop { steps: 0, .. } => {
                    return Err(Diagnostic::new("invalid-kernel", "a loop makes at least one step"));
                }
                PlacedAction::Loop { steps, body, until } => {
                    loops.push(*steps);
                    self.cover_actions(body, loops)?;
                    until.iter().try_for_each(|until| self.cover_scalar(&until.done, DType::Bool, loops))?;
                    loops.pop();
                    if let Some(until) = until {
                        writable(&until.count)?;
                        self.cover_scalar(&until.count, DType::I64, loops)?;
                    }
                }
                PlacedAction::Blocks { count, at_once, body } => {
                    check_blocks(*count, *at_once, body)?;
                    loops.extend([*count, *at_once]);
                    self.cover_actions(body, loops)?;
                    loops.truncate(loops.len() - 2);
                }
                PlacedAction::Branch { predicate, bodies } => {
                    self.cover_scalar(predicate, DType::Bool, loops)?;
                    bodies.iter().try_for_each(|body| self.cover_actions(body, loops))?;
                }
            }
        }
        Ok(())
    }

    fn cover_scalar(&mut self, operand: &Operand, dtype: DType, loops: &[usize]) -> Result<(), Diagnostic> {
        if operand.ty != TensorType::new(dtype, []) {
            return Err(invalid_place(operand.place));
        }
        self.cover_operand(operand, loops)
    }

    /// Covers an operand in the steps in which it is lowest and highest; slices are aligned like their elements.
    fn cover_operand(&mut self, operand: &Operand, loops: &[usize]) -> Result<(), Diagnostic> {
        let Operand { place, strides_bytes, ty } = operand;
        if strides_bytes.is_empty() {
            return self.cover(*place, ty.size_bytes());
        }
        let element = ty.dtype.size_bytes();
        let aligned = strides_bytes.iter().all(|stride| stride.unsigned_abs().is_multiple_of(element as u64));
        if strides_bytes.len() > loops.len() || !aligned || !place.offset_bytes.is_multiple_of(element) {
            return Err(invalid_place(*place));
        }
        let (mut low, mut high) = (place.offset_bytes as i128, place.offset_bytes as i128 + ty.size_bytes() as i128);
        for (&stride, &steps) in strides_bytes.iter().zip(loops) {
            let last = i128::from(stride) * (steps as i128 - 1);
            (low, high) = (low + last.min(0), high + last.max(0));
        }
        self.cover_range(*place, low, high)
    }

    fn cover(&mut self, place: Place, bytes: usize) -> Result<(), Diagnostic> {
        if !place.offset_bytes.is_multiple_of(ALIGNMENT_BYTES) {
            return Err(invalid_place(place));
        }
        let start = place.offset_bytes as i128;
        self.cover_range(place, start, start + bytes as i128)
    }

    /// Covers the bytes of a place's segment from `low` to before `high`.
    fn cover_range(&mut self, place: Place, low: i128, high: i128) -> Result<(), Diagnostic> {
        let end = i64::try_from(high).ok().filter(|_| low >= 0).ok_or_else(|| invalid_place(place))?;
        let covered = match place.segment {
            Segment::Arena => &mut self.arena,
            Segment::Persistent => &mut self.persistent,
            Segment::Constants => &mut self.constants,
            Segment::Host(k) => {
                let k = k as usize;
                self.host.resize(self.host.len().max(k + 1), None);
                self.host[k].get_or_insert(0)
            }
            Segment::Argument(_) | Segment::Result(_) => return Err(invalid_place(place)),
        };
        *covered = (*covered).max(end as usize);
        Ok(())
    }

    fn check(&self, memory: &Memory, host: &[&[u8]]) -> Result<(), Diagnostic> {
        let blocks = [
            ("arena", self.arena, memory.arena.len()),
            ("persistent memory", self.persistent, memory.persistent.len()),
            ("constants", self.constants, memory.constants.len()),
        ];
        if let Some((name, needed, given)) = blocks.into_iter().find(|(_, needed, given)| given < needed) {
            return Err(too_small(name.into(), needed, given));
        }
        if host.len() < self.host.len() {
            return Err(Diagnostic::new("input-count", "too few inputs").expected(self.host.len()).found(host.len()));
        }
        let wrong = self.host.iter().zip(host).position(|(needed, given)| needed.is_some_and(|n| n != given.len()));
        match wrong {
            None => Ok(()),
            Some(k) => Err(too_small(format!("input {k}"), self.host[k].unwrap_or_default(), host[k].len())),
        }
    }
}

/// Fails unless threads may each do some of the blocks: nothing in them ends the call, or needs several threads.
fn check_blocks(count: usize, at_once: usize, body: &[PlacedAction]) -> Result<(), Diagnostic> {
    let may_fail = |action: &PlacedAction| matches!(action, PlacedAction::CheckFinite { .. });
    let fails = body.iter().flat_map(PlacedAction::leaves).any(may_fail);
    if count == 0 || at_once == 0 || fails || body.iter().any(PlacedAction::has_blocks) {
        return Err(Diagnostic::new("invalid-kernel", "blocks are none, may fail, or have blocks in them"));
    }
    Ok(())
}

fn invalid_place(place: Place) -> Diagnostic {
    Diagnostic::new("invalid-place", "a place is not one the plan may give").found(format!("{place:?}"))
}

/// Fails unless native code may write to the operand.
pub(crate) fn writable(operand: &Operand) -> Result<(), Diagnostic> {
    if matches!(operand.place.segment, Segment::Arena | Segment::Persistent) {
        return Ok(());
    }
    Err(Diagnostic::new("invalid-place", "native code writes only to the arena and to persistent memory")
        .found(format!("{:?}", operand.place)))
}

fn too_small(name: String, needed: usize, given: usize) -> Diagnostic {
    Diagnostic::new("wrong-size", format!("{name} has the wrong size"))
        .expected(format!("{needed} bytes"))
        .found(format!("{given} bytes"))
}

/// One native function per entry of a model, and all they call.
///
/// Owns its code memory and gives it back when dropped. Calls need nothing but their [`Memory`], so one executable
/// serves any number of sessions and threads.
#[derive(Debug)]
pub struct Executable {
    code: CodeMemory,
    /// Offset of each entry's function.
    entries: Vec<usize>,
    /// Addresses of the kernels, then of what is done for each block.
    functions_by_number: Vec<usize>,
    /// Number of kernels.
    kernels: usize,
    functions: Vec<usize>,
    names: Vec<String>,
    texts: Vec<(String, String)>,
    needs: Vec<Needs>,
    /// What computes the leaves of each entry's actions.
    engines: Vec<Vec<Option<Engine>>>,
    program: Program,
}

impl Executable {
    /// Puts functions into executable memory: kernels, what is done for each block, entries.
    pub(crate) fn link(
        names: Vec<String>,
        [kernels, blocks]: [Vec<Compiled>; 2],
        entries: Vec<Compiled>,
        needs: Vec<Needs>,
        engines: Vec<Vec<Option<Engine>>>,
        program: Program,
    ) -> Result<Executable, Diagnostic> {
        let mut bytes = Vec::new();
        let mut append =
            |list: &[Compiled]| -> Vec<usize> { list.iter().map(|c| append_aligned(&mut bytes, &c.bytes)).collect() };
        let offsets = [append(&kernels), append(&blocks)].concat();
        let entry_offsets = append(&entries);
        let code = CodeMemory::new(&bytes)?;
        let base = code.bytes().as_ptr() as usize;
        let count = kernels.len();
        let kernel_names = (0..count).map(|k| format!("kernel {k}"));
        let block_names = (0..blocks.len()).map(|k| format!("block {k}"));
        let all_names = kernel_names.chain(block_names).chain(names.iter().cloned());
        let all = all_names.zip(kernels.into_iter().chain(blocks).chain(entries));
        Ok(Executable {
            code,
            entries: entry_offsets,
            functions_by_number: offsets.into_iter().map(|offset| base + offset).collect(),
            kernels: count,
            functions: Function::table(),
            texts: all.filter_map(|(name, c)| Some((name, c.text?))).collect(),
            names,
            needs,
            engines,
            program,
        })
    }

    /// Names of the entries, in the order [`run`](Self::run) counts them.
    pub fn entries(&self) -> &[String] {
        &self.names
    }

    /// Size of the machine code in bytes.
    pub fn code_bytes(&self) -> usize {
        self.code.bytes().len()
    }

    /// The machine code: the same bytes for the same entries and target, in every process.
    pub fn code(&self) -> &[u8] {
        self.code.bytes()
    }

    /// Number of different kernels.
    pub fn kernels(&self) -> usize {
        self.kernels
    }

    /// What computes each of the [leaves](PlacedAction::leaves) of an entry's actions; `None` for those that are no kernels.
    pub fn engines(&self, entry: usize) -> &[Option<Engine>] {
        self.engines.get(entry).map_or(&[], |engines| engines)
    }

    /// Name and Cranelift text of every function, when they were kept.
    pub fn texts(&self) -> &[(String, String)] {
        &self.texts
    }

    /// Bytes of work space a call needs with this many threads.
    pub fn scratch_bytes(&self, threads: usize) -> usize {
        self.program.kept_bytes + self.program.work_space_bytes(threads)
    }

    /// Runs an entry: one native call. `host` has a slice per data input and hyperparameter, of any alignment.
    pub fn run(&self, entry: usize, memory: &mut Memory, host: &[&[u8]], pool: &Pool) -> Result<(), StepFailure> {
        self.run_marked(entry, memory, host, pool, &[])
    }

    /// Runs an entry compiled with [`CodegenOptions::profile`](crate::CodegenOptions) and returns how long each of the
    /// [leaves](PlacedAction::leaves) of its actions took, in all steps of the loops around it, ns; without that option
    /// all are 0. Of what is done for blocks it is the time of all threads, divided by how many there were.
    pub fn profile(
        &self,
        entry: usize,
        memory: &mut Memory,
        host: &[&[u8]],
        pool: &Pool,
    ) -> Result<Vec<u64>, StepFailure> {
        let marks: Vec<AtomicU64> = self.engines(entry).iter().map(|_| AtomicU64::new(0)).collect();
        self.run_marked(entry, memory, host, pool, &marks)?;
        Ok(marks.into_iter().map(AtomicU64::into_inner).collect())
    }

    fn run_marked(
        &self,
        entry: usize,
        memory: &mut Memory,
        host: &[&[u8]],
        pool: &Pool,
        marks: &[AtomicU64],
    ) -> Result<(), StepFailure> {
        self.check(entry, memory, host, pool).map_err(StepFailure::Arguments)?;
        let slices: Vec<*const u8> = host.iter().map(|s| s.as_ptr()).collect();
        let status = pool.run(|board| {
            let (kept, work_space) = memory.scratch.bytes_mut().split_at_mut(self.program.kept_bytes);
            let context = StepContext {
                segments: [
                    memory.arena.bytes_mut().as_mut_ptr(),
                    memory.persistent.bytes_mut().as_mut_ptr(),
                    memory.constants.bytes().as_ptr().cast_mut(),
                    work_space.as_mut_ptr(),
                ],
                host: slices.as_ptr(),
                kept: kept.as_mut_ptr(),
                kernels: self.functions_by_number.as_ptr(),
                functions: self.functions.as_ptr(),
                program: &self.program,
                board: board.map_or(std::ptr::null(), std::ptr::from_ref),
                marks: if marks.is_empty() { std::ptr::null() } else { marks.as_ptr() },
                last_mark_ns: Cell::new(0),
                sharers: 1,
                place: 0,
                start: (!marks.is_empty()).then(Instant::now),
            };
            // SAFETY: the offset is that of an entry's function, compiled with this signature and alive with `self.code`.
            let function: unsafe extern "C" fn(*const StepContext) -> usize =
                unsafe { std::mem::transmute(self.code.bytes().as_ptr().add(self.entries[entry])) };
            let _flushing = FlushToZero::new();
            // SAFETY: `check` compared every place with the memory given, kernels stay inside their operands (`verify`)
            // and write only to the arena and to persistent memory, both exclusively borrowed; there is a mark for
            // every action, if any.
            unsafe { function(&context) }
        });
        if status == 0 { Ok(()) } else { Err(StepFailure::Action(status - 1)) }
    }

    fn check(&self, entry: usize, memory: &Memory, host: &[&[u8]], pool: &Pool) -> Result<(), Diagnostic> {
        let needs = self.needs.get(entry).ok_or_else(|| {
            Diagnostic::new("unknown-entry", "no such entry")
                .expected(format!("below {}", self.needs.len()))
                .found(entry)
        })?;
        needs.check(memory, host)?;
        let (needed, given) = (self.scratch_bytes(pool.threads()), memory.scratch.len());
        if given < needed { Err(too_small("work space".into(), needed, given)) } else { Ok(()) }
    }
}

/// Appends code at a multiple of the alignment of buffers; where it starts.
pub(crate) fn append_aligned(to: &mut Vec<u8>, bytes: &[u8]) -> usize {
    to.resize(to.len().next_multiple_of(ALIGNMENT_BYTES), 0);
    to.extend_from_slice(bytes);
    to.len() - bytes.len()
}
