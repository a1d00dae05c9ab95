//! After `fork` the child has a copy of every ring and none of the threads that empty it. So every
//! ring that was enlisted is closed in the child, on the way out of `fork`: an add there finds the
//! close bit, on a path that costs the others nothing, and can say why.
//!
//! The list is locked across the fork by the handlers themselves, so the child never meets it half
//! changed. A child that makes an engine of its own enlists it anew.

use std::cell::RefCell;
use std::sync::Weak;

use crate::sync::{ChildLock, ChildLockGuard};
use crate::telemetry::Counter;

/// What is to be closed in a child.
#[cfg_attr(not(all(unix, not(any(loom, shuttle)))), allow(dead_code))]
pub trait CloseInChild: Send + Sync {
    /// Called in the child; may do nothing but atomic operations.
    fn close_in_child(&self);
}

type List = Vec<Weak<dyn CloseInChild>>;

static LIST: ChildLock<List> = ChildLock::new(Vec::new());
/// Forks between the first process and this one.
static GENERATION: Counter = Counter::new(0);

thread_local! {
    static HELD: RefCell<Option<ChildLockGuard<'static, List>>> = const { RefCell::new(None) };
}

/// Tells apart processes that came from one another by forking.
pub fn generation() -> u64 {
    GENERATION.get()
}

/// Whether this process was forked from the one in which `generation` was current.
#[inline]
pub fn in_child(generation: u64) -> bool {
    GENERATION.get() != generation
}

/// Has it closed in children forked from now on.
pub fn enlist(ring: Weak<dyn CloseInChild>) {
    let mut list = LIST.lock();
    list.retain(|ring| ring.strong_count() > 0);
    list.push(ring);
    drop(list);
    install();
}

#[cfg(all(unix, not(any(loom, shuttle))))]
fn install() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers are plain functions that live as long as the program and do not
        // unwind. They lock and unlock one list that nobody locks while forking, and in the child
        // do only atomic operations on memory that the list keeps count of.
        let refused = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(child)) };
        if refused != 0 {
            tracing::warn!(
                "no memory to learn of forks: adds in a forked child will not be refused"
            );
        }
    });
}

#[cfg(not(all(unix, not(any(loom, shuttle)))))]
fn install() {}

#[cfg(all(unix, not(any(loom, shuttle))))]
extern "C" fn before() {
    let list = LIST.lock();
    let _ = HELD.try_with(|held| held.replace(Some(list)));
}

#[cfg(all(unix, not(any(loom, shuttle))))]
extern "C" fn in_parent() {
    let _ = HELD.try_with(|held| held.replace(None));
}

#[cfg(all(unix, not(any(loom, shuttle))))]
extern "C" fn child() {
    GENERATION.count();
    let _ = HELD.try_with(|held| {
        if let Some(list) = held.replace(None) {
            for ring in list.iter().filter_map(Weak::upgrade) {
                ring.close_in_child();
            }
        }
    });
}
