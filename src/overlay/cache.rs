//! Caches that forget what was not used for long.

use std::hash::Hash;

use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};

/// Each part has a lock of its own, and its share of the weight: what is heavier than that is never kept. So there are few,
/// whatever the machine's processors (the library's own choice is four for each).
const PARTS: usize = 4;

/// A cache of about so many `items` that weigh so much altogether.
pub(super) fn weighted<K, V, W>(items: usize, weight: u64, weigher: W) -> Cache<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = OptionsBuilder::new().shards(PARTS).estimated_items_capacity(items).weight_capacity(weight).build();
    match options {
        Ok(options) => Cache::with_options(options, weigher, Default::default(), Default::default()),
        Err(_) => Cache::with_weighter(items, weight, weigher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Itself;

    impl Weighter<u64, u64> for Itself {
        fn weight(&self, _: &u64, value: &u64) -> u64 {
            *value
        }
    }

    #[test]
    fn what_weighs_a_quarter_is_kept() {
        let cache = weighted(4096, 1000, Itself);
        for key in 0..20 {
            cache.insert(key, 200);
            assert_eq!(cache.get(&key), Some(200));
        }
    }
}
