//! Promise: each flusher with an async sink has a runtime of its own, in which the sink and its
//! tasks live, and nothing else of the caller's does.

#![allow(clippy::unwrap_used)]

mod async_rig;
mod common;

use std::cell::Cell;
use std::future::pending;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use async_rig::{Door, OnDrop, count, counter, read, shut_down, singly, sinks};
use common::{LONG, no_second_try, until};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sluicegate::{
    AsyncContext, AsyncSink, Batch, Batcher, Dead, DroppedItem, FailedItem, Flusher, Sink,
    WriteContext, WriteError, sink,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{self, Handle};

#[test]
fn tasks_of_a_sink_run_while_it_is_idle_and_end_with_its_flusher() {
    let (ticks, dropped) = (counter(), counter());
    let (ticking, drops) = (Arc::clone(&ticks), Arc::clone(&dropped));
    let batcher = singly()
        .spawn_async(async move |_: Flusher| {
            let (sends, ends) = (Arc::clone(&ticking), OnDrop(Arc::clone(&drops)));
            tokio::spawn(async move {
                let _ends = ends;
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    count(&sends);
                }
            });
            let (here, ends) = (std::rc::Rc::new(Cell::new(0)), OnDrop(Arc::clone(&drops)));
            let local = here.clone(); // not `Send`
            tokio::task::spawn_local(async move {
                let _ends = ends;
                local.set(1);
                pending::<()>().await;
            });
            tokio::task::yield_now().await;
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |_: &Batch<u64>, _: &mut AsyncContext<'_>| {
                    assert_eq!(here.get(), 1);
                    Ok(())
                },
            ))
        })
        .unwrap();
    until("it ticks while nobody adds", || read(&ticks) > 3);
    batcher.producer().add(1).unwrap();
    assert!(shut_down(batcher).is_clean());
    assert_eq!(read(&dropped), 2);
}

/// Waits for something async as code that is not async does.
fn block() {
    let runtime = runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
}

/// An item that blocks when it is dropped.
struct Blocks(u64, Arc<AtomicU64>);

impl Drop for Blocks {
    fn drop(&mut self) {
        block();
        count(&self.1);
    }
}

/// A dead-letter sink that blocks, and takes every other item.
struct Letters(Arc<AtomicU64>);

impl Sink<Dead<Blocks>> for Letters {
    fn write(
        &mut self,
        batch: &Batch<Dead<Blocks>>,
        cx: &mut WriteContext<'_>,
    ) -> Result<(), WriteError> {
        block();
        for (index, letter) in batch.iter().enumerate() {
            if letter.item.0.is_multiple_of(2) {
                count(&self.0);
            } else {
                cx.fail(index, WriteError::permanent("not this one"));
            }
        }
        Ok(())
    }

    fn close(&mut self, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        block();
        count(&self.0);
        Ok(())
    }
}

#[test]
fn what_is_not_the_sink_may_block_in_a_runtime_of_its_own() {
    let [dead, failed, expired, dropped] = [(); 4].map(|()| counter());
    let (on_failed, on_dropped) = (Arc::clone(&failed), Arc::clone(&expired));
    let hold = Door::shut();
    let door = hold.clone();
    let batcher = no_second_try(Batcher::builder())
        .max_batch_size(10)
        .concurrency(2)
        .max_age_since(LONG, |item: &Blocks| {
            let now = Instant::now();
            if item.0 >= 10 { now.checked_sub(LONG * 2).unwrap() } else { now }
        })
        .dead_letters(Letters(Arc::clone(&dead)))
        .on_failed(move |item: FailedItem<Blocks>| {
            block();
            count(&on_failed);
            drop(item);
        })
        .on_dropped(move |item: DroppedItem<Blocks>| {
            block();
            count(&on_dropped);
            drop(item);
        })
        .spawn_async(async move |_: Flusher| {
            let door = door.clone();
            Ok::<_, WriteError>(sink::from_async_fn(
                async move |batch: &Batch<Blocks>, cx: &mut AsyncContext<'_>| {
                    door.pass().await;
                    for index in batch.len() / 2..batch.len() {
                        cx.fail(index, WriteError::permanent("the second half"));
                    }
                    Ok(())
                },
            ))
        })
        .unwrap();
    for item in 0..20 {
        batcher.producer().add(Blocks(item, Arc::clone(&dropped))).unwrap();
    }
    hold.admit(10);
    let report = shut_down(batcher);
    // Of 0 to 9 the second half fails, of which 6 and 8 are taken; the other ten are too old.
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (5, 5));
    assert_eq!((report.tally.dropped, read(&expired)), (10, 10));
    assert_eq!((report.stats.dead_lettered, read(&failed)), (2, 3));
    assert_eq!(read(&dead), 3, "two letters, and it was closed");
    assert_eq!((report.stats.callback_panics, read(&dropped)), (0, 20));
    assert!(report.close_errors.is_empty(), "{:?}", report.close_errors);
}

