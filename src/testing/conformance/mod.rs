//! What the engine relies on in a sink, as checks that the author of a sink can run.
//!
//! A [`Kit`] is told how to make an empty store, how to open the sink on it, how to make items, and
//! how to read back what is in the store. Each check gets a store of its own and drives the sink
//! through a [`Pump`](crate::Pump): real batches, real contexts.
//!
//! ```
//! use sluicegate::testing::conformance::Kit;
//! use sluicegate::{Batch, BoxError, Sink, WriteContext, WriteError};
//! use std::sync::{Arc, Mutex};
//!
//! type Store = Arc<Mutex<Vec<u64>>>;
//! struct Rows(Store); // the sink to be checked: takes numbers below 1000
//!
//! impl Sink<u64> for Rows {
//!     fn write(&mut self, batch: &Batch<u64>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
//!         let mut rows = self.0.lock().map_err(|_| WriteError::permanent("poisoned"))?;
//!         for (index, item) in batch.iter().enumerate() {
//!             match item {
//!                 0..1000 => rows.push(*item),
//!                 _ => cx.fail(index, WriteError::permanent("too big")),
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let open = |store: &Store| Ok::<_, BoxError>(Rows(Arc::clone(store)));
//! let read = |store: &Store| Ok::<_, BoxError>(store.lock().unwrap().clone());
//! Kit::new(Store::default, open, |n| n, read)
//!     .batch_size(100)
//!     .bad_item(|n| 1000 + n)
//!     .run()
//!     .assert();
//! ```
//!
//! | check | what it asks |
//! |---|---|
//! | items arrive once and in order | batches of 1, of 2, and full ones; what is said to be in can be read at once |
//! | no marks after success | `Ok` and no [`fail`](crate::WriteContext::fail) for good items |
//! | limits are kept | batches as large as [`limits`](crate::Sink::limits) says are taken; it never changes its mind |
//! | a bad item is told exactly | what the sink says of each item of the batch is so in the store |
//! | nothing applied means nothing | after [`Applied::Nothing`](crate::Applied::Nothing) nothing of the batch is there |
//! | works on after an error | the next batch is taken, by the same sink |
//! | the same batch twice | reported; required only of who [claims](Kit::idempotent) it |
//! | a deadline that has passed | the call returns, with an answer that is true |
//! | close after an error | closes without an error, and what was in is in |
//! | dropped without a close | what was in is in; another sink goes on |
//! | opened again after a panic | likewise |
//!
//! Every check runs on a thread of its own, and has failed if it is not back in
//! [time](Kit::patience). Closing twice needs no check: the engine closes a sink once and drops it.

mod account;
mod checks;
mod failing;
mod report;
mod session;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

pub use report::{Check, Report, Verdict};

use crate::guard::guarded;
use crate::sink::{BoxError, Sink};

/// A limit against hanging: long enough for any disk, short enough to wait for once.
const PATIENCE: Duration = Duration::from_secs(30);
const BATCH_SIZE: usize = 512;

type MakeStore<D> = Arc<dyn Fn() -> D + Send + Sync>;
type Open<D, S> = Arc<dyn Fn(&D) -> Result<S, BoxError> + Send + Sync>;
type MakeItem<T> = Arc<dyn Fn(u64) -> T + Send + Sync>;
type ReadBack<T, D> = Arc<dyn Fn(&D) -> Result<Vec<T>, BoxError> + Send + Sync>;
type Stall<D> = Arc<dyn Fn(&D) -> Box<dyn Any> + Send + Sync>;
type WeightOf<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// What the checks do with items: they keep them, compare them and show them.
trait Item: Clone + PartialEq + fmt::Debug + Send + 'static {}

impl<T: Clone + PartialEq + fmt::Debug + Send + 'static> Item for T {}

/// What a check answers: passed or not applicable, or else what is wrong.
type Outcome = Result<Verdict, String>;
type CheckFn<T, D, S> = fn(&Kit<T, D, S>) -> Outcome;

/// Checks a sink `S` of items `T` on stores `D`; see the [module](self).
#[must_use = "`run` runs the checks"]
pub struct Kit<T, D, S> {
    store: MakeStore<D>,
    open: Open<D, S>,
    item: MakeItem<T>,
    read: ReadBack<T, D>,
    bad_item: Option<MakeItem<T>>,
    panicking_item: Option<MakeItem<T>>,
    stall: Option<Stall<D>>,
    weight: Option<WeightOf<T>>,
    batch_size: usize,
    idempotent: bool,
    patience: Duration,
}

