//! An HTTP server that answers after the commit: a POST is one item, many requests share one
//! batch, and each gets its own answer when that batch has been written.
//!
//! | answer | when |
//! |---|---|
//! | 200 | the item is written; the body names its batch |
//! | 500 | the sink refused it, or did not say |
//! | 503 | the queue is full: come again later |
//!
//! The example is its own client: it starts the server on a free port, sends 600 requests, 200 at a
//! time, and overruns a second server, whose queue is tiny. Then it shuts down gracefully, and
//! checks that the answers are true.
//!
//! `cargo run --example async_axum`

#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use sluicegate::{
    AddError, Batch, Batcher, Producer, Shutdown, Tracked, WhenFull, WriteContext, WriteError, sink,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
/// What has been committed; stands for a table.
type Table = Arc<Mutex<HashSet<String>>>;

const REQUESTS: usize = 600;
const AT_ONCE: usize = 200;

/// The handler: into the queue, wait for the commit, answer.
async fn save(
    State(producer): State<Producer<String, Tracked>>,
    body: String,
) -> (StatusCode, String) {
    let ack = match producer.add_with_ack_async(body).await {
        Ok(ack) => ack,
        Err(error @ (AddError::Full(_) | AddError::Timeout(_))) => {
            return (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        }
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match ack.await {
        Ok(receipt) => (StatusCode::OK, format!("batch {}", receipt.batch)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let roomy = serve(64, 1_024).await?;
    // Every fiftieth item is one that the sink refuses.
    let bodies = |i| if i % 50 == 7 { format!("bad {i}") } else { format!("event {i}") };
    let answers = send(roomy.address, bodies).await?;
    let (report, committed) = roomy.stop().await?;
    let statuses = count(&answers);
    println!("a queue with room: {statuses:?}, {} batches", report.stats.batches);
    assert_eq!(statuses, BTreeMap::from([(200, REQUESTS - 12), (500, 12)]));
    check(&answers, &committed);
    assert!(report.stats.batches < REQUESTS as u64 / 2, "requests share commits");

    let tiny = serve(4, 4).await?;
    let answers = send(tiny.address, |i| format!("event {i}")).await?;
    let (report, committed) = tiny.stop().await?;
    let statuses = count(&answers);
    println!("a queue of four:   {statuses:?}, {} batches", report.stats.batches);
    assert!(statuses.keys().all(|status| [200, 503].contains(status)));
    assert!(statuses[&503] > 0, "the queue was overrun");
    assert_eq!(report.stats.rejected, statuses[&503] as u64);
    check(&answers, &committed);
    Ok(())
}

/// Committed is what was answered with 200, and nothing else.
fn check(answers: &[(String, u16)], committed: &HashSet<String>) {
    for (body, status) in answers {
        assert_eq!(*status == 200, committed.contains(body), "{body}: {status}");
    }
}

fn count(answers: &[(String, u16)]) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for (_, status) in answers {
        *statuses.entry(*status).or_default() += 1;
    }
    statuses
}

struct Server {
    address: SocketAddr,
    batcher: Batcher<String, Tracked>,
    table: Table,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn serve(batch: usize, depth: usize) -> Outcome<Server> {
    let table = Table::default();
    let rows = Arc::clone(&table);
    let batcher = Batcher::builder()
        .max_batch_size(batch)
        .max_batch_delay(Duration::from_millis(5))
        .queue_depth(depth)
        .when_full(WhenFull::Reject) // a client should hear 503, not wait
        .with_acks()
        .spawn(move |_| {
            let rows = Arc::clone(&rows);
            Ok::<_, WriteError>(sink::from_fn(
                move |batch: &Batch<String>, cx: &mut WriteContext<'_>| commit(&rows, batch, cx),
            ))
        })?;
    let app = Router::new().route("/", post(save)).with_state(batcher.producer());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        axum::serve(listener, app).with_graceful_shutdown(stopped).await
    });
    Ok(Server { address, batcher, table, stop, running })
}

/// A commit costs two milliseconds, however many rows it has.
fn commit(
    rows: &Table,
    batch: &Batch<String>,
    cx: &mut WriteContext<'_>,
) -> Result<(), WriteError> {
    thread::sleep(Duration::from_millis(2));
    let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, row) in batch.iter().enumerate() {
        if row.starts_with("bad") {
            cx.fail(index, WriteError::permanent("violates a constraint"));
        } else {
            rows.insert(row.clone());
        }
    }
    Ok(())
}

impl Server {
    /// The order matters: first the server, which waits for the requests in hand and so for their
    /// acks; then the engine, which has nothing left to do.
    async fn stop(self) -> Outcome<(Shutdown<String>, HashSet<String>)> {
        let _ = self.stop.send(());
        self.running.await??;
        let report = self.batcher.shutdown_async(Duration::from_secs(5)).await;
        assert!(report.tally.balances() && report.left_behind.is_empty());
        assert_eq!(report.tally.in_flight, 0);
        let committed =
            std::mem::take(&mut *self.table.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((report, committed))
    }
}

/// Sends the requests and gives each body with its status.
async fn send(address: SocketAddr, body: impl Fn(usize) -> String) -> Outcome<Vec<(String, u16)>> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut requests = Vec::new();
    for i in 0..REQUESTS {
        let (permits, body) = (Arc::clone(&permits), body(i));
        requests.push(tokio::spawn(async move {
            let _permit = permits.acquire().await?;
            let status = request(address, &body).await?;
            Outcome::Ok((body, status))
        }));
    }
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await??);
    }
    Ok(answers)
}

/// As much of an HTTP client as it takes.
async fn request(address: SocketAddr, body: &str) -> Outcome<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).ok_or("no status line")?;
    Ok(status.parse()?)
}
