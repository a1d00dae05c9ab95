//! What an engine does when its sink fails: settings that never change once it runs.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::permit::Retry;
use crate::collect::Weight;
use crate::config::OnFailure;
use crate::guard::guarded;
use crate::sync::{Mutex, lock};

/// The key of an item.
pub type Key<T> = Arc<dyn Fn(&T) -> u64 + Send + Sync>;

/// The settings that decide what becomes of failed items.
pub struct Policy<T> {
    pub retry: Option<Retry>,
    pub bisect: bool,
    pub on_failure: OnFailure,
    pub key: Option<Key<T>>,
    pub weight: Option<Weight<T>>,
    rng: Mutex<fastrand::Rng>,
}

impl<T> Policy<T> {
    /// No retries, no bisection: what fails has failed.
    pub fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let rng = fastrand::Rng::with_seed(seed);
        Self {
            retry: None,
            bisect: false,
            on_failure: OnFailure::Skip,
            key: None,
            weight: None,
            rng: Mutex::new(rng),
        }
    }

    /// How long to wait after so many retries.
    pub fn delay(&self, retries: u32) -> Duration {
        let Some(retry) = &self.retry else { return Duration::ZERO };
        retry.delay(retries.saturating_add(1), &mut lock(&self.rng))
    }

    /// The keys of some items, ascending, each once; none unless keys are parked.
    pub fn keys_of<'a>(&self, items: impl Iterator<Item = &'a T>) -> Vec<u64>
    where
        T: 'a,
    {
        let mut keys: Vec<u64> = match self.parking() {
            Some(key) => items.map(|item| key_of(key, item)).collect(),
            None => Vec::new(),
        };
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The key function, where failed items park their key.
    pub fn parking(&self) -> Option<&Key<T>> {
        self.key.as_ref().filter(|_| self.on_failure == OnFailure::ParkKey)
    }
}

/// Items on which the function panics share one key.
pub fn key_of<T>(key: &Key<T>, item: &T) -> u64 {
    guarded(|| key(item)).unwrap_or(u64::MAX)
}
