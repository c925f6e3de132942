//! Places in the arena: packing buffers that live for a while each into few bytes.
//!
//! This is offline dynamic storage allocation, which is NP-hard. Buffers are placed one after the other, each where it
//! fits among those placed before; what decides is the order. A few orders are tried, and what ends highest in the best
//! of them is moved to the front of its order again and again (Joslin and Clements, 1999, "Squeaky wheel
//! optimization") until the arena is no larger than what is alive at once, or the search is over.

use super::buffers::{Buffer, Storage};
use std::cmp::Reverse;

/// Pairs of buffers looked at in all searches together; a few dozen packings of a thousand buffers.
const FUEL: usize = 1 << 26;

/// Most times that buffers are moved to the front.
const MOST_ROUNDS: usize = 64;

/// Offset of each buffer, and the size of the arena that holds them.
pub(super) fn place_buffers(storage: &Storage) -> (Vec<usize>, usize) {
    let (buffers, bound_bytes) = (&storage.buffers, storage.live_bytes());
    let rounds = MOST_ROUNDS.min(FUEL / (buffers.len() * buffers.len()).max(1));
    let mut orders = orders(storage).into_iter();
    let mut best = Packing::new(buffers, orders.next().expect("there is more than one order"));
    for order in orders {
        if best.arena_bytes > bound_bytes {
            best = best.or_smaller(Packing::new(buffers, order));
        }
    }
    let mut last = best.clone();
    for _ in 0..rounds {
        if best.arena_bytes <= bound_bytes {
            break;
        }
        last = Packing::new(buffers, last.highest_first(buffers));
        best = best.or_smaller(last.clone());
    }
    (best.offsets, best.arena_bytes)
}

/// Orders of buffers that are worth trying: by size; by what is alive at the peak and size; by size times lifetime; as
/// they are made.
fn orders(storage: &Storage) -> [Vec<usize>; 4] {
    let live = storage.live();
    let peak = (0..live.len()).max_by_key(|&k| (live[k], Reverse(k))).unwrap_or(0);
    let buffers = &storage.buffers;
    let is_at_peak = |b: &Buffer| b.first <= peak && peak <= b.last;
    let sorted = |key: &dyn Fn(&Buffer) -> (usize, usize)| {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&k| (Reverse(key(&buffers[k])), buffers[k].first, k));
        order
    };
    [
        sorted(&|b| (b.size_bytes, 0)),
        sorted(&|b| (usize::from(is_at_peak(b)), b.size_bytes)),
        sorted(&|b| (b.size_bytes.saturating_mul(b.last - b.first + 1), 0)),
        sorted(&|b| (usize::MAX - b.first, b.size_bytes)),
    ]
}

/// Buffers with their places.
#[derive(Clone)]
struct Packing {
    /// The order in which they were placed.
    order: Vec<usize>,
    /// Offset of each, bytes.
    offsets: Vec<usize>,
    arena_bytes: usize,
}

impl Packing {
    /// Places buffers in an order, each at the lowest offset that is free for as long as it lives.
    fn new(buffers: &[Buffer], order: Vec<usize>) -> Self {
        let mut offsets = vec![0; buffers.len()];
        // Ascending by offset.
        let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
        let mut arena_bytes = 0;
        for &next in &order {
            let buffer = &buffers[next];
            let mut offset = 0;
            for &other in &placed {
                let (start, other) = (offsets[other], &buffers[other]);
                if other.first <= buffer.last && buffer.first <= other.last {
                    if start >= offset + buffer.size_bytes {
                        break;
                    }
                    offset = offset.max(start + other.size_bytes);
                }
            }
            offsets[next] = offset;
            arena_bytes = arena_bytes.max(offset + buffer.size_bytes);
            placed.insert(placed.partition_point(|&k| offsets[k] <= offset), next);
        }
        Packing { order, offsets, arena_bytes }
    }

    fn or_smaller(self, other: Packing) -> Packing {
        if other.arena_bytes < self.arena_bytes { other } else { self }
    }

    /// The order with the buffers that reach the end of the arena moved to the front.
    fn highest_first(&self, buffers: &[Buffer]) -> Vec<usize> {
        let is_highest = |&k: &usize| self.offsets[k] + buffers[k].size_bytes == self.arena_bytes;
        let (highest, rest): (Vec<usize>, Vec<usize>) = self.order.iter().partition(|k| is_highest(k));
        [highest, rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(buffers: &[(usize, usize, usize)]) -> Storage {
        let actions = buffers.iter().map(|b| b.2 + 1).max().unwrap_or(0);
        let buffers = buffers.iter().map(|&(size_bytes, first, last)| Buffer {
            values: vec![],
            work_of: None,
            size_bytes,
            first,
            last,
        });
        Storage { buffers: buffers.collect(), actions, ..Storage::default() }
    }

    /// Nothing alive at the same time overlaps; returns the arena's size.
    fn packed(storage: &Storage) -> usize {
        let (offsets, arena_bytes) = place_buffers(storage);
        let all: Vec<(&Buffer, usize)> = storage.buffers.iter().zip(offsets).collect();
        for (k, (a, at)) in all.iter().enumerate() {
            assert!(at + a.size_bytes <= arena_bytes);
            for (b, bt) in &all[..k] {
                let together = a.first <= b.last && b.first <= a.last;
                assert!(!together || at + a.size_bytes <= *bt || bt + b.size_bytes <= *at);
            }
        }
        arena_bytes
    }

    #[test]
    fn what_every_order_leaves_a_hole_for_is_moved_to_the_front() {
        let storage = storage(&[(320, 1, 3), (128, 3, 4), (256, 4, 6), (128, 4, 5)]);
        for order in orders(&storage) {
            assert!(Packing::new(&storage.buffers, order).arena_bytes > storage.live_bytes(), "the case is too easy");
        }
        assert_eq!(packed(&storage), storage.live_bytes());
    }

    #[test]
    fn random_buffers_stay_apart_and_close_to_the_bound() {
        let mut seed = 1u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) % n) as usize
        };
        for _ in 0..50 {
            let buffers: Vec<_> = (0..60).map(|_| (64 * (1 + below(40)), below(40))).collect();
            let buffers: Vec<_> = buffers.into_iter().map(|(size, first)| (size, first, first + below(8))).collect();
            let storage = storage(&buffers);
            let arena_bytes = packed(&storage);
            assert!(arena_bytes as f64 <= 1.15 * storage.live_bytes() as f64, "{arena_bytes}");
        }
    }

    #[test]
    fn no_buffers_need_no_arena() {
        assert_eq!(packed(&storage(&[])), 0);
    }
}