impl<T, D, S> Kit<T, D, S>
where
    T: Clone + PartialEq + fmt::Debug + Send + 'static,
    D: 'static,
    S: Sink<T> + 'static,
{
    /// A kit for a sink.
    ///
    /// - `store` makes an empty store: a folder, a table, a vector. Dropping it cleans up.
    /// - `open` opens the sink on it, also when the store is in use no more and has items in it.
    /// - `item` makes the n-th item; all of them differ.
    /// - `read` gives the items in the store, oldest first. It is called while the sink is open. If
    ///   the store keeps no order, it sorts.
    pub fn new<E1, E2>(
        store: impl Fn() -> D + Send + Sync + 'static,
        open: impl Fn(&D) -> Result<S, E1> + Send + Sync + 'static,
        item: impl Fn(u64) -> T + Send + Sync + 'static,
        read: impl Fn(&D) -> Result<Vec<T>, E2> + Send + Sync + 'static,
    ) -> Self
    where
        E1: Into<BoxError>,
        E2: Into<BoxError>,
    {
        Self {
            store: Arc::new(store),
            open: Arc::new(move |store| open(store).map_err(Into::into)),
            item: Arc::new(item),
            read: Arc::new(move |store| read(store).map_err(Into::into)),
            bad_item: None,
            panicking_item: None,
            stall: None,
            weight: None,
            batch_size: BATCH_SIZE,
            idempotent: false,
            patience: PATIENCE,
        }
    }

    /// Makes items that the sink or its store refuses: one that breaks a constraint, one that
    /// cannot be encoded. They differ from each other and from the good ones.
    pub fn bad_item(mut self, make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        self.bad_item = Some(Arc::new(make));
        self
    }

    /// Makes items on which the sink panics, such as by the caller's own encoder.
    pub fn panicking_item(mut self, make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        self.panicking_item = Some(Arc::new(make));
        self
    }

    /// Keeps the store from answering for as long as the guard that it returns lives: holds its
    /// lock, stops its server. What the sink can do until then is to wait or to fail; with a
    /// deadline that has passed it must fail.
    pub fn stalled_by<G: 'static>(
        mut self,
        stall: impl Fn(&D) -> G + Send + Sync + 'static,
    ) -> Self {
        self.stall = Some(Arc::new(move |store| Box::new(stall(store))));
        self
    }

    /// The bytes of an item, for sinks with a
    /// [`max_batch_bytes`](crate::SinkLimits::max_batch_bytes).
    pub fn weight(mut self, weight: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.weight = Some(Arc::new(weight));
        self
    }

    /// Items in the largest batches that are tried, if the sink takes them; 512 unless told
    /// otherwise. 0 is read as 1.
    pub fn batch_size(mut self, items: usize) -> Self {
        self.batch_size = items.max(1);
        self
    }

    /// Claims that a batch that is written twice is in once. Otherwise it is only reported whether
    /// it is so.
    pub fn idempotent(mut self, claimed: bool) -> Self {
        self.idempotent = claimed;
        self
    }

    /// How long a check may take before it has failed: 30 s unless told otherwise. Its thread is
    /// left to itself then.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Runs every check, one after the other.
    #[must_use = "call `assert` on it"]
    pub fn run(&self) -> Report {
        let run = |(name, check)| Check { name, verdict: self.supervised(check) };
        Report { checks: checks::all().into_iter().map(run).collect() }
    }

    fn supervised(&self, check: CheckFn<T, D, S>) -> Verdict {
        let (sender, answer) = channel();
        let kit = self.clone();
        let body = move || {
            let outcome = guarded(|| check(&kit));
            // Nobody listens any more when the patience was over.
            let _ = sender.send(match outcome {
                Ok(outcome) => outcome.unwrap_or_else(Verdict::Failed),
                Err(panic) => Verdict::Failed(format!("the check's thread panicked: {panic}")),
            });
        };
        let thread = match thread::Builder::new().name("conformance".to_owned()).spawn(body) {
            Ok(thread) => thread,
            Err(error) => return Verdict::Failed(format!("no thread for the check: {error}")),
        };
        match answer.recv_timeout(self.patience) {
            Ok(verdict) => {
                let _ = thread.join(); // only to not run beside the next one
                verdict
            }
            Err(_) => Verdict::Failed(format!(
                "not back after {:?}: the sink (or its store) hangs; a sink must give up when \
                 `cx.time_left()` is used up",
                self.patience
            )),
        }
    }
}

impl<T, D, S> Clone for Kit<T, D, S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            open: Arc::clone(&self.open),
            item: Arc::clone(&self.item),
            read: Arc::clone(&self.read),
            bad_item: self.bad_item.clone(),
            panicking_item: self.panicking_item.clone(),
            stall: self.stall.clone(),
            weight: self.weight.clone(),
            ..*self
        }
    }
}

impl<T, D, S> fmt::Debug for Kit<T, D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit")
            .field("batch_size", &self.batch_size)
            .field("idempotent", &self.idempotent)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
