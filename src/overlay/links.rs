//! The names an inode is known by: one of most, and up to 65,000 of some.

use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;

use hashbrown::HashTable;

use super::node::{Name, Node};

/// A name the node is known by.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) parent: Arc<Node>,
    pub(super) name: Name,
}

impl Link {
    pub(super) fn is(&self, parent: &Arc<Node>, name: &[u8]) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

/// As many are looked through one after the other.
const FEW: usize = 16;

/// Names, each once. The first stays the first until it goes.
#[derive(Debug)]
pub(super) enum Links {
    One(Link),
    Few(Vec<Link>),
    Many(Box<Many>),
}

/// Names that are found by hash.
#[derive(Debug, Default)]
pub(super) struct Many {
    list: Vec<Link>,
    places: HashTable<usize>,
    hasher: RandomState,
}

impl Deref for Links {
    type Target = [Link];

    fn deref(&self) -> &[Link] {
        match self {
            Self::One(link) => std::slice::from_ref(link),
            Self::Few(list) => list,
            Self::Many(many) => &many.list,
        }
    }
}

impl Links {
    pub(super) const NONE: Self = Self::Few(Vec::new());

    /// Where a name is among them.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Option<usize> {
        match self {
            Self::Many(many) => many.find(parent, name),
            few => few.iter().position(|l| l.is(parent, name)),
        }
    }

    /// One more, which is not among them.
    pub(super) fn push(&mut self, link: Link) {
        match std::mem::replace(self, Self::NONE) {
            Self::Many(mut many) => {
                many.push(link);
                *self = Self::Many(many);
            }
            Self::One(one) => *self = Self::Few(vec![one, link]),
            Self::Few(list) if list.is_empty() => *self = Self::One(link),
            Self::Few(mut list) => {
                list.push(link);
                *self = if list.len() > FEW { Self::Many(Box::new(list.into())) } else { Self::Few(list) };
            }
        }
    }

    /// Takes the one in a place away.
    pub(super) fn take(&mut self, place: usize) -> Option<Link> {
        self.get(place)?;
        let (link, mut list) = match std::mem::replace(self, Self::NONE) {
            Self::One(link) => return Some(link),
            Self::Few(mut list) => (list.remove(place), list),
            Self::Many(mut many) => {
                let link = many.take(place);
                if many.list.len() > FEW / 2 {
                    *self = Self::Many(many);
                    return Some(link);
                }
                (link, many.list)
            }
        };
        *self = match (list.pop(), list.is_empty()) {
            (Some(last), true) => Self::One(last),
            (last, _) => {
                list.extend(last);
                Self::Few(list)
            }
        };
        Some(link)
    }

    /// Another one, which is not among them, in a place; the one that was there.
    pub(super) fn put(&mut self, place: usize, link: Link) -> Option<Link> {
        match self {
            Self::One(one) if place == 0 => Some(std::mem::replace(one, link)),
            Self::One(_) => None,
            Self::Few(list) => list.get_mut(place).map(|old| std::mem::replace(old, link)),
            Self::Many(many) => (place < many.list.len()).then(|| many.put(place, link)),
        }
    }
}

impl From<Vec<Link>> for Many {
    fn from(list: Vec<Link>) -> Self {
        let mut many = Self::default();
        for link in list {
            many.push(link);
        }
        many
    }
}

impl Many {
    fn hash(&self, parent: &Arc<Node>, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent.id, name))
    }

    fn hash_of(&self, link: &Link) -> u64 {
        self.hash(&link.parent, &link.name)
    }

    fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Option<usize> {
        self.places.find(self.hash(parent, name), |&i| self.list[i].is(parent, name)).copied()
    }

    fn push(&mut self, link: Link) {
        self.list.push(link);
        self.note(self.list.len() - 1);
    }

    fn note(&mut self, place: usize) {
        let hash = self.hash_of(&self.list[place]);
        let Self { list, places, hasher } = self;
        places.insert_unique(hash, place, |&i| hasher.hash_one((list[i].parent.id, &list[i].name[..])));
    }

    /// The place of a link that is there is not known any more.
    fn forget(&mut self, place: usize) {
        let hash = self.hash_of(&self.list[place]);
        if let Ok(found) = self.places.find_entry(hash, |&i| i == place) {
            found.remove();
        }
    }

    fn take(&mut self, place: usize) -> Link {
        let last = self.list.len() - 1;
        self.forget(place);
        if place < last {
            self.forget(last);
        }
        let link = self.list.swap_remove(place);
        if place < last {
            self.note(place);
        }
        link
    }

    fn put(&mut self, place: usize, link: Link) -> Link {
        self.forget(place);
        let old = std::mem::replace(&mut self.list[place], link);
        self.note(place);
        old
    }
}

#[cfg(test)]
mod tests {
    use super::super::inodes::Inodes;
    use super::super::node::{Below, State};
    use super::*;
    use crate::vocab::Kind;

    fn dir(table: &Arc<Inodes>, ino: u64) -> Arc<Node> {
        Arc::new(Node::new(ino, Kind::Dir, State::new(None, None, Below::Nothing, None), table.clone()))
    }

    fn link(parent: &Arc<Node>, n: usize) -> Link {
        Link { parent: parent.clone(), name: n.to_string().as_bytes().into() }
    }

    /// Beside a plain set of names, which grows and shrinks over all the borders there are.
    #[test]
    fn names_come_and_go() {
        let table = Arc::new(Inodes::default());
        let parents = [dir(&table, 2), dir(&table, 3)];
        let (mut links, mut want) = (Links::NONE, std::collections::BTreeSet::new());
        let (mut seed, mut most) = (7_usize, 0);
        for round in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (which, n) = (seed >> 40 & 1, seed >> 41 & 31);
            let (new, grows) = (link(&parents[which], n), round / 200 % 2 == usize::from(seed >> 50 & 7 == 0));
            let first = links.first().cloned();
            match (links.find(&new.parent, &new.name), grows) {
                (None, true) => links.push(new),
                (Some(place), false) => {
                    let gone = links.take(place).unwrap();
                    assert!(gone.is(&new.parent, &new.name));
                }
                (None, false) if !links.is_empty() => {
                    let place = seed >> 55 & 31;
                    let old = links.put(place, new.clone());
                    assert_eq!(old.is_some(), place < links.len());
                    let Some(old) = old else { continue };
                    let which = usize::from(Arc::ptr_eq(&old.parent, &parents[1]));
                    assert!(want.remove(&(which, old.name.to_vec())));
                    want.insert((usize::from(Arc::ptr_eq(&new.parent, &parents[1])), new.name.to_vec()));
                    continue;
                }
                _ => continue,
            }
            match grows {
                true => assert!(want.insert((which, n.to_string().into_bytes()))),
                false => assert!(want.remove(&(which, n.to_string().into_bytes()))),
            }
            most = most.max(links.len());
            assert_eq!(links.len(), want.len());
            for (which, name) in &want {
                assert!(links.find(&parents[*which], name).is_some_and(|i| links[i].is(&parents[*which], name)));
            }
            if let (Some(first), true) = (first, grows) {
                assert!(links[0].is(&first.parent, &first.name));
            }
        }
        assert!(most > 2 * FEW, "{most}");
    }
}
