//! Micro-batches: a training step that takes the batch part by part and updates once.
//!
//! Forward and backward pass run for one part of the batch after the other, in a loop that carries the sums of the loss
//! and of the gradients; so memory for activations goes with the part, code does not grow, and nothing but the order of
//! sums over examples differs from the step of the whole batch. That holds where examples meet only in sums that the loss
//! is linear in. It is proven on the lowered forms, node by node: a loop of a form is cut into as many blocks as there are
//! parts, every access to a tensor that is cut must stay within its block, and the op of a part must have the form that
//! is left. What no gradient passes (numbers of labels that count, dropout masks, counters) may mix examples: it is made of
//! the whole batch before the loop.

mod apply;
mod body;
mod cut;
mod fit;
mod linear;
mod loops;
mod split;
mod step;

pub(crate) use apply::{in_blocks, put_together};
pub use body::{map_parts, takes_parts};
pub(crate) use cut::Flow;
pub(crate) use loops::{body_of_block, body_of_part};
pub use split::batch_sizes;
pub use step::{derive_step_in_parts, evaluate_in_parts};
