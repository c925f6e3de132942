//! Windows of convolutions and poolings: the attributes they share.

use super::{Fault, Node, require, sizes};
use gradc_ir::types::TypeError;

/// Extents a window may have, so that products of them stay small.
const MAX_EXTENT: usize = 1 << 24;

/// Where windows lie; one entry per spatial axis.
pub struct Window {
    /// Extent of a window.
    pub kernel: Vec<usize>,
    /// Distance between windows.
    pub stride: Vec<usize>,
    /// Distance between the elements of a window.
    pub dilation: Vec<usize>,
    /// Padding before each axis.
    pub pad_low: Vec<usize>,
    /// Padding after each axis.
    pub pad_high: Vec<usize>,
}

impl Window {
    /// Reads `kernel_shape` (which must be `kernel`, when that is given), `strides`, `dilations`, `pads` and `auto_pad`.
    pub fn read(node: &Node, spatial: &[usize], kernel: Option<&[usize]>) -> Result<Window, Fault> {
        let count = spatial.len();
        let list = |name: &str| -> Result<Option<Vec<usize>>, Fault> {
            let found = node.optional_ints(name)?.map(sizes).transpose()?;
            let wrong = |v: &Vec<usize>| v.len() != count || v.iter().any(|&n| n == 0 || n > MAX_EXTENT);
            match found {
                Some(v) if wrong(&v) => Err(TypeError::new(format!("attribute `{name}` does not fit the operand"))
                    .expected(format!("{count} positive numbers"))
                    .found(format!("{v:?}"))
                    .into()),
                found => Ok(found),
            }
        };
        let stated = list("kernel_shape")?;
        let kernel = match (kernel, stated) {
            (Some(kernel), Some(stated)) if kernel != stated => {
                let error = TypeError::new("`kernel_shape` is not the weight's");
                return Err(error.expected(format!("{kernel:?}")).found(format!("{stated:?}")).into());
            }
            (Some(kernel), _) => kernel.to_vec(),
            (None, Some(stated)) => stated,
            (None, None) => return Err(TypeError::new("attribute `kernel_shape` is missing").into()),
        };
        let ones = || vec![1; count];
        let (stride, dilation) = (list("strides")?.unwrap_or_else(ones), list("dilations")?.unwrap_or_else(ones));
        let zeros = vec![0; count];
        let mut window = Window { kernel, stride, dilation, pad_low: zeros.clone(), pad_high: zeros };
        window.read_pads(node, spatial)?;
        Ok(window)
    }

    fn read_pads(&mut self, node: &Node, spatial: &[usize]) -> Result<(), Fault> {
        let count = spatial.len();
        let mode = node.string("auto_pad", "NOTSET")?;
        let pads = node.optional_ints("pads")?.map(sizes).transpose()?;
        match (mode, pads) {
            ("NOTSET", None) | ("VALID", _) => {}
            ("NOTSET", Some(pads)) => {
                let fits = pads.len() == 2 * count && pads.iter().all(|&p| p <= MAX_EXTENT);
                require(fits, "`pads` does not fit the operand", format!("{} numbers", 2 * count), pads.len())?;
                self.pad_low = pads[..count].to_vec();
                self.pad_high = pads[count..].to_vec();
            }
            ("SAME_UPPER" | "SAME_LOWER", _) => {
                let totals = (0..count).map(|d| self.same_padding(d, spatial[d])).collect::<Vec<_>>();
                let (half, rest) = (totals.iter().map(|t| t / 2), totals.iter().map(|t| t - t / 2));
                let (low, high): (Vec<_>, Vec<_>) = (half.collect(), rest.collect());
                (self.pad_low, self.pad_high) = if mode == "SAME_UPPER" { (low, high) } else { (high, low) };
            }
            (other, _) => {
                let known = "NOTSET, VALID, SAME_UPPER or SAME_LOWER";
                return Err(Fault::unsupported("unknown `auto_pad`").expected(known).found(other));
            }
        }
        Ok(())
    }

    /// Elements a window reaches over, along one axis.
    pub fn reach(&self, d: usize) -> usize {
        (self.kernel[d].max(1) - 1).saturating_mul(self.dilation[d]).saturating_add(1)
    }

    /// Padding with which there are ⌈extent / stride⌉ windows.
    fn same_padding(&self, d: usize, extent: usize) -> usize {
        let windows = extent.div_ceil(self.stride[d]);
        (windows.saturating_sub(1) * self.stride[d]).saturating_add(self.reach(d)).saturating_sub(extent)
    }

    /// Pads at the end so that the last window, which would reach over it, fits; windows that begin in that padding
    /// are left out, as in PyTorch. Returns what was added.
    pub fn round_up(&mut self, spatial: &[usize]) -> Vec<usize> {
        let added = (0..spatial.len()).map(|d| {
            let padded = spatial[d].saturating_add(self.pad_low[d]).saturating_add(self.pad_high[d]);
            let Some(travel) = padded.checked_sub(self.reach(d)) else { return 0 };
            let last = travel.div_ceil(self.stride[d]) * self.stride[d];
            if last >= spatial[d] + self.pad_low[d] { 0 } else { last - travel }
        });
        let added: Vec<usize> = added.collect();
        self.pad_high.iter_mut().zip(&added).for_each(|(pad, more)| *pad += more);
        added
    }
}
