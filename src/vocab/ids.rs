//! Maps of user and group ids: what a layer stores, what the view shows for it, and back.
//!
//! The words are fuse-overlayfs(1)'s: `STORED:SHOWN:COUNT`, more of them joined by colons. An engine passes the map of a
//! container's user namespace (id inside, id outside, count): so the layers hold the ids that are seen inside.

use super::owner::OVERFLOW;

/// `count` ids from `stored` on are shown as those from `shown` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    stored: u32,
    shown: u32,
    count: u32,
}

/// The map of user ids, or that of group ids. The default shows what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    ranges: Vec<Range>,
    squash: Option<u32>,
}

/// Both maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Of user ids.
    pub uid: IdMap,
    /// Of group ids.
    pub gid: IdMap,
}

impl IdMap {
    /// Reads `STORED:SHOWN:COUNT[:STORED:SHOWN:COUNT..]`; a colon in front means nothing.
    ///
    /// # Errors
    /// Why the words are no map.
    pub fn parse(words: &str) -> Result<Self, String> {
        let words = words.strip_prefix(':').unwrap_or(words);
        let numbers: Vec<u32> = words
            .split(':')
            .map(|w| w.parse().map_err(|_| format!("{w:?} is not a number below 2^32")))
            .collect::<Result<_, _>>()?;
        if !numbers.len().is_multiple_of(3) {
            return Err(format!("{} numbers are not triples", numbers.len()));
        }
        let mut ranges: Vec<Range> = Vec::new();
        for triple in numbers.chunks_exact(3) {
            let &[stored, shown, count] = triple else { continue };
            if count == 0 || stored.checked_add(count - 1).is_none() || shown.checked_add(count - 1).is_none() {
                return Err(format!("{stored}:{shown}:{count} is an empty range or ends past 2^32"));
            }
            let one = Range { stored, shown, count };
            if ranges
                .iter()
                .any(|r| overlap(r.stored, r.count, stored, count) || overlap(r.shown, r.count, shown, count))
            {
                return Err(format!("{stored}:{shown}:{count} overlaps another range"));
            }
            ranges.push(one);
        }
        Ok(Self { ranges, squash: None })
    }

    /// Everything is shown as this id's.
    pub fn squash(&mut self, id: u32) {
        self.squash = Some(id);
    }

    /// Everything is shown as root's unless another id was named.
    pub fn squash_to_root(&mut self) {
        self.squash.get_or_insert(0);
    }

    /// Takes the ranges of another map.
    pub fn set_ranges(&mut self, other: Self) {
        self.ranges = other.ranges;
    }

    /// Shown is what is stored.
    pub fn is_identity(&self) -> bool {
        self.ranges.is_empty() && self.squash.is_none()
    }

    /// Whether all show one owner, whoever it is.
    pub fn is_squashed(&self) -> bool {
        self.squash.is_some()
    }

    /// What a stored id is shown as.
    pub fn shown(&self, stored: u32) -> u32 {
        if let Some(id) = self.squash {
            return id;
        }
        if self.ranges.is_empty() {
            return stored;
        }
        let of = |r: &Range| stored.checked_sub(r.stored).filter(|n| *n < r.count).map(|n| r.shown + n);
        self.ranges.iter().find_map(of).unwrap_or(OVERFLOW)
    }

    /// What is stored for an id of the view; `None` if the map does not know it.
    pub fn stored(&self, shown: u32) -> Option<u32> {
        if self.ranges.is_empty() {
            return Some(shown);
        }
        let of = |r: &Range| shown.checked_sub(r.shown).filter(|n| *n < r.count).map(|n| r.stored + n);
        self.ranges.iter().find_map(of)
    }

    /// What is stored for what somebody makes: as nobody's if the map does not know them.
    pub fn stored_for(&self, caller: u32) -> u32 {
        self.stored(caller).unwrap_or(OVERFLOW)
    }
}

impl IdMaps {
    /// Everything is shown as root's; stored is what it is. For a namespace in which only root is there: the kernel lets
    /// nobody write to what belongs to somebody it does not know.
    pub fn all_root() -> Self {
        let root = IdMap { ranges: Vec::new(), squash: Some(0) };
        Self { uid: root.clone(), gid: root }
    }

    /// Shown is what is stored.
    pub fn is_identity(&self) -> bool {
        self.uid.is_identity() && self.gid.is_identity()
    }

    /// Whether one owner is shown for all: then it matters little whose a thing is on disk.
    pub fn is_squashed(&self) -> bool {
        self.uid.is_squashed() || self.gid.is_squashed()
    }
}

fn overlap(a: u32, a_count: u32, b: u32, b_count: u32) -> bool {
    let end = |at: u32, count: u32| u64::from(at) + u64::from(count);
    u64::from(a) < end(b, b_count) && u64::from(b) < end(a, a_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let rootless = IdMap::parse(":0:1:1001:1001:0:1:1002:1002:64535").unwrap();
        assert_eq!(IdMap::parse("0:1:1001:1001:0:1:1002:1002:64535").unwrap(), rootless);
        for (stored, shown) in [(0, 1), (1000, 1001), (1001, 0), (1002, 1002), (65536, 65536)] {
            assert_eq!((rootless.shown(stored), rootless.stored(shown)), (shown, Some(stored)), "{stored}");
        }
        assert_eq!((rootless.shown(65537), rootless.stored(65537)), (OVERFLOW, None));
        assert_eq!(rootless.stored_for(65537), OVERFLOW);
        let high = IdMap::parse("0:4294967294:2").unwrap();
        assert_eq!((high.shown(1), high.stored(u32::MAX)), (u32::MAX, Some(1)));
    }

    #[test]
    fn no_map_and_squashed_ones() {
        let none = IdMap::default();
        assert!(none.is_identity());
        assert_eq!((none.shown(7), none.stored(7)), (7, Some(7)));
        let mut map = IdMap::parse("0:1000:10").unwrap();
        map.squash_to_root();
        assert_eq!((map.shown(5), map.stored(1005), map.is_identity()), (0, Some(5), false));
        // Whichever comes first, the one that is named wins.
        map.squash(33);
        map.squash_to_root();
        assert_eq!(map.shown(5), 33);
    }

    #[test]
    fn what_is_no_map() {
        for bad in ["", ":", "0", "0:1", "0:1:2:3", "a:0:1", "0:1:0", "-1:0:1", "0:4294967295:2", "0:1:2:", "::0:1:2"] {
            assert!(IdMap::parse(bad).is_err(), "{bad}");
        }
        for overlapping in ["0:10:5:4:100:1", "0:10:5:100:14:1"] {
            assert!(IdMap::parse(overlapping).unwrap_err().contains("overlaps"), "{overlapping}");
        }
    }
}
