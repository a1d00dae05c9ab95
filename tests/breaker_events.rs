//! Promise: each change of the breaker's state is an event. Alone in its process: whether anybody
//! listens to an event is remembered for all threads.

#![allow(clippy::unwrap_used)]

mod common;
mod rig;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use rig::{Rig, SECOND};
use sluicegate::testing::{Fault, Faults};
use sluicegate::{Batcher, Breaker};

/// The messages of all events.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message<'a>(&'a Events);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(self));
    }
}

#[test]
fn each_change_is_an_event() {
    let events = Events::default();
    let builder = Batcher::builder().max_batch_size(1).retry(None).breaker(Breaker::default());
    tracing::subscriber::with_default(events.clone(), || {
        let mut rig = Rig::new(builder, &Faults::script(vec![Fault::Transient; 11]));
        rig.add(0..10);
        let producer = rig.pump.producer();
        (10..13).for_each(|item| producer.try_add(item).unwrap());
        rig.pump.advance(10 * SECOND);
    });
    let kinds = ["has opened", "lets one batch through", "has closed"];
    let seen = events.0.lock().unwrap().clone();
    let seen: Vec<_> = seen.iter().filter_map(|e| kinds.iter().find(|k| e.contains(*k))).collect();
    assert_eq!(seen, [&kinds[0], &kinds[1], &kinds[0], &kinds[1], &kinds[2]]);
}
