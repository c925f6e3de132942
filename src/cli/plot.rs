//! Plots of a training run: on the terminal and as SVG.

use gradc::Diagnostic;
use gradc::training::EpochRecord;
use gradc_frontend::replace::replace;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;
use textplots::{Chart, Plot, Shape};

/// One record as a line.
pub(crate) fn line(record: &EpochRecord) -> String {
    format!(
        "epoch {:3}  step {:6}  train loss {:.4}  {}",
        record.epoch,
        record.step,
        record.train_loss,
        validation(record)
    )
}

/// The validation part of a record.
pub(crate) fn validation(record: &EpochRecord) -> String {
    let Some(metrics) = record.validation else { return String::new() };
    let accuracy = metrics.accuracy.map(|a| format!("  accuracy {:.2} %", 100.0 * a)).unwrap_or_default();
    format!("validation loss {:.4}{accuracy}", metrics.loss)
}

/// A curve over the steps.
struct Curve {
    label: &'static str,
    points: Vec<(f32, f32)>,
}

fn curves(records: &[EpochRecord]) -> Vec<Curve> {
    let curve = |label, value: &dyn Fn(&EpochRecord) -> Option<f64>| {
        let points = records.iter().filter_map(|r| Some((r.step as f32, value(r)? as f32))).collect();
        Curve { label, points }
    };
    let all = [
        curve("train loss", &|r| Some(r.train_loss)),
        curve("validation loss", &|r| Some(r.validation?.loss)),
        curve("accuracy", &|r| r.validation?.accuracy),
    ];
    all.into_iter().filter(|c| c.points.len() > 1).collect()
}

/// Draws the validation curves, or else the training loss, on the terminal.
pub(crate) fn terminal(records: &[EpochRecord]) {
    let mut all = curves(records);
    if all.len() > 1 {
        all.remove(0);
    }
    for curve in all {
        let (first, last) = (curve.points[0].0, curve.points[curve.points.len() - 1].0);
        println!("{} over steps", curve.label);
        Chart::new(100, 30, first, last).lineplot(&Shape::Lines(&curve.points)).nice();
    }
}

/// Writes all curves as SVG: losses on the left axis, accuracy on the right.
pub(crate) fn svg(records: &[EpochRecord], path: &Path) -> Result<(), Diagnostic> {
    let drawn = draw(&curves(records)).and_then(|picture| Ok(replace(path, picture.as_bytes())?));
    drawn.map_err(|e| Diagnostic::new("unwritable-file", e.to_string()).in_file(path.display()))
}

fn draw(curves: &[Curve]) -> Result<String, Box<dyn std::error::Error>> {
    let mut picture = String::new();
    draw_on(SVGBackend::with_string(&mut picture, (720, 420)).into_drawing_area(), curves)?;
    Ok(picture)
}

fn draw_on(area: DrawingArea<SVGBackend, Shift>, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let losses = || curves.iter().filter(|c| c.label != "accuracy");
    let last = curves.iter().flat_map(|c| &c.points).map(|p| p.0).fold(1.0, f32::max);
    let top = losses().flat_map(|c| &c.points).map(|p| p.1).filter(|v| v.is_finite()).fold(0.0, f32::max).max(1e-6);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .right_y_label_area_size(48)
        .build_cartesian_2d(0f32..last, 0f32..top * 1.05)?
        .set_secondary_coord(0f32..last, 0f32..1f32);
    chart.configure_mesh().x_desc("step").y_desc("loss").light_line_style(TRANSPARENT).draw()?;
    chart.configure_secondary_axes().y_desc("accuracy").draw()?;
    for (k, curve) in curves.iter().enumerate() {
        let color = Palette99::pick(k).stroke_width(2);
        let series = LineSeries::new(curve.points.iter().copied(), color);
        let drawn =
            if curve.label == "accuracy" { chart.draw_secondary_series(series)? } else { chart.draw_series(series)? };
        drawn.label(curve.label).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
