//! Symbolic links on the way to an entry: followed as if the layer were the root of the system, by hand, so that neither
//! `..` nor an absolute target leads out of it.
//!
//! `lib -> usr/lib` and then `lib/x` is what other tools' images have. Docker and podman unpack a layer with its own
//! directory as the root and follow such links; containerd and umoci likewise. They, too, see the links of this layer
//! alone (but where the driver keeps whole copies): over a link of a lower layer a directory is made.

use super::{MAX_OPEN, Tree};
use crate::layer::Handle;
use crate::store::unpack::error::Error;
use crate::store::unpack::{Owners, name};
use crate::vocab::dialect::{AUFS_PREFIX, STORED_STAT};
use crate::vocab::owner::StoredStat;
use crate::vocab::{Access, Errno, Kind};

/// As many as the kernel follows on one path.
const MAX_LINKS: usize = 40;
/// Names looked at for one entry: hostile links cost no more than a hostile path does.
const MAX_NAMES: usize = 1024;

impl Tree<'_> {
    /// The path with the links among its first `parents` names followed; `None`: there are none.
    pub(super) fn followed(&mut self, path: &[&[u8]], parents: usize) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let (found, _) = self.walk(&path[..parents])?;
        if found == parents || self.link_at(&path[..=found])?.is_none() {
            return Ok(None);
        }
        let own = |names: &[&[u8]]| names.iter().map(|n| n.to_vec()).collect::<Vec<_>>();
        let mut done = own(&path[..found]);
        let mut todo = own(&path[found..parents]);
        todo.reverse();
        let (mut links, mut names) = (0, 0);
        while let Some(name) = todo.pop() {
            names += 1;
            if links > MAX_LINKS || names > MAX_NAMES || done.len() > MAX_OPEN {
                return Err(Error::refused("the symbolic links on its way lead in a circle, or too far"));
            }
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(name),
            }
            let at: Vec<&[u8]> = done.iter().map(Vec::as_slice).collect();
            let Some(target) = self.link_at(&at)? else { continue };
            links += 1;
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
        }
        done.extend(own(&path[parents..]));
        let whole = done.join(&b'/');
        if !whole.is_empty() {
            name::components(&whole, self.limits())?;
        }
        if done[..done.len() - (path.len() - parents)].iter().any(|name| name.starts_with(AUFS_PREFIX)) {
            return Err(Error::refused("a symbolic link on its way leads to the name of a whiteout"));
        }
        Ok(Some(done))
    }

    /// Opens the directories on the path as far as there are any: how many, and the last one.
    fn walk(&mut self, path: &[&[u8]]) -> Result<(usize, Handle), Error> {
        let same = self.open[1..].iter().zip(path).take_while(|((a, _), b)| a == *b).count();
        self.open.truncate(same + 1);
        let mut at = self.here();
        for (i, name) in path.iter().enumerate().skip(same) {
            at = match at.open_dir(name) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok((i, at)),
                Err(e) => return Err(Error::write("open its directory")(e)),
            };
            self.keep(i + 1, name, &at);
        }
        Ok((path.len(), at))
    }

    /// Where the link at this path leads, if one is there. There are none on the way.
    fn link_at(&mut self, path: &[&[u8]]) -> Result<Option<Vec<u8>>, Error> {
        let Some((name, above)) = path.split_last() else { return Ok(None) };
        let (found, dir) = self.walk(above)?;
        if found < above.len() {
            return Ok(None);
        }
        let failed = Error::write("look at a parent");
        let stat = match dir.stat(name) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(&failed)?,
        };
        match stat.kind {
            Kind::Symlink => dir.readlink(name).map(Some).map_err(failed),
            Kind::File if self.options.owners == Owners::Stored => {
                let stored = dir.getxattr(name, STORED_STAT).map_err(&failed)?;
                let stored = stored.and_then(|value| StoredStat::parse(&value));
                if stored.is_none_or(|s| s.kind_of(Kind::File) != Kind::Symlink) {
                    return Ok(None);
                }
                // No longer than a path may be, or there is no such place.
                let mut target = vec![0; self.limits().path + 1];
                let file = dir.open_file(name, Access::Read).map_err(&failed)?;
                let n = file.read_at(&mut target, 0).map_err(&failed)?;
                target.truncate(n);
                Ok(Some(target))
            }
            _ => Ok(None),
        }
    }
}
