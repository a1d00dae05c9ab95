//! What a task leaves behind when it sleeps no more.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Bell, Wake, Want};
use crate::clock::Clock;
use crate::ring::Ring;

struct Runtime;

impl std::task::Wake for Runtime {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn no_waker_stays_of_a_task_that_has_got_up_or_was_dropped() {
    let runtime = Arc::new(Runtime);
    let waker = Waker::from(Arc::clone(&runtime));
    let (wake, ring) = (Wake::new(Clock::default()), Ring::<u64>::new(8).unwrap());
    let want = Want::Items { first: 0, position: 1 };
    for dropped in [false, true] {
        let mut parking = wake.parking(&ring, None, want, 0);
        assert!(parking.poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(Arc::strong_count(&runtime), 3, "it sleeps");
        if dropped {
            drop(parking);
        } else {
            assert!(parking.get_up().is_some());
        }
        assert_eq!(Arc::strong_count(&runtime), 2);
    }
    // The next one is woken as ever.
    let mut parking = wake.parking(&ring, None, want, 0);
    assert!(parking.poll(&mut Context::from_waker(&waker)).is_pending());
    wake.stop(&ring);
    let woken = parking.poll(&mut Context::from_waker(&waker));
    assert!(matches!(woken, Poll::Ready(Some(_))));
}

#[test]
fn no_waker_stays_of_a_task_that_is_forgotten() {
    let runtime = Arc::new(Runtime);
    let waker = Waker::from(Arc::clone(&runtime));
    let bell = Bell::default();
    (0..2).for_each(|flusher| assert!(!bell.list(flusher, &waker, true)));
    assert_eq!(Arc::strong_count(&runtime), 4);
    assert!(bell.forget(0) && !bell.forget(0));
    assert_eq!(Arc::strong_count(&runtime), 3, "the other is still there");
    assert!(bell.forget(1));
}