/// Ready at once, always.
#[derive(Clone)]
struct Instantly;

impl AsyncSink<u64> for Instantly {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        Ok(())
    }
}

#[test]
fn tasks_timers_and_sockets_go_on_under_writes_that_are_always_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let [tasks, sent] = [(); 2].map(|()| counter());
    let (task, send) = (Arc::clone(&tasks), Arc::clone(&sent));
    let batcher = singly()
        .spawn_async(async move |_: Flusher| {
            let (task, send) = (Arc::clone(&task), Arc::clone(&send));
            let mut stream = TcpStream::connect(address).await?;
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    count(&task);
                }
            });
            tokio::spawn(async move {
                while stream.write_u8(1).await.is_ok() && stream.read_u8().await.is_ok() {
                    count(&send);
                }
            });
            Ok::<_, std::io::Error>(Instantly)
        })
        .unwrap();
    let (mut echo, _) = listener.accept().unwrap();
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while echo.read_exact(&mut byte).is_ok() && echo.write_all(&byte).is_ok() {}
    });
    let producer = batcher.producer();
    let fill = || (0..256).for_each(|item| producer.add(item).unwrap());
    fill(); // from here on the queue is never empty for long
    let start = [read(&tasks), read(&sent)];
    until("they have gone on", || {
        fill();
        read(&tasks) > start[0] + 5 && read(&sent) > start[1] + 5
    });
    assert!(shut_down(batcher).is_clean());
    echo.join().unwrap();
}

/// Each write waits for futures that have wakers of their own, and yield.
#[derive(Clone)]
struct Several;

impl AsyncSink<u64> for Several {
    async fn write(&self, batch: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        let yields = async |times: u64| {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        };
        let several: FuturesUnordered<_> = (0..4).map(|more| yields(batch[0] % 5 + more)).collect();
        several.collect::<Vec<_>>().await;
        Ok(())
    }
}

#[test]
fn a_wake_up_that_the_runtime_has_put_off_is_not_lost_when_another_write_ends() {
    let batcher = singly()
        .concurrency(4)
        .write_timeout(Duration::from_secs(2))
        .spawn_async(sinks(Several))
        .unwrap();
    (0..2_000).for_each(|item| batcher.producer().add(item).unwrap());
    let report = shut_down(batcher);
    assert_eq!((report.tally.flushed_ok, report.tally.unknown), (2_000, 0));
}

/// Says on being dropped whether a runtime was there.
struct Inside(Arc<AtomicU64>);

impl Drop for Inside {
    fn drop(&mut self) {
        if Handle::try_current().is_ok() {
            count(&self.0);
        }
    }
}

impl AsyncSink<u64> for Inside {
    async fn write(&self, _: &Batch<u64>, _: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        resume_unwind(Box::new("as planned"))
    }
}

#[test]
fn a_sink_its_writes_and_its_tasks_are_dropped_inside_the_runtime() {
    let inside = counter();
    let made = Arc::clone(&inside);
    let batcher = singly()
        .spawn_async(async move |_: Flusher| {
            let [task, local, sink] = [(); 3].map(|()| Inside(Arc::clone(&made)));
            tokio::spawn(async move {
                let _task = task;
                pending::<()>().await;
            });
            tokio::task::spawn_local(async move {
                let _local = local;
                pending::<()>().await;
            });
            Ok::<_, WriteError>(sink)
        })
        .unwrap();
    (0..2).for_each(|item| batcher.producer().add(item).unwrap());
    batcher.flush(LONG).unwrap();
    assert_eq!(read(&inside), 2, "two sinks that have panicked");
    let report = shut_down(batcher);
    assert_eq!((report.tally.unknown, report.stats.sink_panics), (2, 2));
    assert_eq!(read(&inside), 2 + 2 * 2, "two tasks of each");
}
