//! A map as a sorted list in pieces behind counted references: copies are free, a change copies one piece, and what two lists
//! share is equal at a glance.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

/// Most entries of a piece. A change copies one piece and the list of pieces.
const PIECE: usize = if cfg!(test) { 4 } else { 256 };

type Piece<K, V> = Arc<Vec<(K, V)>>;

/// Entries in the order of their keys, each key once.
#[derive(Debug)]
pub struct Sorted<K, V> {
    /// None is empty.
    pieces: Arc<Vec<Piece<K, V>>>,
    len: usize,
}

impl<K, V> Clone for Sorted<K, V> {
    fn clone(&self) -> Self {
        Self { pieces: self.pieces.clone(), len: self.len }
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { pieces: Arc::default(), len: 0 }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Sorted<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.walk(other).all(|(old, new)| matches!((old, new), (Some(old), Some(new)) if old.1 == new.1))
    }
}

impl<K, V> Sorted<K, V> {
    /// Whether both are one list in memory, and so equal.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// The piece in which a key is or would be, and its position there. Without pieces there is none.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let after = self.pieces.partition_point(|piece| piece.first().is_some_and(|(first, _)| first.borrow() <= key));
        let at = after.saturating_sub(1);
        let piece = self.pieces.get(at).map_or(&[][..], |piece| piece);
        (at, piece.binary_search_by(|(known, _)| known.borrow().cmp(key)))
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (piece, at) = self.find(key);
        at.ok().map(|at| &self.pieces[piece][at].1)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).1.is_ok()
    }

    /// The entries of both, those of one key side by side. Pieces that both share are left out.
    fn walk<'a>(&'a self, new: &'a Self) -> Walk<'a, K, V> {
        Walk { old: Cursor::new(&self.pieces), new: Cursor::new(&new.pieces) }
    }

    /// What it takes to come from `self` to `new`, in the order of keys: entries that are new or differ by `same`, and keys
    /// that are gone with their values.
    pub fn changes<'a>(&'a self, new: &'a Self, same: impl Fn(&V, &V) -> bool) -> Changes<'a, K, V> {
        let mut changes = Changes { put: Vec::new(), gone: Vec::new() };
        for (before, after) in self.walk(new) {
            match (before, after) {
                (Some((_, before)), Some((_, after))) if same(before, after) => {}
                (_, Some((key, value))) => changes.put.push((key, value)),
                (Some((key, value)), None) => changes.gone.push((key, value)),
                (None, None) => {}
            }
        }
        changes
    }
}

/// What [`Sorted::changes`] finds.
#[derive(Debug)]
pub struct Changes<'a, K, V> {
    pub put: Vec<(&'a K, &'a V)>,
    pub gone: Vec<(&'a K, &'a V)>,
}

/// A place in a list.
struct Cursor<'a, K, V> {
    pieces: &'a [Piece<K, V>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(pieces: &'a [Piece<K, V>]) -> Self {
        Self { pieces, at: 0 }
    }

    fn peek(&self) -> Option<&'a (K, V)> {
        self.pieces.first()?.get(self.at)
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let entry = self.peek()?;
        self.at += 1;
        if self.at == self.pieces[0].len() {
            self.skip();
        }
        Some(entry)
    }

    /// The piece that begins here.
    fn piece(&self) -> Option<&'a Piece<K, V>> {
        self.pieces.first().filter(|_| self.at == 0)
    }

    /// Goes to the next piece.
    fn skip(&mut self) {
        (self.pieces, self.at) = (&self.pieces[1..], 0);
    }
}

struct Walk<'a, K, V> {
    old: Cursor<'a, K, V>,
    new: Cursor<'a, K, V>,
}

impl<'a, K: Ord, V> Iterator for Walk<'a, K, V> {
    type Item = (Option<&'a (K, V)>, Option<&'a (K, V)>);

    fn next(&mut self) -> Option<Self::Item> {
        while let (Some(old), Some(new)) = (self.old.piece(), self.new.piece())
            && Arc::ptr_eq(old, new)
        {
            self.old.skip();
            self.new.skip();
        }
        let order = match (self.old.peek(), self.new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        let before = if order.is_le() { self.old.next() } else { None };
        let after = if order.is_ge() { self.new.next() } else { None };
        Some((before, after))
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (piece, at) = self.find(key);
        let at = at.ok()?;
        Some(&mut Arc::make_mut(&mut Arc::make_mut(&mut self.pieces)[piece])[at].1)
    }

    /// The value that was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (piece, at) = self.find(&key);
        let pieces = Arc::make_mut(&mut self.pieces);
        let Some(entries) = pieces.get_mut(piece) else {
            pieces.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let entries = Arc::make_mut(entries);
        let at = match at {
            Ok(at) => return Some(std::mem::replace(&mut entries[at].1, value)),
            Err(at) => at,
        };
        entries.insert(at, (key, value));
        self.len += 1;
        if entries.len() > PIECE {
            // Lists are mostly built in the order of their keys: then pieces stay full.
            let half = if at == PIECE { PIECE } else { PIECE / 2 };
            let rest = entries.split_off(half);
            pieces.insert(piece + 1, Arc::new(rest));
        }
        None
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (piece, at) = self.find(key);
        let at = at.ok()?;
        let pieces = Arc::make_mut(&mut self.pieces);
        let entries = Arc::make_mut(&mut pieces[piece]);
        let (_, value) = entries.remove(at);
        let len = entries.len();
        if len == 0 {
            pieces.remove(piece);
        } else if pieces.get(piece + 1).is_some_and(|next| len + next.len() <= PIECE / 2) {
            let next = pieces.remove(piece + 1);
            Arc::make_mut(&mut pieces[piece]).extend(next.iter().cloned());
        }
        self.len -= 1;
        Some(value)
    }
}

/// Of several entries of one key the first counts.
impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, first| later.0 == first.0);
        let (len, mut entries) = (entries.len(), entries.into_iter().peekable());
        let mut pieces = Vec::with_capacity(len.div_ceil(PIECE));
        while entries.peek().is_some() {
            pieces.push(Arc::new(entries.by_ref().take(PIECE).collect()));
        }
        Self { pieces: Arc::new(pieces), len }
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Sorted<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<'a, K, V> IntoIterator for &'a Sorted<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Box<dyn Iterator<Item = (&'a K, &'a V)> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
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
                prop_assert_eq!(sorted.len(), map.len());
                prop_assert!(sorted.pieces.iter().all(|piece| (1..=PIECE).contains(&piece.len())));
                prop_assert_eq!(kept == sorted, kept.iter().eq(sorted.iter()));
                let mut back = kept.clone();
                let changes = kept.changes(&sorted, |a, b| a == b);
                prop_assert!(changes.put.len() + changes.gone.len() <= 1, "one step is one change");
                changes.put.into_iter().for_each(|(key, value)| _ = back.insert(*key, *value));
                changes.gone.into_iter().for_each(|(key, _)| _ = back.remove(key));
                prop_assert!(back == sorted);
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
