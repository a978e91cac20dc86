//! Images and containers on disk.
//!
//! An image is a stack of layers, each only the difference to the one below, named by its digest. A container is an image
//! with a writable layer.
