//! Promise: what the sink will never take goes to the dead-letter sink with what is known about it,
//! and what that does not take either goes on to whoever else is to know, never into silence.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use common::{Gate, LONG, assert_balances, no_second_try, refusing_sinks};
use sluicegate::{
    AckReason, Applied, Batch, Batcher, Builder, Class, Dead, Flusher, Mode, Retry, Sink,
    SinkLimits, SpawnError, Stuck, TestClock, WriteContext, WriteError, sink,
};

/// What is known of a letter, without the item's type.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    item: u64,
    class: Class,
    text: String,
    attempts: u32,
    batch: (u64, u32),
}

type Letters = Arc<Mutex<Vec<Known>>>;

/// A dead-letter sink that writes down what it gets and says what it is told to.
struct Keeper {
    letters: Letters,
    refuses: fn(u64) -> bool,
    calls: Arc<Mutex<Vec<usize>>>,
    most: Option<usize>,
}

impl Sink<Dead<u64>> for Keeper {
    fn write(
        &mut self,
        batch: &Batch<Dead<u64>>,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        self.calls.lock().unwrap().push(batch.len());
        for (index, letter) in batch.iter().enumerate() {
            if (self.refuses)(letter.item) {
                cx.fail(index, WriteError::transient("no room"));
                continue;
            }
            self.letters.lock().unwrap().push(Known {
                item: letter.item,
                class: letter.class(),
                text: letter.error.to_string(),
                attempts: letter.attempts,
                batch: (letter.batch.get(), letter.batch.part()),
            });
            assert!(letter.first <= letter.last);
        }
        Ok(())
    }

    fn limits(&self) -> SinkLimits {
        self.most
            .map_or_else(SinkLimits::default, |most| SinkLimits::default().max_batch_size(most))
    }

    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        self.calls.lock().unwrap().push(0);
        Err(WriteError::permanent("the keeper is closed"))
    }
}

fn keeper(refuses: fn(u64) -> bool) -> (Keeper, Letters, Arc<Mutex<Vec<usize>>>) {
    let (letters, calls) = (Letters::default(), Arc::default());
    let own = (Arc::clone(&letters), Arc::clone(&calls));
    (Keeper { letters: own.0, refuses, calls: own.1, most: None }, letters, calls)
}

fn of_four<M: Mode<u64>>(builder: Builder<u64, M>) -> Builder<u64, M> {
    builder.max_batch_size(4).queue_depth(16).seed(1)
}

#[test]
fn a_letter_says_what_is_known() {
    let (keeper, letters, _) = keeper(|_| false);
    let clock = TestClock::new();
    let mut calls = 0;
    let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
        calls += 1;
        match calls {
            1 => Err(WriteError::transient("not now")),
            _ if batch.contains(&2) => Err(WriteError::permanent("a bad row")),
            _ => Ok(()),
        }
    });
    let builder = of_four(Batcher::builder()).dead_letters(keeper).retry(Retry::default());
    let mut pump = builder.pump(sink, clock).unwrap();
    pump.producer().add_many(&mut vec![0, 1, 2, 3]).unwrap();
    pump.advance(LONG);
    let stats = pump.stats();
    assert_eq!((stats.tally.flushed_ok, stats.tally.flushed_fail), (3, 1));
    assert_eq!((stats.dead_lettered, stats.dead_letter_failures), (1, 0));
    let known = letters.lock().unwrap().clone();
    // The whole twice, its right half, and alone.
    let text = "a bad row".to_owned();
    let batch = (1, 3);
    assert_eq!(known, [Known { item: 2, class: Class::Permanent, text, attempts: 4, batch }]);
    let report = pump.shutdown();
    assert!(report.failed.is_empty());
    assert_eq!(report.close_errors[0].1.to_string(), "the keeper is closed");
}

