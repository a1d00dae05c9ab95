//! Promise: each flusher with an async sink has a runtime of its own, in which the sink and its
//! tasks live, and nothing else of the caller's does.

#![allow(clippy::unwrap_used)]

mod async_rig;
mod common;

use std::cell::Cell;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_rig::{OnDrop, count, counter, read, shut_down, singly};
use common::until;
use sluicegate::{AsyncContext, Batch, Flusher, WriteError, sink};

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
