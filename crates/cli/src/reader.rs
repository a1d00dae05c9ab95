//! The thread that reads items and puts them into the engine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use sluicegate::{AddError, Producer};

use crate::gate::Gate;
use crate::input::{End, Next, Records};
use crate::item::Item;
use crate::rejects::Rejects;
use crate::report::Intake;
use crate::signals::Stop;
use crate::watch::{Event, TICK};

/// What the reader has counted so far, for the main thread to see.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    items_read: AtomicU64,
    rejected: AtomicU64,
    unqueued: AtomicU64,
}

impl Counters {
    pub(crate) fn get(&self) -> Intake {
        Intake {
            items_read: self.items_read.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            unqueued: self.unqueued.load(Relaxed),
        }
    }
}

/// Reads items and puts them into the engine.
pub(crate) struct Reader {
    pub(crate) records: Box<dyn Records + Send>,
    pub(crate) producer: Producer<Item>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) rejects: Arc<Rejects>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) drain_deadline: Duration,
}

impl Reader {
    pub(crate) fn spawn(self, events: Sender<Event>) -> io::Result<()> {
        thread::Builder::new().name("reader".to_owned()).spawn(move || {
            // Whatever happens here, the main thread must hear of it, or it would wait for ever.
            let result = catch_unwind(AssertUnwindSafe(|| self.read()))
                .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
            // The receiver lives until the process is about to end.
            let _ = events.send(Event::ReaderDone(result));
        })?;
        Ok(())
    }

    fn read(mut self) -> io::Result<End> {
        let mut count = Intake::default();
        loop {
            match self.records.next()? {
                Next::End(end) => return Ok(end),
                Next::Reject(reject) => {
                    count.rejected += 1;
                    self.rejects.parse(&reject);
                }
                Next::Item(item) => {
                    if let Err(item) = self.add(item) {
                        count.unqueued += 1;
                        self.rejects.drain(&item);
                    }
                }
            }
            count.items_read += 1;
            // This thread alone writes them, so plain stores will do.
            self.counters.rejected.store(count.rejected, Relaxed);
            self.counters.unqueued.store(count.unqueued, Relaxed);
            self.counters.items_read.store(count.items_read, Relaxed);
        }
    }

    /// Waits until the engine has the item; gives it back if it will not have it: the drain
    /// deadline has come first.
    fn add(&self, mut item: Item) -> Result<(), Item> {
        while item.charge.is_none() && self.gate.charges(item.weight()) {
            let patience = if self.is_over() { Duration::ZERO } else { TICK };
            item.charge = self.gate.pay(item.weight(), patience);
            if item.charge.is_none() && self.is_over() {
                return Err(item);
            }
        }
        let mut result = self.producer.try_add(item);
        loop {
            item = match result {
                Ok(()) => return Ok(()),
                Err(AddError::Full(item) | AddError::Timeout(item)) => item,
                Err(refused) => return Err(refused.into_inner()),
            };
            if self.is_over() {
                return Err(item);
            }
            result = self.producer.add_timeout(item, TICK);
        }
    }

    fn is_over(&self) -> bool {
        self.stop.is_over(self.drain_deadline)
    }
}
