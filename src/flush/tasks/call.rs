//! One call of an async sink: it is bounded in time, and its panics are caught.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::unconstrained;

use crate::guard::guarded;
use crate::sink::{Applied, WriteError};

/// What can cut the calls of a flusher short.
pub struct Watch {
    /// How long each may take.
    pub timeout: Duration,
    /// Shutdown waits for none of them any longer.
    pub given_up: Cell<bool>,
}

/// Why a call did not answer.
#[derive(Debug)]
pub enum Cut {
    Panicked(String),
    /// Another call of the same sink has panicked.
    Broken,
    TooLong(Duration),
    GivenUp,
    /// The sink was not asked: another call of it had panicked, or shutdown has given up.
    NotBegun,
}

impl Watch {
    /// Makes a future of the caller's and polls it to its end, or until something cuts it short.
    /// Then it is dropped, unless it never began. `broken`: the sink is not to be polled any more.
    ///
    /// What has the answer is asked first: it might just be there.
    pub async fn call<F: Future>(
        &self,
        broken: &Cell<bool>,
        begin: impl FnOnce() -> F,
    ) -> Result<F::Output, Cut> {
        if broken.get() || self.given_up.get() {
            return Err(Cut::NotBegun);
        }
        let mut call = pin!(None);
        match guarded(begin) {
            Ok(future) => call.set(Some(future)),
            Err(message) => return Err(Cut::Panicked(message)),
        }
        // However busy the futures are, a time-out comes.
        let mut timeout = pin!(unconstrained(tokio::time::sleep(self.timeout)));
        let mut late = false;
        let ended = poll_fn(|cx| {
            if broken.get() {
                return Poll::Ready(Err(Cut::Broken));
            }
            let Some(future) = call.as_mut().as_pin_mut() else { return Poll::Pending };
            match guarded(|| future.poll(cx)) {
                Ok(Poll::Ready(answer)) => Poll::Ready(Ok(answer)),
                Err(message) => Poll::Ready(Err(Cut::Panicked(message))),
                Ok(Poll::Pending) if self.given_up.get() => Poll::Ready(Err(Cut::GivenUp)),
                // Once more, when its time has come: what brings the answer may run only now.
                Ok(Poll::Pending) if late => Poll::Ready(Err(Cut::TooLong(self.timeout))),
                Ok(Poll::Pending) => {
                    late = timeout.as_mut().poll(cx).is_ready();
                    if late {
                        cx.waker().wake_by_ref();
                    }
                    Poll::Pending
                }
            }
        });
        let ended = ended.await;
        match guarded(|| call.set(None)) {
            Err(message) if ended.is_err() => Err(Cut::Panicked(message)),
            _ => ended,
        }
    }
}

impl Cut {
    /// What is said in the sink's place of a `call`: a noun.
    pub fn error(self, call: &str) -> WriteError {
        let error = match self {
            Self::Panicked(message) => {
                WriteError::permanent(format!("the sink panicked: {message}"))
            }
            // It is dropped, and whatever connection it had.
            Self::Broken => WriteError::disconnected("another write of this sink panicked"),
            // Not `disconnected`: nobody has seen the connection go, and a lock or a slow
            // statement is the usual cause.
            Self::TooLong(limit) => {
                WriteError::transient(format!("the {call} took longer than {limit:?}"))
            }
            Self::NotBegun => return WriteError::disconnected(format!("the {call} did not begin")),
            Self::GivenUp => {
                WriteError::transient(format!("the {call} had not ended when shutdown gave up"))
            }
        };
        error.applied(Applied::Unknown)
    }
}
