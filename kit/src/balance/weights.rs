//! Whose part of the sum of all weights is where.

use std::sync::Arc;

use super::chunked::Chunked;

/// The sums of the weights in a list, chunk by chunk, so that chunks that stay need not be added up again.
#[derive(Debug, PartialEq)]
pub(super) struct Weights {
    /// In each chunk, the sum of the weights up to and with each item.
    sums: Box<[Arc<[u64]>]>,
    /// The sum, and how many items there are, up to the end of each chunk.
    ends: Box<[(u64, usize)]>,
}

impl Weights {
    /// Those of `list`, some of which are in `old` already.
    pub(super) fn after<T>(
        old: Option<(&Self, &Chunked<T>)>,
        list: &Chunked<T>,
        weight: impl Fn(&T) -> u32,
    ) -> Self {
        let add = |chunk: &Arc<[T]>| {
            let mut sum = 0;
            let sums = chunk.iter().map(|item| {
                sum += u64::from(weight(item));
                sum
            });
            sums.collect()
        };
        let sums: Box<[Arc<[u64]>]> = match old {
            None => list.chunks().iter().map(add).collect(),
            Some((old, before)) => {
                let kept = list.beside(before);
                kept.map(|(chunk, place)| match place {
                    Some(place) => Arc::clone(&old.sums[place]),
                    None => add(chunk),
                })
                .collect()
            }
        };
        let mut end = (0, 0);
        let ends = sums.iter().map(|sums| {
            end.0 += sums.last().copied().unwrap_or_default();
            end.1 += sums.len();
            end
        });
        Self {
            ends: ends.collect(),
            sums,
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.ends.last().map_or(0, |(sum, _)| *sum)
    }

    /// The index of the item to whose weight `at` belongs, where 0 is the first item's; it is below the total.
    pub(super) fn index(&self, at: u64) -> usize {
        let chunk = self.ends.partition_point(|(sum, _)| *sum <= at);
        let (before, start) = match chunk.checked_sub(1) {
            Some(before) => self.ends[before],
            None => (0, 0),
        };
        start + self.sums[chunk].partition_point(|sum| *sum <= at - before)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::chunked::Themselves, *};

    proptest! {
        /// Through any changes, what was added up before and what is added up anew are the same; and each item has as
        /// many places as its weight.
        #[test]
        fn what_stays_need_not_be_added_up_again(
            steps in prop::collection::vec(prop::collection::btree_set(0_u16..900, 0..40), 1..8),
        ) {
            let weight = |item: &u16| u32::from(item % 5);
            let mut model: BTreeSet<u16> = (0..900).step_by(2).collect();
            let mut list: Chunked<u16> = model.iter().copied().collect();
            let mut weights = Weights::after(None, &list, weight);
            for turned in steps {
                model = model.symmetric_difference(&turned).copied().collect();
                let keys: Vec<_> = model.iter().copied().collect();
                let next = list.next(&keys, &Themselves);
                weights = Weights::after(Some((&weights, &list)), &next, weight);
                list = next;
                prop_assert_eq!(&weights, &Weights::after(None, &list, weight));
                let owners = model.iter().enumerate().flat_map(|(index, item)| {
                    (0..weight(item)).map(move |_| index)
                });
                prop_assert!(owners.eq((0..weights.total()).map(|at| weights.index(at))));
            }
        }
    }
}
