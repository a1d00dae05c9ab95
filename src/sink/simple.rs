//! Sinks without a destination of their own: a closure, and nowhere.

use super::{Sink, WriteContext, WriteError};
use crate::batch::Batch;

/// A sink made of a closure; see [`from_fn`].
#[derive(Debug)]
pub struct FnSink<F>(F);

/// Makes a sink of a closure.
///
/// ```
/// use sluicegate::{Batch, WriteContext, WriteError, sink};
///
/// let mut rows = 0;
/// let sink = sink::from_fn(move |batch: &Batch<u64>, _: &mut WriteContext<'_>| {
///     rows += batch.len();
///     Ok::<(), WriteError>(())
/// });
/// # let _ = sink;
/// ```
pub fn from_fn<T, F>(write: F) -> FnSink<F>
where
    F: FnMut(&Batch<T>, &mut WriteContext<'_>) -> Result<(), WriteError>,
{
    FnSink(write)
}

impl<T, F> Sink<T> for FnSink<F>
where
    F: FnMut(&Batch<T>, &mut WriteContext<'_>) -> Result<(), WriteError>,
{
    fn write(&mut self, batch: &Batch<T>, cx: &mut WriteContext<'_>) -> Result<(), WriteError> {
        (self.0)(batch, cx)
    }
}

/// Takes everything and keeps nothing: for measuring the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl<T> Sink<T> for NullSink {
    fn write(&mut self, _: &Batch<T>, _: &mut WriteContext<'_>) -> Result<(), WriteError> {
        Ok(())
    }
}
