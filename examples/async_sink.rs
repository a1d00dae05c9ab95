//! An async sink: a client that is async, as those of most databases are, written to with several
//! batches in flight, and a request that never ends.
//!
//! Each flusher has a runtime of its own, so the program need not have one, and if it has, nothing
//! of the engine runs there.
//!
//! `cargo run --features tokio --example async_sink`

#![allow(clippy::print_stdout)]

use std::cell::Cell;
use std::error::Error;
use std::time::{Duration, Instant};

use sluicegate::{AsyncContext, AsyncSink, Batch, Batcher, Flusher, Retry, WriteError};
use tokio::sync::{mpsc, oneshot};

/// What one request takes on the way there and back.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Rows, and where the server answers.
type Request = (Vec<u64>, oneshot::Sender<usize>);

/// A client in the manner of `tokio-postgres`: requests go to a task that drives the connection,
/// and each has its answer when the server gives it.
struct Client {
    connection: mpsc::UnboundedSender<Request>,
    /// The sink is never called from two threads, so this need be no lock.
    requests: Cell<u64>,
}

impl Client {
    async fn connect(_url: &str) -> Result<Self, std::io::Error> {
        tokio::time::sleep(ROUND_TRIP).await;
        let (connection, mut requests) = mpsc::unbounded_channel::<Request>();
        tokio::spawn(async move {
            while let Some((rows, answer)) = requests.recv().await {
                tokio::spawn(async move {
                    tokio::time::sleep(ROUND_TRIP).await;
                    let _ = answer.send(rows.len());
                });
            }
        });
        Ok(Self { connection, requests: Cell::new(0) })
    }

    async fn insert(&self, rows: &[u64]) -> Result<usize, WriteError> {
        self.requests.set(self.requests.get() + 1);
        if self.requests.get() == 3 {
            std::future::pending::<()>().await; // the server has lost this one
        }
        let gone = |_| WriteError::disconnected("the connection is gone");
        let (answer, answered) = oneshot::channel();
        self.connection.send((rows.to_vec(), answer)).map_err(|error| gone(error.to_string()))?;
        answered.await.map_err(|error| gone(error.to_string()))
    }
}

impl AsyncSink<u64> for Client {
    async fn write(&self, batch: &Batch<u64>, cx: &mut AsyncContext<'_>) -> Result<(), WriteError> {
        // One bad row fails alone; a real client would learn of it from the server.
        if let Some(bad) = batch.iter().position(|row| *row == 1_234) {
            cx.fail(bad, WriteError::permanent("no such number"));
        }
        self.insert(batch).await.map(drop)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let url = "host=/run/postgresql".to_owned();
    let batcher = Batcher::builder()
        .max_batch_size(100)
        .concurrency(8)
        .write_timeout(Duration::from_millis(200))
        // Only for a sink in which writing a row twice does no harm: nobody knows whether what
        // took too long has arrived.
        .retry(Retry::default().unknown(true).initial_delay(Duration::from_millis(10)))
        .spawn_async(async move |_: Flusher| Client::connect(&url).await)?;

    let start = Instant::now();
    let producer = batcher.producer();
    for row in 0..5_000 {
        producer.add(row)?;
    }
    batcher.flush(Duration::from_secs(10))?;
    println!("50 round trips of {ROUND_TRIP:?} and a time-out took {:?}", start.elapsed());

    let report = batcher.shutdown(Duration::from_secs(5));
    println!("{:?}, {} retries", report.tally, report.stats.retries);
    assert_eq!((report.tally.flushed_ok, report.tally.flushed_fail), (4_999, 1));
    assert_eq!(
        (report.failed[0].item, report.failed[0].error.to_string()),
        (1_234, "no such number".into())
    );
    assert!(report.stats.retries >= 1, "the lost request was sent again");
    Ok(())
}
