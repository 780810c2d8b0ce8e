//! Numbers for names. A name keeps its number across revisions; a freed number rests for one revision, so that a packet
//! that still holds it meets nothing or its own, never a stranger.

use std::collections::{BTreeSet, HashMap};

/// Numbers for one kind of thing, known by the 64-bit hash of its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    taken: HashMap<u64, u32>,
    /// Freed since a revision was last in force: not to be given out yet.
    freed: BTreeSet<u32>,
    /// Freed by the last revision that came into force: not yet either.
    resting: BTreeSet<u32>,
    free: BTreeSet<u32>,
    next: u32,
}

impl Pool {
    /// A pool in which `taken` is in use already, as found in the kernel. Of several numbers of one name, left by a revision
    /// that was cut short, one is the name's and the others rest.
    pub fn recovered(taken: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let mut pool = Self::default();
        let mut used = BTreeSet::new();
        for (name, id) in taken {
            pool.next = pool.next.max(id + 1);
            used.insert(id);
            pool.freed.extend(pool.taken.insert(name, id).filter(|former| *former != id));
        }
        pool.free = (0..pool.next).filter(|id| !used.contains(id)).collect();
        pool
    }

    /// The number of a name; a new one where it has none.
    pub fn id(&mut self, name: u64) -> u32 {
        let Self { taken, free, next, .. } = self;
        *taken.entry(name).or_insert_with(|| {
            free.pop_first().unwrap_or_else(|| {
                *next += 1;
                *next - 1
            })
        })
    }

    /// Frees every number that is not among `used`, which a complete revision needs.
    pub fn keep(&mut self, used: impl IntoIterator<Item = u32>) {
        let mut keep = vec![false; self.next as usize];
        used.into_iter().for_each(|id| keep[id as usize] = true);
        let freed = &mut self.freed;
        self.taken.retain(|_, id| {
            let keep = keep[*id as usize];
            if !keep {
                freed.insert(*id);
            }
            keep
        });
    }

    /// Frees the number of a name, which no complete revision after the last one needs.
    pub fn free(&mut self, name: u64) {
        self.freed.extend(self.taken.remove(&name));
    }

    /// The revision is in force. Until then nothing it freed may be given out: tables may still point there.
    pub fn settle(&mut self) {
        self.free.append(&mut self.resting);
        self.resting.append(&mut self.freed);
    }
}

/// Everything that has a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ids {
    pub rules: Pool,
    pub subsets: Pool,
    pub destination_stats: Pool,
    pub backend_stats: Pool,
    /// Classes of clients, each one more than its number here.
    pub classes: Pool,
    pub backends: Backends,
}

impl Ids {
    /// To be called once a compiled revision is in force, and only then.
    pub fn settle(&mut self) {
        let Ids { rules, subsets, destination_stats, backend_stats, classes, backends: _ } = self;
        [rules, subsets, destination_stats, backend_stats, classes].into_iter().for_each(Pool::settle);
    }
}

/// Backend ids only ever grow: a flow entry may name one for hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Backends {
    known: HashMap<std::net::SocketAddr, u32>,
    next: u32,
}

impl Default for Backends {
    fn default() -> Self {
        // 0 is left out, so that a blank entry names no backend.
        Self { known: HashMap::new(), next: 1 }
    }
}

impl Backends {
    pub fn recovered(known: impl IntoIterator<Item = (std::net::SocketAddr, u32)>, next: u32) -> Self {
        let known: HashMap<_, _> = known.into_iter().collect();
        let next = known.values().map(|id| id + 1).chain([next, 1]).max().unwrap_or(1);
        Self { known, next }
    }

    pub fn id(&mut self, address: std::net::SocketAddr) -> u32 {
        let next = &mut self.next;
        *self.known.entry(address).or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Forgets every backend that `keep` does not name; it gets a new id should it return.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.known.retain(|_, id| keep(*id));
    }

    /// The same for one address.
    pub fn forget(&mut self, address: std::net::SocketAddr) {
        self.known.remove(&address);
    }

    pub const fn next(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_number_rests_for_one_revision() {
        let mut pool = Pool::default();
        let mut revision = |names: &[u64]| {
            let ids: Vec<u32> = names.iter().map(|name| pool.id(*name)).collect();
            pool.keep(ids.clone());
            pool.settle();
            ids
        };
        assert_eq!(revision(&[10, 20]), [0, 1]);
        assert_eq!(revision(&[10]), [0]);
        assert_eq!(revision(&[10, 30]), [0, 2], "1 was freed by the revision before");
        assert_eq!(revision(&[10, 30, 40]), [0, 2, 1]);
    }

    #[test]
    fn a_number_freed_by_a_revision_that_failed_rests_until_one_succeeds() {
        let mut pool = Pool::default();
        let mut revision = |names: &[u64]| {
            let ids: Vec<u32> = names.iter().map(|name| pool.id(*name)).collect();
            pool.keep(ids.clone());
            ids
        };
        assert_eq!(revision(&[10, 20]), [0, 1]);
        assert_eq!(revision(&[10]), [0]);
        assert_eq!(revision(&[10]), [0]);
        assert_eq!(revision(&[10, 30]), [0, 2]);
    }

    #[test]
    fn a_name_found_with_two_numbers_keeps_one_and_gives_none_away() {
        let mut pool = Pool::recovered([(10, 0), (10, 2)]);
        assert_eq!(pool.id(10), 2);
        assert_eq!((pool.id(20), pool.id(30)), (1, 3));
    }

    #[test]
    fn a_backend_that_returns_gets_a_new_id() {
        let mut backends = Backends::default();
        let address = "10.0.0.1:80".parse().unwrap();
        let first = backends.id(address);
        backends.retain(|_| false);
        assert_ne!(backends.id(address), first);
    }
}
