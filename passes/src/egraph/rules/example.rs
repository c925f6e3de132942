//! Random instances of left-hand sides, for the rule laws.

use crate::axes::inverse;
use gradc_ir::builder::Builder;
use gradc_ir::graph::Value;
use gradc_ir::types::{DType, TensorType, TypeError};
use std::ops::{Deref, DerefMut};

/// SplitMix64 (Steele, Lea, Flood 2014): small, portable, the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An integer below `n`, which is positive.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A builder that makes random operands and random data movement. Dereferences to [`Builder`].
pub struct Sampler {
    builder: Builder,
    random: Random,
    inputs: usize,
}

impl Deref for Sampler {
    type Target = Builder;
    fn deref(&self) -> &Builder {
        &self.builder
    }
}

impl DerefMut for Sampler {
    fn deref_mut(&mut self) -> &mut Builder {
        &mut self.builder
    }
}

type Sampled = Result<Value, TypeError>;

impl Sampler {
    /// A sampler with a seed.
    pub fn new(seed: u64) -> Self {
        Sampler { builder: Builder::new("example"), random: Random::new(seed), inputs: 0 }
    }

    /// The builder.
    pub fn into_builder(self) -> Builder {
        self.builder
    }

    /// An integer below `n`, which is positive.
    pub fn below(&mut self, n: usize) -> usize {
        self.random.below(n)
    }

    /// Extents from 1 to 4, ones being rarer.
    pub fn extents(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| [1, 2, 2, 3, 3, 4][self.below(6)]).collect()
    }

    /// A new f32 input.
    pub fn float(&mut self, shape: &[usize]) -> Sampled {
        self.value(DType::F32, shape)
    }

    /// A new input of any dtype.
    pub fn value(&mut self, dtype: DType, shape: &[usize]) -> Sampled {
        self.inputs += 1;
        let name = format!("x{}", self.inputs);
        self.builder.input(&name, TensorType::new(dtype, shape))
    }

    /// A new f32 input of random shape with 1 to 3 axes.
    pub fn any(&mut self) -> Sampled {
        let rank = 1 + self.below(3);
        let shape = self.extents(rank);
        self.float(&shape)
    }

    /// A new f32 input of the shape of `x`.
    pub fn like(&mut self, x: Value) -> Sampled {
        let shape = self.shape(x).to_vec();
        self.float(&shape)
    }

    /// An f32 constant of the shape of `x`.
    pub fn constant_like(&mut self, x: Value, value: f64) -> Sampled {
        let ty = self.ty(x).clone();
        self.splat(&ty, value)
    }

    /// A random permutation of `rank` axes.
    pub fn permutation(&mut self, rank: usize) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..rank).collect();
        (1..rank).rev().for_each(|k| perm.swap(k, self.random.below(k + 1)));
        perm
    }

    /// A random choice of axes, ascending.
    pub fn axes(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).filter(|_| self.random.below(2) == 0).collect()
    }

    /// `x` with its axes permuted at random.
    pub fn transposed(&mut self, x: Value) -> Sampled {
        let perm = self.permutation(self.shape(x).len());
        self.transpose(x, &perm)
    }

    /// A value that is a transpose of a new input and has the given shape, with the permutation.
    pub fn made_by_transpose(&mut self, shape: &[usize], perm: &[usize]) -> Sampled {
        let source: Vec<usize> = inverse(perm).iter().map(|&k| shape[k]).collect();
        let x = self.float(&source)?;
        self.transpose(x, perm)
    }

    /// A shape with as many elements as `x`: neighbours merged, axes split, ones put in.
    pub fn regrouped(&mut self, x: Value) -> Vec<usize> {
        let mut out: Vec<usize> = Vec::new();
        for extent in self.shape(x).to_vec() {
            match (self.below(4), out.last_mut()) {
                (0, Some(last)) => *last *= extent,
                (1, _) if extent % 2 == 0 => out.extend([2, extent / 2]),
                (2, _) => out.extend([1, extent]),
                _ => out.push(extent),
            }
        }
        out
    }

    /// `x` under a random other shape.
    pub fn reshaped(&mut self, x: Value) -> Sampled {
        let shape = self.regrouped(x);
        self.reshape(x, &shape)
    }

    /// `x` repeated along up to two random new axes.
    pub fn repeated(&mut self, x: Value) -> Sampled {
        let (shape, dims) = self.repetition(x);
        self.broadcast(x, &shape, &dims)
    }

    /// A shape that repeats `x` along one or two new axes, and where the old axes went.
    pub fn repetition(&mut self, x: Value) -> (Vec<usize>, Vec<usize>) {
        let mut axes: Vec<(usize, bool)> = self.shape(x).iter().map(|&d| (d, true)).collect();
        for _ in 0..1 + self.below(2) {
            let (at, extent) = (self.below(axes.len() + 1), 1 + self.below(3));
            axes.insert(at, (extent, false));
        }
        let dims = (0..axes.len()).filter(|&d| axes[d].1).collect();
        (axes.into_iter().map(|(extent, _)| extent).collect(), dims)
    }
}
