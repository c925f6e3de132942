//! The wide path: innermost vector loops as *strips*.
//!
//! Cranelift emits vectors of 128 bits only. Where a kernel's vector loop is plain enough, Cranelift keeps the loops
//! around it, the addresses, the guards and everything that does not change along it, and calls a function of machine
//! code made here: one contiguous strip of points in vectors of 256 (AVX2) or 512 bits (AVX-512F), its last vector
//! masked. The function stands behind its kernel's own code and is called relative to it, so nothing holds an address.
//!
//! | file | from | to |
//! |---|---|---|
//! | `strips.rs`, `body.rs` | a loop plan | [`code::Code`]: vector steps over streams, or `None` where the plan does not qualify |
//! | `allocate.rs`, `streams.rs` | steps | instructions in registers |
//! | `frame.rs`, `layouts.rs` | `Code` | the function: loops, tails, partial results; what has registers throughout |
//! | `machine.rs` | an operation | instructions of AVX2 or AVX-512F |
//! | `assembler.rs` | instructions, constants | bytes |
//! | `call.rs` | | the Cranelift side: what a call is given, and where calls stand in a kernel's loops |

mod allocate;
mod assembler;
mod body;
mod call;
mod code;
mod columns;
#[cfg(all(test, target_arch = "x86_64"))]
mod emulator;
mod frame;
mod layouts;
mod machine;
mod streams;
mod strips;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

pub(crate) use machine::Isa;
