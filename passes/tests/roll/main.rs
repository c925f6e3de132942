//! Rolling unrolled loops: whatever is rolled computes the same bits, and what is no loop stays.

mod cases;
mod generated;
mod programs;
mod refused;
