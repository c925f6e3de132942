//! How a loop is cut into pieces that threads share: by shape and cost, never by the number of threads.

/// Scalar operations a chunk should have at least, about 5 µs of work: ten times what handing it over costs.
const GRAIN: usize = 1 << 16;

/// Most chunks of one kernel.
const MOST: usize = 32;

/// A number of chunks, at least one and at most `wanted`, that gives threads the same share: a power of two. One chunk
/// of a kernel is then some of another's, and a thread finds in its cache what it has made itself.
pub(crate) fn equal_shares(wanted: usize) -> usize {
    1 << wanted.max(1).ilog2()
}

/// Multiplications of a part of a sum, at least: about 5 µs of work.
const PART_PRODUCTS: usize = 1 << 18;

/// Terms of a part for each element of the result, at least: adding the parts up is then little beside making them.
const PART_DEPTH: usize = 256;

/// Largest result of which every part of its sums may have its own, in elements.
pub(crate) const SMALL_RESULT: usize = 1 << 14;

/// Most parts of a sum.
const MOST_PARTS: usize = 8;

/// In how many parts the depth of products had better be cut, whose sums are added up in their order: where a result of
/// at most `small` elements is a long sum (weight gradients), a thread then reads of both factors its own part alone.
/// One if in none. `products` may count some more than once, for what they cost.
pub(crate) fn parts_of_depth(products: usize, elements: usize, depth: usize, small: usize) -> usize {
    let most = if elements <= small { MOST_PARTS.min(depth / PART_DEPTH) } else { 1 };
    equal_shares((products / PART_PRODUCTS).clamp(1, most.max(1)))
}

/// A loop of `extent` trips cut into `count` chunks of `size`, the last one shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Trips of the loop.
    pub extent: usize,
    /// Trips of a chunk.
    pub size: usize,
    /// Number of chunks.
    pub count: usize,
}

impl Chunks {
    /// One chunk.
    pub fn whole(extent: usize) -> Chunks {
        Chunks { extent, size: extent, count: 1 }
    }

    /// Chunks of a multiple of `step` trips for work of the given cost in scalar operations.
    pub fn new(extent: usize, cost: usize, step: usize) -> Chunks {
        Chunks::of_equal_size(extent, (cost / GRAIN).clamp(1, MOST), step)
    }

    /// At most `wanted` chunks of a multiple of `step` trips, as equal as can be.
    pub fn of_equal_size(extent: usize, wanted: usize, step: usize) -> Chunks {
        let size = extent.div_ceil(equal_shares(wanted)).next_multiple_of(step).max(1);
        let count = extent.div_ceil(size).max(1);
        if count == 1 { Chunks::whole(extent) } else { Chunks { extent, size, count } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_cut_into_a_power_of_two_of_chunks() {
        let cases = [((48, 3, 1), 2), ((2048, 31, 1), 16), ((7, 16, 1), 7), ((5, 1, 1), 1), ((96, 6, 32), 3)];
        for ((extent, wanted, step), count) in cases {
            let chunks = Chunks::of_equal_size(extent, wanted, step);
            assert_eq!(chunks.count, count, "{chunks:?}");
            assert!(chunks.size * count >= extent && chunks.size * (count - 1) < extent, "{chunks:?}");
            assert!(count == 1 || chunks.size.is_multiple_of(step), "{chunks:?}");
        }
    }
}
