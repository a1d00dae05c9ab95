//! Measures the CPU time that waiting costs: an engine with nothing to do, and producers, threads
//! and tasks, blocked on a full queue behind a slow sink. Prints per cent of one core over each period.
//! Not: the work itself.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use sluicegate::{Batch, Batcher, Producer, WriteContext, WriteError, sink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PERIOD: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

fn main() {
    idle("idle engine, 1 flusher", 1);
    idle("idle engine, 4 flushers", 4);
    blocked("1 producer blocked, sink takes 10 ms for 64 items", 1);
    blocked("64 producers blocked, sink takes 10 ms for 64 items", 64);
    blocked_tasks("64 tasks blocked (tokio), sink takes 10 ms for 64 items", 64);
}

fn idle(name: &str, flushers: usize) {
    let batcher = Batcher::<u64>::builder()
        .flushers(flushers)
        .spawn(|_| Ok::<_, WriteError>(sink::NullSink))
        .expect("the configuration is valid");
    batcher.producer().add(1).expect("the engine is open");
    batcher.flush(LONG).expect("nothing holds it up");
    measure(name, || std::thread::sleep(PERIOD));
    assert!(batcher.shutdown(LONG).is_clean());
}

fn slow() -> Batcher<u64> {
    Batcher::builder()
        .max_batch_size(64)
        .queue_depth(64)
        .spawn(|_| {
            Ok::<_, WriteError>(sink::from_fn(|_: &Batch<u64>, _: &mut WriteContext<'_>| {
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            }))
        })
        .expect("the configuration is valid")
}

fn blocked(name: &str, producers: usize) {
    let batcher = slow();
    let end = Instant::now() + PERIOD;
    measure(name, || {
        std::thread::scope(|scope| {
            for _ in 0..producers {
                let producer = batcher.producer();
                scope.spawn(move || {
                    while Instant::now() < end {
                        producer.add(1).expect("the engine is open");
                    }
                });
            }
        });
    });
    finish(batcher);
}

/// As `blocked`, but what waits is tasks, on two threads of a runtime.
fn blocked_tasks(name: &str, producers: usize) {
    let batcher = slow();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let runtime = runtime.expect("two threads can be had");
    let end = Instant::now() + PERIOD;
    measure(name, || {
        let add_until_end = |producer: Producer<u64>| async move {
            while Instant::now() < end {
                producer.add_async(1).await.expect("the engine is open");
            }
        };
        let spawn = |_| runtime.spawn(add_until_end(batcher.producer()));
        for task in (0..producers).map(spawn).collect::<Vec<_>>() {
            runtime.block_on(task).expect("no task panics");
        }
    });
    finish(batcher);
}

fn finish(batcher: Batcher<u64>) {
    let report = batcher.shutdown(LONG);
    assert!(report.is_clean());
    println!("{:58} {} items through", "", report.tally.flushed_ok);
}

fn measure(name: &str, work: impl FnOnce()) {
    let (wall, cpu) = (Instant::now(), cpu_time());
    work();
    let (wall, cpu) = (wall.elapsed(), cpu_time().saturating_sub(cpu));
    let share = 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
    println!("{name:58} {share:6.2} % of a core ({cpu:?} in {wall:.1?})");
}

/// CPU time of this process so far, threads that have ended included; in steps of a clock tick.
fn cpu_time() -> Duration {
    const TICKS_PER_SECOND: u64 = 100; // USER_HZ, fixed in Linux's interface
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this bench reads Linux's /proc");
    let after_name = stat.rsplit(") ").next().expect("the name stands in brackets");
    let ticks: u64 =
        after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}
