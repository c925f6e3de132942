//! Fitting a training step into a given amount of memory.
//!
//! What the backward pass reads need not be kept from the forward pass: it can be made again from what is kept, at the
//! price of doing a part of the forward pass twice (Griewank and Walther, 2000; Chen et al., 2016). Which values are
//! worth it is found on the plan itself: of what is alive at the peak, the values that save the most bytes per
//! nanosecond are dropped until the peak is low enough, and the result is scheduled again, for dropping one thing moves
//! the peak elsewhere and what is made again is alive for a while, too. Without a limit the same is done with what takes
//! next to no time.

mod rematerialise;
mod simulate;

pub use rematerialise::{Rematerialised, rematerialise, rematerialise_in_spare_time};
