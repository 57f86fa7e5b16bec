//! An ordered list in pieces: one that is much like another shares most of them.
//!
//! One of 10,000 endpoints is replaced by making one or two chunks anew and sharing all others, where a plain array
//! would count 10,000 references up and down again. The price is a search for the chunk of an index, among so few that
//! their ends lie in some cache lines; a list of one chunk does not pay it.

use std::{cmp::Ordering, sync::Arc};

/// The most items of one chunk.
const MOST: usize = 128;

pub(super) struct Chunked<T> {
    chunks: Box<[Arc<[T]>]>,
    /// For each chunk, how many items there are up to its end.
    ends: Box<[u32]>,
}

impl<T> Chunked<T> {
    pub(super) fn empty() -> Self {
        Self::of(Vec::new())
    }

    fn of(chunks: Vec<Arc<[T]>>) -> Self {
        let mut end = 0;
        let ends = chunks.iter().map(|chunk| {
            end += chunk.len() as u32;
            end
        });
        Self {
            ends: ends.collect(),
            chunks: chunks.into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Panics if `index` is not below the length.
    pub(super) fn get(&self, index: usize) -> &T {
        if let [only] = &*self.chunks {
            return &only[index];
        }
        let chunk = self.ends.partition_point(|end| *end as usize <= index);
        let items = &self.chunks[chunk];
        // Counted from the end, which is known.
        &items[index + items.len() - self.ends[chunk] as usize]
    }

    pub(super) fn chunks(&self) -> &[Arc<[T]>] {
        &self.chunks
    }

    /// Each chunk, with the place at which `old` has the very same one.
    pub(super) fn beside<'a>(
        &'a self,
        old: &'a Self,
    ) -> impl Iterator<Item = (&'a Arc<[T]>, Option<usize>)> {
        // Those that they share are in the same order in both.
        let mut from = 0;
        self.chunks.iter().map(move |chunk| {
            let is_same = |other| Arc::ptr_eq(chunk, other);
            let place = old.chunks[from..].iter().position(is_same);
            let place = place.map(|place| from + place);
            from = place.map_or(from, |place| place + 1);
            (chunk, place)
        })
    }

    /// What there is in chunks that `other` does not have, with its index.
    fn unlike<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (usize, &'a T)> {
        let chunks = self.beside(other).zip(&self.ends);
        let unlike = chunks.filter(|((_, place), _)| place.is_none());
        unlike.flat_map(|((chunk, _), end)| (*end as usize - chunk.len()..).zip(chunk.iter()))
    }

    /// Those, with their indices, of which `other` has no equal; both are in the order of `compare`. Chunks that they
    /// share are not looked into.
    pub(super) fn not_in<'a>(
        &'a self,
        other: &'a Self,
        compare: impl Fn(&T, &T) -> Ordering + 'a,
    ) -> impl Iterator<Item = (usize, &'a T)> {
        let mut others = other.unlike(self).peekable();
        self.unlike(other).filter(move |(_, item)| {
            while others
                .next_if(|(_, other)| compare(other, item).is_lt())
                .is_some()
            {}
            others
                .next_if(|(_, other)| compare(other, item).is_eq())
                .is_none()
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Whether it is `other`, and not only equal to it.
    pub(super) fn is(&self, other: &Self) -> bool {
        let pairs = || self.chunks.iter().zip(&other.chunks);
        self.chunks.len() == other.chunks.len() && pairs().all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// How the keys that a list is made from, which are in order, compare with its items.
pub(super) trait Keys<T> {
    type Key;

    /// Whether the item is what `make` would make.
    fn is_same(&self, item: &T, key: &Self::Key) -> bool;

    fn compare(&self, item: &T, key: &Self::Key) -> Ordering;

    /// Makes an item, given the one of the same key in the list before.
    fn make(&self, key: &Self::Key, old: Option<&T>) -> T;
}

impl<T: Clone> Chunked<T> {
    /// The list of `keys`, which shares with this one all chunks that stay as they are.
    pub(super) fn next<K: Keys<T>>(&self, keys: &[K::Key], how: &K) -> Self {
        let mut chunks = Vec::with_capacity(self.chunks.len() + 2);
        let mut made = Vec::new();
        let mut rest = keys;
        for chunk in &self.chunks {
            let same = |(item, key)| how.is_same(item, key);
            if chunk.len() <= rest.len() && chunk.iter().zip(rest).all(same) {
                split(&mut made, &mut chunks);
                chunks.push(Arc::clone(chunk));
                rest = &rest[chunk.len()..];
                continue;
            }
            let last = chunk.last().expect("no chunk is empty");
            let is_before_end = |key: &K::Key| how.compare(last, key) != Ordering::Less;
            let (keys, others) = rest.split_at(rest.partition_point(is_before_end));
            let mut old = chunk.iter().peekable();
            for key in keys {
                while old
                    .next_if(|old| how.compare(old, key) == Ordering::Less)
                    .is_some()
                {}
                let old = old.next_if(|old| how.compare(old, key) == Ordering::Equal);
                made.push(how.make(key, old));
            }
            rest = others;
        }
        made.extend(rest.iter().map(|key| how.make(key, None)));
        split(&mut made, &mut chunks);
        Self::of(chunks).packed()
    }

    /// What shrank piece by piece is put together again.
    fn packed(self) -> Self {
        if self.chunks.len() <= 2 + 4 * self.len() / MOST {
            return self;
        }
        let mut all = self.iter().cloned().collect();
        let mut chunks = Vec::new();
        split(&mut all, &mut chunks);
        Self::of(chunks)
    }
}

/// Moves the items into as few chunks as may be, of about the same size.
fn split<T>(items: &mut Vec<T>, chunks: &mut Vec<Arc<[T]>>) {
    let pieces = items.len().div_ceil(MOST);
    let mut items = items.drain(..);
    for left in (1..=pieces).rev() {
        let size = items.len().div_ceil(left);
        chunks.push(items.by_ref().take(size).collect());
    }
}

/// Items that are their own keys.
#[cfg(test)]
pub(super) struct Themselves;

#[cfg(test)]
impl<T: Ord + Clone> Keys<T> for Themselves {
    type Key = T;

    fn is_same(&self, item: &T, key: &T) -> bool {
        item == key
    }

    fn compare(&self, item: &T, key: &T) -> Ordering {
        item.cmp(key)
    }

    fn make(&self, key: &T, _: Option<&T>) -> T {
        key.clone()
    }
}

#[cfg(test)]
impl<T: Clone> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut chunks = Vec::new();
        split(&mut items.into_iter().collect(), &mut chunks);
        Self::of(chunks)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Items are pairs of a key and a version; counts how many are made.
    struct Counted(Cell<usize>);

    impl Keys<(u16, u8)> for Counted {
        type Key = (u16, u8);

        fn is_same(&self, item: &(u16, u8), key: &(u16, u8)) -> bool {
            item == key
        }

        fn compare(&self, item: &(u16, u8), key: &(u16, u8)) -> Ordering {
            item.0.cmp(&key.0)
        }

        fn make(&self, key: &(u16, u8), old: Option<&(u16, u8)>) -> (u16, u8) {
            assert!(old.is_none_or(|old| old.0 == key.0));
            self.0.set(self.0.get() + 1);
            *key
        }
    }

    fn check(list: &Chunked<(u16, u8)>, keys: &[(u16, u8)]) {
        assert_eq!(list.len(), keys.len());
        assert_eq!(list.is_empty(), keys.is_empty());
        assert!(list.iter().eq(keys));
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(list.get(index), key);
        }
        assert!(
            list.chunks
                .iter()
                .all(|chunk| (1..=MOST).contains(&chunk.len()))
        );
        assert!(list.chunks.len() <= 2 + 4 * keys.len() / MOST);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a sorted list, through any changes: of all kinds, here and there or of whole ranges.
        #[test]
        fn it_has_what_it_was_made_from_and_shares_what_stayed(
            changes in prop::collection::vec((any::<u16>(), 0_u16..3000, 0_u8..3, 1_usize..5), 1..20),
        ) {
            let mut keys: Vec<_> = (0..2000_u16).map(|n| (n * 16, 0)).collect();
            let how = Counted(Cell::new(0));
            let mut list = Chunked::empty().next(&keys, &how);
            check(&list, &keys);
            for (from, width, kind, step) in changes {
                let range = from..=from.saturating_add(width);
                match kind {
                    0 => keys.retain(|(key, _)| !range.contains(key)),
                    1 => for key in range.step_by(step) {
                        if let Err(place) = keys.binary_search_by_key(&key, |(key, _)| *key) {
                            keys.insert(place, (key, 0));
                        }
                    },
                    _ => for (key, version) in &mut keys {
                        *version += u8::from(range.contains(key) && *version < 9);
                    },
                }
                let old = list;
                list = old.next(&keys, &how);
                check(&list, &keys);
                let compare = |a: &(u16, u8), b: &(u16, u8)| a.0.cmp(&b.0);
                for (list, other) in [(&list, &old), (&old, &list)] {
                    let others: BTreeSet<_> = other.iter().map(|item| item.0).collect();
                    let missing = list.iter().enumerate().filter(|(_, item)| !others.contains(&item.0));
                    prop_assert!(list.not_in(other, compare).eq(missing));
                }
                let before = how.0.get();
                prop_assert!(list.next(&keys, &how).is(&list));
                prop_assert_eq!(how.0.get(), before);
                // One more change of one item touches the chunks around it only.
                let Some(middle) = keys.len().checked_div(2).filter(|n| *n > 0) else { continue };
                let mut one = keys.clone();
                one.remove(middle);
                let next = list.next(&one, &how);
                check(&next, &one);
                prop_assert!(how.0.get() - before <= 2 * MOST);
                // What was not touched is the same, and told so.
                let mut shared = 0;
                for (chunk, place) in next.beside(&list) {
                    let Some(place) = place else { continue };
                    prop_assert!(Arc::ptr_eq(chunk, &list.chunks[place]));
                    shared += 1;
                }
                let repacked = next.chunks.len() < list.chunks.len() / 2;
                prop_assert!(repacked || shared + 2 >= list.chunks.len());
            }
        }
    }
}
