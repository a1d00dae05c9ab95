//! Tasks of flushers at the bell. Forbidden: a task that waits for the lease, or for the word that
//! the engine gives up, and is never woken. Allowed: one wake-up too many.

use std::future::poll_fn;
use std::task::Poll;

use loom::sync::{Arc, Mutex};
use loom::thread;
use sluicegate::internals::Bell;
use sluicegate_loom_tests::block_on;

use super::model;

/// Takes the lease as a task, and gives it on.
fn turn(bell: &Bell, lease: &Mutex<u64>, flusher: usize) {
    let mut guard = block_on(poll_fn(|cx| bell.poll_lock(lease, flusher, cx)));
    *guard += 1;
    thread::yield_now(); // the other may find it taken
    bell.unlock(guard);
}

#[test]
fn lease() {
    model(|| {
        let parts = Arc::new((Bell::default(), Mutex::new(0)));
        let other = {
            let parts = Arc::clone(&parts);
            thread::spawn(move || turn(&parts.0, &parts.1, 1))
        };
        turn(&parts.0, &parts.1, 0);
        other.join().unwrap();
        assert_eq!(*parts.1.lock().unwrap(), 2);
    });
}

#[test]
fn giving_up() {
    model(|| {
        let bell = Arc::new(Bell::default());
        let other = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.give_up())
        };
        block_on(poll_fn(|cx| match bell.list(0, cx.waker(), false) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }));
        other.join().unwrap();
    });
}
