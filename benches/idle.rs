//! Measures the CPU time that waiting costs, in per cent of one core: an engine with nothing to do;
//! producers, threads and tasks, blocked on a full queue while the sink stands still; and the same
//! behind a sink that takes 10 ms for 64 items, where what wakes has work to do. Not: the work; but
//! for what 10,000 idle owned rings do to the rate of a busy one.
//!
//! The time is what Linux has counted for each thread of this process, in nanoseconds
//! (`schedstat`), from the moment when everything waits; the thread that measures is left out.
//! Every turn checks its count.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Producer, WriteContext, WriteError, sink};
use tokio::runtime::Runtime;

mod common;
use common::{Figure, Turn, or_quick, take_turns};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PERIOD: Duration = Duration::from_secs(4);
/// For what is about to wait to fall asleep.
const SETTLE: Duration = Duration::from_millis(300);
const ROUNDS: usize = 3;
const LONG: Duration = Duration::from_secs(60);
const BATCH: usize = 64;
/// A batch that is being written, one that is formed behind it, and the queue: more than they hold.
const FILLS: u64 = 4 * BATCH as u64;

const IDLE_RINGS: usize = 10_000;
/// Slots of each owned ring.
const OWNED_DEPTH: usize = 256;
const BUSY: u64 = 20_000_000;

const SHARE: &str = "% of a core";

fn main() {
    let idle = |flushers: usize| {
        let s = if flushers == 1 { "" } else { "s" };
        Turn::new(format!("idle {flushers} flusher{s}"), move |_| nothing_to_do(flushers, s))
    };
    let blocked = |who: Who| {
        Turn::new(format!("blocked {}", who.name()), move |_| {
            let case = format!("blocked {}", who.name());
            vec![Figure::new(case, SHARE, still_sink(who))]
        })
    };
    let slow = |who: Who| {
        Turn::new(format!("slow sink {}", who.name()), move |_| {
            let case = format!("slow sink {}", who.name());
            let (share, rate) = slow_sink(who);
            vec![Figure::new(&case, SHARE, share), Figure::new(&case, "K items/s", rate / 1e3)]
        })
    };
    let crowd = [Who::Threads(1), Who::Threads(64), Who::Tasks(64)];
    let mut turns: Vec<Turn> = [1, 4].map(idle).into();
    turns.extend(crowd.map(blocked));
    turns.extend(crowd.map(slow));
    turns.push(Turn::new("owned rings", |_| beside_idle_rings()));
    take_turns("idle", ROUNDS, turns);
}

fn nothing_to_do(flushers: usize, s: &str) -> Vec<Figure> {
    let batcher = Batcher::<u64>::builder()
        .flushers(flushers)
        .spawn(|_| Ok::<_, WriteError>(sink::NullSink))
        .expect("the configuration is valid");
    batcher.producer().add(1).expect("the engine is open");
    batcher.flush(LONG).expect("nothing holds it up");
    let share = measure();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, 1);
    vec![Figure::new(format!("idle {flushers} flusher{s}"), SHARE, share)]
}

/// Idle owned rings, each of which has had an item: what they cost while nothing is to be done, and
/// what they do to the rate of one that is busy, with and without them in turn.
fn beside_idle_rings() -> Vec<Figure> {
    let batcher = Batcher::<u64>::builder()
        .owned_depth(OWNED_DEPTH)
        .queue_depth(OWNED_DEPTH * (IDLE_RINGS + 1).next_power_of_two())
        .spawn(|_| Ok::<_, WriteError>(sink::NullSink))
        .expect("the configuration is valid");
    let mut busy = batcher.owned_producer().expect("there are slots");
    let mut add = || {
        let start = Instant::now();
        let items = or_quick(BUSY, BUSY / 16);
        (0..items).for_each(|item| busy.add(item).expect("the engine is open"));
        batcher.flush(LONG).expect("nothing holds it up");
        items as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    add(); // warms up
    let alone = add();
    let mut idle: Vec<_> =
        (0..IDLE_RINGS).map(|_| batcher.owned_producer().expect("there are slots")).collect();
    idle.iter_mut().for_each(|idle| idle.add(1).expect("the engine is open"));
    batcher.flush(LONG).expect("nothing holds it up");
    let share = measure();
    let beside = add();
    drop(idle);
    assert!(batcher.shutdown(LONG).is_clean());
    let case = format!("{IDLE_RINGS} owned rings");
    vec![
        Figure::new(&case, SHARE, share),
        Figure::new("a busy owned ring", "M items/s", alone),
        Figure::new(format!("the same beside {case}"), "M items/s", beside),
        Figure::new(format!("the same beside {case}"), "of alone", beside / alone),
    ]
}

/// Producers wait for a sink that does not come back until all is measured.
fn still_sink(who: Who) -> f64 {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().expect("nobody has panicked");
    let its_gate = Arc::clone(&gate);
    let batcher = batcher(move || drop(its_gate.lock()));
    let crowd = who.start(&batcher, |_, added| added < FILLS);
    while batcher.tally().in_flight < 2 * BATCH as u64 {
        thread::yield_now(); // the queue is not full yet
    }
    let share = measure();
    drop(closed);
    let added = crowd.join();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, added);
    share
}

