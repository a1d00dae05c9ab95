//! For tests: the CPU that a thread seems to run on.

use std::cell::Cell;

use crate::sync::thread_local;

thread_local! {
    // Not `const { … }`: loom's macro does not take it.
    #[allow(clippy::missing_const_for_thread_local)]
    static SEEMS: Cell<Option<u32>> = Cell::new(None);
}

/// Has the calling thread seem to run on that CPU, for whoever looks for a producer's home; `None`
/// for the real one. For tests of placement on machines that are not at hand, with
/// [`Builder::topology`](crate::Builder::topology).
///
/// ```
/// use std::time::Duration;
/// use sluicegate::placement::{Cpu, NumaNode, Pin, Topology};
/// use sluicegate::testing::seem_on_cpu;
/// use sluicegate::{Batcher, WriteError, sink::NullSink};
///
/// let two_nodes = Topology::builder()
///     .nodes([NumaNode::new(0, 1 << 30), NumaNode::new(1, None)])
///     .cpus((0..4).map(|cpu| Cpu::new(cpu, cpu / 2)))
///     .build();
/// let builder = Batcher::<u64>::builder().topology(two_nodes).pin(Pin::None);
/// let batcher = builder.spawn(|_| Ok::<_, WriteError>(NullSink))?;
/// seem_on_cpu(3);
/// assert_eq!(batcher.producer().home(), Some(1));
/// # seem_on_cpu(None);
/// # batcher.shutdown(Duration::from_secs(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn seem_on_cpu(cpu: impl Into<Option<u32>>) {
    let _ = SEEMS.try_with(|seems| seems.set(cpu.into()));
}

/// The CPU that the calling thread seems to run on.
pub fn seeming_cpu() -> Option<u32> {
    SEEMS.try_with(Cell::get).unwrap_or(None)
}
