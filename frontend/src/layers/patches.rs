//! Patches of images as columns, and back.

use super::shape::{squeeze, unsqueeze};
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::TypeError;

/// Elements that a window may have: each becomes a few nodes.
pub const MAX_ELEMENTS: usize = 1 << 12;

/// Windows over planes: one entry per axis of the plane.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    plane: [usize; 2],
    kernel: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 2],
    stride: [usize; 2],
    /// How many windows there are along each axis.
    count: [usize; 2],
}

impl Patches {
    /// Windows of `kernel` elements, `dilation` apart, every `stride` elements of a plane with zeros around it.
    pub fn new(
        plane: [usize; 2],
        kernel: [usize; 2],
        dilation: [usize; 2],
        padding: [usize; 2],
        stride: [usize; 2],
    ) -> Result<Self, TypeError> {
        let along = |k: usize| {
            let reach = dilation[k].checked_mul(kernel[k].checked_sub(1)?)?.checked_add(1)?;
            let room = plane[k].checked_add(padding[k].checked_mul(2)?)?.checked_sub(reach)?;
            Some(room.checked_div(stride[k])? + 1)
        };
        let small = kernel[0].checked_mul(kernel[1]).is_some_and(|volume| volume <= MAX_ELEMENTS);
        match (along(0), along(1)) {
            (Some(rows), Some(columns)) if small => {
                Ok(Patches { plane, kernel, dilation, padding, stride, count: [rows, columns] })
            }
            _ => Err(TypeError::new("the windows do not fit the plane")
                .expected(format!("at most {MAX_ELEMENTS} elements inside the padded plane {plane:?}"))
                .found(format!("{kernel:?}"))),
        }
    }

    /// Places in a window, row by row.
    fn places(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        (0..self.kernel[0]).flat_map(|i| (0..self.kernel[1]).map(move |j| [i, j]))
    }

    /// Images `[N, C, H, W]` to columns `[N, C · kernel, windows]`.
    pub fn unfold(&self, b: &mut Builder, x: Value) -> Result<Value, TypeError> {
        let (&[n, c, h, w], plane) = (b.shape(x), self.plane) else {
            return Err(TypeError::new("unfolding needs images").expected("[N, C, H, W]").found(b.ty(x)));
        };
        if [h, w] != plane {
            return Err(TypeError::new("the images have another size").expected(format!("{plane:?}")).found(b.ty(x)));
        }
        let pad = [0, 0, self.padding[0], self.padding[1]];
        let padded = b.pad(x, &pad, &pad, &[0; 4], 0.0)?;
        let mut parts = Vec::new();
        for at in self.places() {
            let rows = strided(b, padded, 2, [at[0] * self.dilation[0], self.count[0], self.stride[0]])?;
            let part = strided(b, rows, 3, [at[1] * self.dilation[1], self.count[1], self.stride[1]])?;
            parts.push(unsqueeze(b, part, &[2])?);
        }
        let all = b.concat(&parts, 2)?;
        b.reshape(all, &[n, c * parts.len(), self.count.iter().product()])
    }

    /// Columns `[N, C · kernel, windows]` added up into images: the adjoint of [`Self::unfold`].
    pub fn fold(&self, b: &mut Builder, x: Value) -> Result<Value, TypeError> {
        let volume: usize = self.kernel.iter().product();
        let windows: usize = self.count.iter().product();
        let (n, c) = match *b.shape(x) {
            [n, rows, l] if l == windows && volume > 0 && rows.is_multiple_of(volume) => (n, rows / volume),
            _ => {
                let error = TypeError::new("the columns do not fit the image");
                return Err(error.expected(format!("[N, C · {volume}, {windows}]")).found(b.ty(x)));
            }
        };
        let split = b.reshape(x, &[n, c, volume, self.count[0], self.count[1]])?;
        let mut sum: Option<Value> = None;
        for (k, at) in self.places().enumerate() {
            let part = b.slice_axis(split, 2, k, k + 1)?;
            let part = squeeze(b, part, &[2])?;
            let part = self.scattered(b, part, at)?;
            sum = Some(sum.map_or(Ok(part), |sum| b.add(sum, part))?);
        }
        let sum = sum.ok_or_else(|| TypeError::new("a window has at least one element"))?;
        let end = [n, c, self.padding[0] + self.plane[0], self.padding[1] + self.plane[1]];
        b.slice(sum, &[0, 0, self.padding[0], self.padding[1]], &end, &[1; 4])
    }

    /// One element of every window where it belongs in the padded plane.
    fn scattered(&self, b: &mut Builder, part: Value, at: [usize; 2]) -> Result<Value, TypeError> {
        let (mut low, mut high, mut interior) = ([0; 4], [0; 4], [0; 4]);
        for k in 0..2 {
            low[2 + k] = at[k] * self.dilation[k];
            interior[2 + k] = self.stride[k] - 1;
            let covered = low[2 + k] + (self.count[k] - 1) * self.stride[k] + 1;
            high[2 + k] = self.plane[k] + 2 * self.padding[k] - covered;
        }
        b.pad(part, &low, &high, &interior, 0.0)
    }
}

/// `count` elements of an axis from `start` on, `step` apart.
pub fn strided(b: &mut Builder, x: Value, axis: usize, [start, count, step]: [usize; 3]) -> Result<Value, TypeError> {
    let shape = b.shape(x).to_vec();
    let (mut starts, mut limits, mut strides) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
    (starts[axis], limits[axis], strides[axis]) = (start, start + (count.max(1) - 1) * step + 1, step);
    b.slice(x, &starts, &limits, &strides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::testing::build;

    #[test]
    fn folding_counts_an_element_in_each_of_its_windows() {
        let image: (&[usize], &[f64]) = (&[1, 1, 3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let patches = Patches::new([3, 3], [2, 2], [1, 1], [0, 0], [1, 1]).unwrap();
        let columns = build(&[image], |b, x| patches.unfold(b, x[0]));
        assert_eq!(columns.floats()[..4], [1.0, 2.0, 4.0, 5.0], "the first element of every window");
        let folded = build(&[image], |b, x| {
            let columns = patches.unfold(b, x[0])?;
            patches.fold(b, columns)
        });
        assert_eq!(folded.floats(), [1.0, 4.0, 3.0, 8.0, 20.0, 12.0, 7.0, 16.0, 9.0]);
        assert!(Patches::new([3, 3], [4, 2], [1, 1], [0, 0], [1, 1]).is_err());
        assert!(Patches::new([3, 3], [2, 2], [1, 1], [0, 0], [0, 1]).is_err());
    }
}
