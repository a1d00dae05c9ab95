//! Promise: what the system refuses is one warning, however much it is; and none if it refuses
//! nothing. Alone in its process: whether anybody listens to an event is remembered for all threads.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use common::{LONG, null_sinks};
use sluicegate::placement::{Cpu, NumaNode, Topology};
use sluicegate::{Batcher, Pin};
use tracing::field::{Field, Visit};

/// The warnings: each field's name and value.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.push_str(&format!("{}={value:?} ", field.name()));
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
}

/// The warnings of an engine's life, whose flushers are to run on these CPUs; of all its threads.
fn warnings(pin: Pin) -> Vec<String> {
    let topology = Topology::builder()
        .nodes([NumaNode::new(0, 1 << 30), NumaNode::new(1, None)])
        .cpus((700..708).map(|cpu| Cpu::new(cpu, (cpu - 700) / 4)))
        .build();
    let builder = Batcher::<u64>::builder().topology(topology).flushers(2).pin(pin);
    builder.spawn(null_sinks()).unwrap().shutdown(LONG).tally.balances().then_some(()).unwrap();
    ALL.0.lock().unwrap().drain(..).collect()
}

static ALL: std::sync::LazyLock<Warnings> = std::sync::LazyLock::new(Warnings::default);

#[test]
fn it_is_told_once() {
    tracing::subscriber::set_global_default(ALL.clone()).unwrap();
    assert_eq!(warnings(Pin::None), [""; 0]);
    for pin in [Pin::Node, Pin::Core] {
        let told = warnings(pin);
        let [warning] = &told[..] else { panic!("{told:?}") };
        assert!(warning.contains("refused=4 "), "{warning}");
        assert!(warning.contains("flusher 0: ") && warning.contains("placement()"), "{warning}");
    }
}
