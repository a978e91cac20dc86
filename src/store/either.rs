//! What may be a container or an image.

use super::{Container, Error, ErrorKind, Image, Result, Store};

/// What a name or an id stands for where both can be meant.
#[derive(Clone, Debug)]
pub enum Either {
    /// A container.
    Container(Box<Container>),
    /// An image.
    Image(Box<Image>),
}

impl Store {
    /// The container or image of this name or id (any unique prefix). A name goes before the beginning of an id, a
    /// container before an image.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn container_or_image(&self, name: &str) -> Result<Either> {
        let container = self.container(name);
        if let Ok(c) = &container
            && (c.record.name == name || c.record.id == name)
        {
            return Ok(Either::Container(Box::new(c.clone())));
        }
        // An id is made up: that of any container may begin like the name of an image.
        match (container, self.image(name)) {
            (_, Ok(found)) if found.reference.is_some() => Ok(Either::Image(Box::new(found.image))),
            (Ok(c), _) => Ok(Either::Container(Box::new(c))),
            (Err(e), _) if e.kind() != ErrorKind::NotFound => Err(e),
            (Err(_), Ok(found)) => Ok(Either::Image(Box::new(found.image))),
            (Err(_), Err(e)) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, format_args!("no such image or container: {name}"))
                    .with_hint("onlay images and onlay ps -a list those that are here"))
            }
            (Err(_), Err(e)) => Err(e),
        }
    }
}