#[test]
fn what_it_refuses_goes_to_the_report_or_the_caller_or_the_ack() {
    for told in [false, true] {
        let (keeper, letters, _) = keeper(|item| item % 2 == 1);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut builder =
            of_four(no_second_try(Batcher::builder())).with_acks().dead_letters(keeper);
        if told {
            let heard = Arc::clone(&heard);
            builder = builder.on_failed(move |failed| heard.lock().unwrap().push(failed.item));
        }
        let sink = sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
            Err(WriteError::disconnected("gone").applied(Applied::Unknown))
        });
        let mut pump = builder.pump(sink, TestClock::new()).unwrap();
        let producer = pump.producer();
        let acks: Vec<_> = (0..2).map(|item| producer.add_with_ack(item).unwrap()).collect();
        producer.add_many(&mut vec![2, 3]).unwrap();
        pump.run();
        let ends: Vec<_> = acks.into_iter().map(|ack| ack.wait().unwrap_err()).collect();
        assert!(ends.iter().all(|end| end.reason == AckReason::Unknown));
        let back: Vec<_> = ends.into_iter().map(|end| end.item).collect();
        assert_eq!(back, [None, (!told).then_some(1)], "the letter box has the first");
        assert_eq!(letters.lock().unwrap().iter().map(|l| l.item).collect::<Vec<_>>(), [0, 2]);
        let report = pump.shutdown();
        assert_balances(&report.tally);
        assert_eq!((report.stats.dead_lettered, report.stats.dead_letter_failures), (2, 2));
        let kept: Vec<_> = report.failed.iter().map(|failed| failed.item).collect();
        let heard = heard.lock().unwrap().clone();
        assert_eq!((kept, heard), if told { (vec![], vec![1, 3]) } else { (vec![3], vec![]) });
    }
}

#[test]
fn one_that_panics_is_asked_no_more_and_nothing_is_lost() {
    let dead = sink::from_fn(|_: &Batch<Dead<u64>>, _: &mut WriteContext<'_>| {
        resume_unwind(Box::new("as planned"))
    });
    let builder = of_four(no_second_try(Batcher::builder())).dead_letters(dead);
    let refuse = |_: &Batch<u64>, _: &mut WriteContext<'_>| Err(WriteError::permanent("no"));
    let mut pump = builder.pump(sink::from_fn(refuse), TestClock::new()).unwrap();
    pump.producer().add_many(&mut (0..8).collect()).unwrap();
    pump.run();
    let report = pump.shutdown();
    assert_eq!((report.tally.flushed_fail, report.stats.dead_letter_failures), (8, 8));
    assert_eq!(
        report.failed.iter().map(|failed| failed.item).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );
}

#[test]
fn its_limit_is_kept_and_the_last_flusher_closes_it() {
    let (mut keeper, _, calls) = keeper(|_| false);
    keeper.most = Some(3);
    let batcher = of_four(no_second_try(Batcher::builder()))
        .flushers(2)
        .dead_letters(keeper)
        .spawn(refusing_sinks())
        .unwrap();
    batcher.producer().add_many(&mut (0..4).collect()).unwrap();
    let report = batcher.shutdown(LONG);
    assert_eq!(report.stats.dead_lettered, 4);
    assert_eq!(*calls.lock().unwrap(), [3, 1, 0]);
    assert_eq!(report.close_errors.len(), 1);
}

#[test]
fn one_that_hangs_does_not_hold_shutdown_up() {
    let gate = Gate::new();
    let door = gate.clone();
    let dead = sink::from_fn(move |_: &Batch<Dead<u64>>, _: &mut WriteContext<'_>| {
        door.pass();
        Ok(())
    });
    let batcher = of_four(no_second_try(Batcher::builder()))
        .dead_letters(dead)
        .spawn(refusing_sinks())
        .unwrap();
    batcher.producer().add_many(&mut (0..4).collect()).unwrap();
    gate.wait_for(1);
    let report = batcher.shutdown(std::time::Duration::ZERO);
    assert!(matches!(report.left_behind[0].stuck, Stuck::Reporting { .. }));
    assert_eq!(report.tally.flushed_fail, 4);
    assert_balances(&report.tally);
    gate.open();
}

#[test]
fn a_start_that_fails_closes_the_dead_letter_sink_once() {
    for sound in [0, 1, 2] {
        let (keeper, _, calls) = keeper(|_| false);
        let refused = Batcher::<u64>::builder().flushers(3).dead_letters(keeper).spawn(
            move |flusher: Flusher| match flusher.index {
                index if index < sound => Ok(sink::NullSink),
                _ => Err(WriteError::disconnected("nobody there")),
            },
        );
        assert!(matches!(refused, Err(SpawnError::Open { .. })));
        assert_eq!(*calls.lock().unwrap(), [0], "{sound} of three sinks opened");
    }
}
