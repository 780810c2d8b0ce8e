//! Which parts of the arena are free. Freed parts rest until the caller has seen every CPU leave the programs that may
//! still read them. Pure bookkeeping, in lines of `ARENA_LINE` words.

use lb_common::table::{ARENA_LINE, Region};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Space {
    /// First line and length of each free part.
    free: BTreeMap<u32, u32>,
    resting: Vec<Region>,
}

impl Space {
    /// All of `lines` but the first, which stays zero: it is what an absent table points at.
    pub fn new(lines: u32) -> Self {
        Self { free: [(1, lines.saturating_sub(1))].into(), resting: Vec::new() }
    }

    /// Room for `words`, whole lines. `None`: there is no free part as large.
    pub fn take(&mut self, words: u32) -> Option<Region> {
        let lines = words.div_ceil(ARENA_LINE as u32);
        let (start, length) =
            self.free.iter().find(|(_, length)| **length >= lines).map(|(start, length)| (*start, *length))?;
        self.free.remove(&start);
        if length > lines {
            self.free.insert(start + lines, length - lines);
        }
        Some(Region::new(start * ARENA_LINE as u32, words))
    }

    /// Marks a part as taken that a former agent left in use.
    pub fn reserve(&mut self, region: Region) {
        let (start, lines) = lines_of(region);
        let Some((from, length)) = self.free.range(..=start).next_back().map(|(from, length)| (*from, *length)) else {
            return;
        };
        if from + length < start + lines {
            return;
        }
        self.free.remove(&from);
        if start > from {
            self.free.insert(from, start - from);
        }
        if from + length > start + lines {
            self.free.insert(start + lines, from + length - start - lines);
        }
    }

    pub fn rest(&mut self, region: Region) {
        if region.words() > 0 {
            self.resting.push(region);
        }
    }

    /// Frees what rests. To be called after a grace period that began after the last [`Space::rest`].
    pub fn wake(&mut self) {
        for region in std::mem::take(&mut self.resting) {
            let (mut start, mut length) = lines_of(region);
            if let Some((before, before_length)) =
                self.free.range(..start).next_back().map(|(start, length)| (*start, *length))
                && before + before_length == start
            {
                self.free.remove(&before);
                (start, length) = (before, before_length + length);
            }
            if let Some(after_length) = self.free.remove(&(start + length)) {
                length += after_length;
            }
            self.free.insert(start, length);
        }
    }

    /// Words free now, in all and in the largest part.
    pub fn free_words(&self) -> (u32, u32) {
        let line = ARENA_LINE as u32;
        (self.free.values().sum::<u32>() * line, self.free.values().max().copied().unwrap_or(0) * line)
    }
}

fn lines_of(region: Region) -> (u32, u32) {
    (region.offset() / ARENA_LINE as u32, region.words().div_ceil(ARENA_LINE as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_never_overlap_and_all_comes_back(sizes in proptest::collection::vec(1u32..400, 1..60), freed in proptest::collection::vec(any::<bool>(), 60)) {
            let mut space = Space::new(400);
            let all = space.free_words();
            let mut taken: Vec<Region> = Vec::new();
            for (words, free) in sizes.into_iter().zip(freed) {
                if let Some(region) = space.take(words) {
                    let end = |region: &Region| region.offset() + region.words();
                    prop_assert!(region.offset() >= ARENA_LINE as u32);
                    prop_assert!(taken.iter().all(|other| end(other) <= region.offset() || end(&region) <= other.offset()));
                    taken.push(region);
                }
                if free && !taken.is_empty() {
                    space.rest(taken.remove(0));
                    space.wake();
                }
            }
            let mut again = Space::new(400);
            taken.iter().for_each(|region| again.reserve(*region));
            prop_assert_eq!(again.free_words(), space.free_words());
            taken.into_iter().for_each(|region| space.rest(region));
            space.wake();
            prop_assert_eq!(space.free_words(), all);
        }
    }
}
