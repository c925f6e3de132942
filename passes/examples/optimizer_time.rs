//! How long the optimizer takes on transformers of 4, 12 and 48 layers (width 128, 4 heads, forward, backward and AdamW).
//!
//! ```text
//! cargo run -p gradc-passes --example optimizer_time
//! ```

#[path = "../tests/transformer/mod.rs"]
mod transformer;

use gradc_ir::target::{Target, VectorIsa};
use gradc_passes::egraph::rules::NumericClass;
use gradc_passes::egraph::{OptimizeOptions, optimize};
use std::time::Instant;
use transformer::{Sizes, training_step};

const SIZES: Sizes = Sizes { batch: 8, tokens: 64, heads: 4, width: 32, hidden: 512 };

fn main() {
    println!("| fp | layers | nodes | windows | solved | e-nodes of those | ms |\n|---|---|---|---|---|---|---|");
    for fp in [NumericClass::Bitwise, NumericClass::Reassociation] {
        for layers in [4, 12, 48] {
            let step = training_step(layers, SIZES);
            let options = OptimizeOptions { fp, ..OptimizeOptions::new(Target::of(VectorIsa::Avx2)) };
            let start = Instant::now();
            let (_, report) = optimize(&step, &options).expect("optimizes");
            let elapsed_ms = start.elapsed().as_millis();
            let solved: Vec<_> = report.windows.iter().filter(|w| !w.stamped).collect();
            let e_nodes: usize = solved.iter().map(|w| w.e_nodes).sum();
            let (nodes, windows, solved) = (report.before.nodes, report.windows.len(), solved.len());
            println!("| {fp:?} | {layers} | {nodes} | {windows} | {solved} | {e_nodes} | {elapsed_ms} |");
        }
    }
}