/// Per cent of a core, and items/s.
fn slow_sink(who: Who) -> (f64, f64) {
    let batcher = batcher(|| thread::sleep(Duration::from_millis(10)));
    let crowd = who.start(&batcher, |over, _| !over.load(Ordering::Relaxed));
    let (start, before) = (Instant::now(), batcher.tally().flushed_ok);
    let share = measure();
    let items = batcher.tally().flushed_ok - before;
    let rate = items as f64 / start.elapsed().as_secs_f64();
    let added = crowd.join();
    assert_eq!(batcher.shutdown(LONG).tally.flushed_ok, added);
    (share, rate)
}

fn batcher(write: impl Fn() + Clone + Send + Sync + 'static) -> Batcher<u64> {
    let spawned = Batcher::builder().max_batch_size(BATCH).queue_depth(BATCH).spawn(move |_| {
        let write = write.clone();
        let write = move |_: &Batch<u64>, _: &mut WriteContext<'_>| {
            write();
            Ok(())
        };
        Ok::<_, WriteError>(sink::from_fn(write))
    });
    spawned.expect("the configuration is valid")
}

/// Who adds.
#[derive(Clone, Copy)]
enum Who {
    Threads(usize),
    /// Tasks on two threads of a runtime.
    Tasks(usize),
}

/// Whether to add one more: is it over, and how many has this one added?
type More = fn(&AtomicBool, u64) -> bool;

impl Who {
    fn name(self) -> String {
        match self {
            Self::Threads(1) => "1 thread".into(),
            Self::Threads(count) => format!("{count} threads"),
            Self::Tasks(count) => format!("{count} tasks"),
        }
    }

    fn start(self, batcher: &Batcher<u64>, more: More) -> Crowd {
        let over = Arc::new(AtomicBool::new(false));
        let mut crowd = Crowd { over, threads: Vec::new(), runtime: None, tasks: Vec::new() };
        match self {
            Self::Threads(count) => crowd.threads(count, batcher, more),
            Self::Tasks(count) => crowd.tasks(count, batcher, more),
        }
        crowd
    }
}

/// Those who add, until they are told that it is over or have enough.
struct Crowd {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
    runtime: Option<Runtime>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Crowd {
    fn threads(&mut self, count: usize, batcher: &Batcher<u64>, more: More) {
        for _ in 0..count {
            let (producer, over) = (batcher.producer(), Arc::clone(&self.over));
            self.threads.push(thread::spawn(move || {
                let mut added = 0;
                while more(&over, added) {
                    producer.add(1).expect("the engine is open");
                    added += 1;
                }
                added
            }));
        }
    }

    fn tasks(&mut self, count: usize, batcher: &Batcher<u64>, more: More) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let runtime = self.runtime.insert(runtime.expect("two threads can be had"));
        let add = |producer: Producer<u64>, over: Arc<AtomicBool>| async move {
            let mut added = 0;
            while more(&over, added) {
                producer.add_async(1).await.expect("the engine is open");
                added += 1;
            }
            added
        };
        let spawn = |_| runtime.spawn(add(batcher.producer(), Arc::clone(&self.over)));
        self.tasks = (0..count).map(spawn).collect();
    }

    /// How many they have added.
    fn join(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter().map(|thread| thread.join().expect("none panics"));
        let by_threads: u64 = threads.sum();
        let Some(runtime) = self.runtime else { return by_threads };
        let tasks = self.tasks.into_iter();
        tasks.map(|task| runtime.block_on(task).expect("none panics")).sum()
    }
}

/// Per cent of a core that the other threads take while the caller's sleeps.
fn measure() -> f64 {
    thread::sleep(or_quick(SETTLE, SETTLE / 10));
    let (start, before) = (Instant::now(), cpu_times());
    thread::sleep(or_quick(PERIOD, PERIOD / 20));
    let (wall, after) = (start.elapsed(), cpu_times());
    assert!(before.keys().all(|thread| after.contains_key(thread)), "a thread has ended meanwhile");
    let spent = after.iter().map(|(thread, now)| now - before.get(thread).unwrap_or(&0));
    100.0 * spent.sum::<u64>() as f64 / wall.as_nanos() as f64
}

/// Nanoseconds on a CPU of each thread but the caller's, which reads all this.
fn cpu_times() -> HashMap<String, u64> {
    let tasks = Path::new("/proc/self/task").read_dir().expect("this bench reads Linux's /proc");
    let names = tasks.map(|task| task.expect("a readable folder").file_name());
    let own = Path::new("/proc/thread-self").canonicalize().expect("as above");
    let others = names.filter(|name| own.file_name() != Some(name));
    others.filter_map(|name| name.into_string().ok()).filter_map(cpu_time).collect()
}

/// None if the thread has just ended.
fn cpu_time(thread: String) -> Option<(String, u64)> {
    let file = format!("/proc/self/task/{thread}/schedstat");
    let told = std::fs::read_to_string(file).ok()?;
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Some((thread, nanos.expect("the first number is the time on a CPU")))
}
