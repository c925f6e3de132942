//! `Resize` and its predecessor, in the forms that PyTorch's interpolation has, and sampling at computed places.

use super::Rule::{self, One};
use super::{Fault, Node, Walk, require};
use crate::layers::grid::{self, Between, Outside, Sampler};
use crate::layers::resize::{Sampling, resize_axis};
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// The family's rules.
pub const OPS: &[(&str, Rule)] = &[
    ("AffineGrid", One(affine_grid)),
    ("GridSample", One(grid_sample)),
    ("Resize", One(resize)),
    ("Upsample", One(upsample)),
];

fn sampling(node: &Node) -> Result<Sampling, Fault> {
    let mode = node.string("mode", "nearest")?;
    let place = node.string("coordinate_transformation_mode", "half_pixel")?;
    let rounding = node.string("nearest_mode", "round_prefer_floor")?;
    if node.float("cubic_coeff_a", -0.75)? != -0.75 {
        return Err(Fault::unsupported("only the cubic with coefficient -0.75 is supported"));
    }
    node.float("extrapolation_value", 0.0)?;
    node.only_int("exclude_outside", 0)?;
    node.only_int("antialias", 0)?;
    node.only("keep_aspect_ratio_policy", "stretch")?;
    match (mode, place, rounding) {
        ("nearest", "asymmetric", "floor") => Ok(Sampling::Nearest),
        ("linear", "half_pixel" | "pytorch_half_pixel", _) => Ok(Sampling::Linear),
        ("linear", "align_corners", _) => Ok(Sampling::LinearCorners),
        ("cubic", "half_pixel" | "pytorch_half_pixel", _) => Ok(Sampling::Cubic),
        ("cubic", "align_corners", _) => Ok(Sampling::CubicCorners),
        _ => Err(Fault::unsupported("this way to resize is not supported")
            .expected("nearest, asymmetric, floor; linear or cubic, half_pixel or align_corners")
            .found(format!("{mode}, {place}, {rounding}"))),
    }
}

/// Axes named by `axes`, all without it.
fn axes(node: &Node, rank: usize) -> Result<Vec<usize>, Fault> {
    match node.optional_ints("axes")? {
        Some(given) => given.iter().map(|&a| super::axis(rank, a)).collect(),
        None => Ok((0..rank).collect()),
    }
}

fn resize(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let x = node.input(0)?;
    let shape = cx.b.shape(x).to_vec();
    let (sampling, axes) = (sampling(node)?, axes(node, shape.len())?);
    let scales = cx.optional_floats(node, 2)?.filter(|scales| !scales.is_empty());
    let sizes = cx.optional_ints(node, 3)?.filter(|sizes| !sizes.is_empty());
    let given = scales.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len)).unwrap_or(0);
    require(given == axes.len(), "one scale or size per axis is needed", axes.len(), given)?;
    let mut y = x;
    for (k, &axis) in axes.iter().enumerate() {
        let (extent, scale) = match (&scales, &sizes) {
            (_, Some(sizes)) => (usize::try_from(sizes[k]).ok(), None),
            (Some(scales), None) => (scaled(shape[axis], scales[k]), Some(1.0 / scales[k])),
            (None, None) => (None, None),
        };
        let extent = extent.ok_or_else(|| TypeError::new("a size or scale is out of range"))?;
        let place = node.string("coordinate_transformation_mode", "half_pixel")?;
        let first = place == "pytorch_half_pixel" && extent == 1 && shape[axis] > 1;
        require(!first, "one sample in PyTorch's place is not supported", "half_pixel", place)?;
        if extent != shape[axis] || scale.is_some_and(|s| s != 1.0) {
            y = resize_axis(&mut cx.b, y, axis, extent, scale, sampling)?;
        }
    }
    Ok(y)
}

/// `Resize` of versions before 10: an attribute or operand says the scale of every axis; samples are taken where they
/// begin, which only of the nearest element is a form that PyTorch has.
fn upsample(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let mode = node.string("mode", "nearest")?;
    if mode != "nearest" {
        return Err(Fault::unsupported("only the nearest element is supported").expected("nearest").found(mode));
    }
    let x = node.input(0)?;
    let attribute = node.optional_floats("scales")?.map(|scales| scales.iter().map(|&s| f64::from(s)).collect());
    let scales: Vec<f64> = match attribute {
        Some(scales) => scales,
        None => cx.optional_floats(node, 1)?.unwrap_or_default(),
    };
    let shape = cx.b.shape(x).to_vec();
    require(scales.len() == shape.len(), "one scale per axis is needed", shape.len(), scales.len())?;
    let mut y = x;
    for (axis, (&extent, &scale)) in shape.iter().zip(&scales).enumerate().filter(|(_, (_, scale))| **scale != 1.0) {
        let wanted = scaled(extent, scale).ok_or_else(|| TypeError::new("a scale is out of range").found(scale))?;
        y = resize_axis(&mut cx.b, y, axis, wanted, Some(1.0 / scale), Sampling::Nearest)?;
    }
    Ok(y)
}

fn grid_sample(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (x, places) = (node.input(0)?, node.input(1)?);
    let between = match node.string("mode", "linear")? {
        "linear" | "bilinear" => Between::Bilinear,
        "nearest" => Between::Nearest,
        other => return Err(Fault::unsupported("unknown `mode`").expected("linear or nearest").found(other)),
    };
    let outside = match node.string("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(Fault::unsupported("unknown `padding_mode`").found(other)),
    };
    let sampler = Sampler { between, outside, align_corners: node.flag("align_corners", false)? };
    Ok(grid::grid_sample(&mut cx.b, x, places, sampler)?)
}

/// Of planes.
fn affine_grid(cx: &mut Walk, node: &Node) -> Result<Value, Fault> {
    let (theta, size, align_corners) = (node.input(0)?, cx.ints(node, 1)?, node.flag("align_corners", false)?);
    let size = super::sizes(&size)?;
    let &[n, _, height, width] = &size[..] else {
        return Err(Fault::unsupported("only planes are supported")
            .expected("[N, C, H, W]")
            .found(format!("{size:?}")));
    };
    let own = cx.b.shape(theta).first().copied();
    require(own == Some(n), "a matrix for each plane is needed", n, cx.b.ty(theta))?;
    Ok(grid::affine_grid(&mut cx.b, theta, [height, width], align_corners)?)
}

fn scaled(extent: usize, scale: f64) -> Option<usize> {
    let scaled = (extent as f64 * scale).floor();
    (scale > 0.0 && scaled < 1e9).then_some(scaled as usize)
}
