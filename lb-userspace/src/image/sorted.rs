//! A map as one sorted list behind a counted reference: an unchanged one is shared between revisions for nothing, and two
//! that are shared are equal at a glance. Meant to be built at once; single insertions are linear.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

/// Entries in the order of their keys, each key once.
#[derive(Debug)]
pub struct Sorted<K, V>(Arc<Vec<(K, V)>>);

impl<K, V> Clone for Sorted<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Sorted<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.0 == other.0
    }
}

impl<K, V> Sorted<K, V> {
    /// Whether both are one list in memory, and so equal.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Sorted<K, V> {
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(known, _)| known.borrow().cmp(key))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// What it takes to come from `self` to `new`, in the order of keys: entries that are new or differ by `same`, and keys
    /// that are gone with their values.
    pub fn changes<'a>(&'a self, new: &'a Self, same: impl Fn(&V, &V) -> bool) -> Changes<'a, K, V> {
        let mut changes = Changes { put: Vec::new(), gone: Vec::new() };
        if self.is_same(new) {
            return changes;
        }
        let (mut old, mut new) = (self.0.iter().peekable(), new.0.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some((_, before)), Some((_, after))) if same(before, after) => {}
                (_, Some((key, value))) => changes.put.push((key, value)),
                (Some((key, value)), None) => changes.gone.push((key, value)),
                (None, None) => return changes,
            }
        }
    }
}

/// What [`Sorted::changes`] finds.
#[derive(Debug)]
pub struct Changes<'a, K, V> {
    pub put: Vec<(&'a K, &'a V)>,
    pub gone: Vec<(&'a K, &'a V)>,
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(&mut Arc::make_mut(&mut self.0)[at].1)
    }

    /// The value that was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = match self.0.last() {
            Some((last, _)) if *last < key => Err(self.0.len()),
            _ => self.find(&key),
        };
        let entries = Arc::make_mut(&mut self.0);
        match at {
            Ok(at) => Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => {
                entries.insert(at, (key, value));
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.find(key).ok()?;
        Some(Arc::make_mut(&mut self.0).remove(at).1)
    }
}

/// Of several entries of one key the first counts.
impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, first| later.0 == first.0);
        Self(Arc::new(entries))
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Sorted<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<'a, K, V> IntoIterator for &'a Sorted<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u8..20, any::<u8>()), 0..60)) {
            let (mut map, mut sorted) = (BTreeMap::new(), Sorted::default());
            for (insert, key, value) in steps {
                let kept = sorted.clone();
                let before: Vec<(u8, u8)> = kept.iter().map(|(key, value)| (*key, *value)).collect();
                match insert {
                    true => prop_assert_eq!(map.insert(key, value), sorted.insert(key, value)),
                    false => prop_assert_eq!(map.remove(&key), sorted.remove(&key)),
                }
                prop_assert!(map.iter().eq(sorted.iter()));
                prop_assert_eq!(map.get(&key), sorted.get(&key));
                prop_assert!(kept.iter().map(|(key, value)| (*key, *value)).eq(before), "a copy changed");
            }
        }

        #[test]
        fn changes_lead_from_one_to_the_other(
            old in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20), new in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20),
        ) {
            let (before, after): (Sorted<u8, u8>, Sorted<u8, u8>) = (old.clone().into_iter().collect(), new.clone().into_iter().collect());
            let changes = before.changes(&after, |a, b| a == b);
            let put: Vec<_> = new.iter().filter(|(key, value)| old.get(key) != Some(value)).collect();
            let gone: Vec<_> = old.iter().filter(|(key, _)| !new.contains_key(key)).collect();
            prop_assert_eq!(changes.put, put);
            prop_assert_eq!(changes.gone, gone);
        }
    }

    #[test]
    fn of_several_entries_of_one_key_the_first_counts() {
        let sorted: Sorted<u8, char> = [(2, 'a'), (1, 'b'), (2, 'c')].into_iter().collect();
        assert!(sorted.iter().eq([(&1, &'b'), (&2, &'a')]));
    }
}
