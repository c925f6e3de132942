//! Training inside an application: compile once, then call steps from the host's own loop.
//!
//! `cargo run --release --example embed`

use gradc::{ImportOptions, Options, Recipe, TensorView, compile, import};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models");
    let model = import(&models.join("digits.json"), &ImportOptions::default())?;
    let recipe = Recipe::from_file(&models.join("digits.recipe.json"))?;
    let step = compile(&model, Some(&recipe), &Options::default())?;
    let mut session = step.session()?;

    // A toy stream: the label is the brightest of ten groups of pixels.
    let mut noise = 1u32;
    let mut pixel = || {
        noise = noise.wrapping_mul(1664525).wrapping_add(1013904223);
        (noise >> 8) as f32 / (1u32 << 24) as f32
    };
    for n in 0..2000 {
        let x: Vec<f32> = (0..32 * 64).map(|_| pixel()).collect();
        let labels: Vec<i64> = x.chunks(64).map(brightest).collect();
        let loss =
            session.step(&[("x", TensorView::f32(&[32, 64], &x)?), ("target", TensorView::i64(&[32], &labels)?)])?;
        if n % 400 == 0 {
            println!("step {n:4}: loss {loss:.4}");
        }
    }

    session.set_hyper("lr", 0.01)?;
    let x: Vec<f32> = (0..32 * 64).map(|_| pixel()).collect();
    let outputs = session.predict(&[("x", TensorView::f32(&[32, 64], &x)?)])?;
    let y = outputs.get("y").ok_or("the model has an output y")?.to_f32();
    let right = x.chunks(64).zip(y.chunks(10)).filter(|(x, y)| brightest(x) == arg_max(y) as i64).count();
    println!("{right} of 32 unseen examples right");
    session.save(std::env::temp_dir().join("embed.safetensors"))?;
    Ok(())
}

fn brightest(pixels: &[f32]) -> i64 {
    let sums: Vec<f32> = pixels.chunks(6).take(10).map(|group| group.iter().sum()).collect();
    arg_max(&sums) as i64
}

fn arg_max(values: &[f32]) -> usize {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(k, _)| k)
}
