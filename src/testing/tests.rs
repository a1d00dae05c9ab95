//! What needs a deadline: a pump gives none, and a shutdown's is a matter of luck.

use std::time::{Duration, Instant};

use super::{Fault, Faults, Outcome, Recorder};
use crate::batch::{Batch, BatchId, FlushReason};
use crate::clock::{Clock, TestClock};
use crate::sink::{Applied, Class, Flusher, Sink, WriteContext, WriteError};

const LEFT: Duration = Duration::from_millis(2);

fn write(faults: &Faults<u64>, clock: &Clock, store: &Recorder<u64>) -> Result<(), WriteError> {
    let now = clock.now();
    let batch = Batch {
        id: BatchId::new(1),
        shard: 0,
        reason: FlushReason::Shutdown,
        bytes: 0,
        items: vec![1],
        position: 0,
        opened: now,
        late: None,
    };
    let mut failed = Vec::new();
    let mut cx = WriteContext::new(Flusher { index: 0 }, clock, Some(now + LEFT), &mut failed);
    faults.wrap(store.clone()).write(&batch, &mut cx)
}

fn assert_gave_up(result: &Result<(), WriteError>, faults: &Faults<u64>) {
    let error = result.as_ref().expect_err("nobody has opened the gate");
    assert_eq!((error.class(), error.what_applied()), (Class::Transient, Applied::Nothing));
    assert_eq!((faults.log().writes(), faults.gate().arrived()), (0, 1));
}

#[test]
fn a_polite_hang_gives_up_at_the_deadline_of_a_real_clock() {
    let faults = Faults::script([Fault::Hang]).polite(true);
    let start = Instant::now();
    let result = write(&faults, &Clock::Monotonic, &Recorder::new());
    assert!(start.elapsed() >= LEFT, "not before");
    assert_gave_up(&result, &faults);
}

#[test]
fn under_a_test_clock_it_takes_the_time_left_from_the_test() {
    let clock = TestClock::new();
    let (hand, start) = (clock.clone(), clock.now());
    let faults = Faults::script([Fault::Hang]).polite(true).on_delay(move |by| hand.advance(by));
    let result = write(&faults, &Clock::Test(clock.clone()), &Recorder::new());
    assert_eq!(clock.now(), start + LEFT);
    assert_gave_up(&result, &faults);
}

#[test]
fn a_polite_hang_at_an_open_gate_is_none() {
    for clock in [Clock::Monotonic, Clock::Test(TestClock::new())] {
        let (faults, store) = (Faults::script([Fault::Hang]).polite(true), Recorder::new());
        faults.gate().open();
        assert!(write(&faults, &clock, &store).is_ok());
        assert_eq!((store.items(), faults.log().outcomes()), (vec![1], vec![Outcome::Ok]));
    }
}
