//! Whether a flusher may write now: machines without a lock, a thread or a clock.
//!
//! Each is told the time and answers from it, so a test can put any schedule before it, and who
//! owns it decides under which lock it lives.
//!
//! | file | asks |
//! |---|---|
//! | `retry` | how long a failed item waits, and whether there are too many retries already |
//! | `breaker` | whether the sink is down, so that writing to it would be in vain |
//! | `throttle` | whether more would be written than the sink is to be given |
//! | `adapt` | how many writes may be under way at once |
//! | `meter` | nothing by itself: a rate, for the budget of retries and the throttle |

mod adapt;
mod breaker;
mod meter;
mod retry;
mod throttle;

use std::fmt::Display;
use std::time::{Duration, Instant};

pub use adapt::Adaptive;
pub(crate) use adapt::Limiter;
pub use breaker::Pass;
pub use breaker::{Breaker, BreakerState, WhileOpen};
pub(crate) use breaker::{Look, Switch};
pub use retry::Retry;
pub(crate) use retry::RetryBudget;
pub(crate) use throttle::Buckets;
pub use throttle::Throttle;

use crate::config::ConfigError;

/// Later than any process lives, and still an [`Instant`] on every platform.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// So long after `from`, or a hundred years after it.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by.min(FAR)).unwrap_or(from)
}

/// Refuses a value that is not `allowed`.
fn within(
    fits: bool,
    key: &'static str,
    got: impl Display,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if fits { Ok(()) } else { Err(ConfigError::OutOfRange { key, got: got.to_string(), allowed }) }
}

/// Refuses a bound of nothing.
fn nonzero<V: Default + PartialEq>(key: &'static str, value: V) -> Result<(), ConfigError> {
    if value == V::default() { Err(ConfigError::Zero { key }) } else { Ok(()) }
}
