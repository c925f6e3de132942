//! Native code: from kernels and their places to one function per entry of a model.
//!
//! [`compile`] makes an [`Executable`]; [`Executable::run`] is one native call. All `unsafe` of gradc is here: compiled
//! code is given only addresses whose extents were checked against the [`Memory`] it runs in, and every access of a
//! kernel is proven in bounds when it is compiled (`verify.rs`).

mod backend;
mod chunks;
mod code_memory;
mod compile;
mod contraction;
mod emit;
mod executable;
mod fixed;
mod indirect;
mod isa;
mod kernel_code;
mod limits;
mod lines;
mod loops;
mod math;
mod memory;
mod microkernel;
mod pool;
pub mod process;
mod program;
mod runtime;
mod simd;
mod subnormals;
mod transposition;
mod verify;
mod wide;

pub use backend::{Engine, Library};
pub use compile::{CodegenOptions, EntryCode, Operand, PlacedAction, Until, compile};
pub use executable::{Executable, StepFailure};
pub use isa::host_target;
pub use limits::Limits;
pub use memory::{AlignedBuffer, Memory};
pub use pool::Pool;
