//! gradc: compiles a training step. Forward, backward and optimizer become one native function,
//! with every buffer placed before the first step runs.

#![forbid(unsafe_code)]

pub mod bench;
pub mod budget;
pub mod calibrate;
pub mod compile;
pub mod entries;
pub mod error;
pub mod index_ranges;
pub mod micro_batches;
pub mod options;
pub mod package;
pub mod parameters;
mod place;
pub mod profile;
pub mod reference;
pub mod report;
pub mod session;
mod sharing;
mod solvers;
pub mod step;
mod train_spec;
pub mod training;
pub mod training_cost;
pub mod view;

pub use budget::{Importances, Selection, Selector};
pub use compile::compile;
pub use error::{Origin, SessionError};
pub use gradc_codegen::Pool;
pub use gradc_frontend::import::import;
pub use gradc_frontend::model::{ImportOptions, Model};
pub use gradc_frontend::recipe::Recipe;
pub use gradc_ir::diagnostic::{Diagnostic, Diagnostics};
pub use gradc_ir::tensor::HostTensor;
pub use options::{Options, Stage};
pub use session::{Outputs, Session};
pub use step::CompiledStep;
pub use view::TensorView;
