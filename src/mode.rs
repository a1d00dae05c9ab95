//! What travels with an item, chosen by a type so that who does not use it does not pay for it:
//! [`Plain`] items travel alone, [`Tracked`] ones with a tag.
//!
//! A ring of a plain engine holds items and nothing else, 16 bytes a slot for a `u64`. A tracked
//! one holds a [`Tag`] beside each item: who waits for its fate, the bytes it holds of the memory
//! budget, and when it was added.

use crate::ack::Promise;
use crate::error::Refused;
use crate::flush::Shard;
use crate::ring::{Front, Push, Run, RunError, Word};

/// Items travel alone: no acks, no memory budget, no age. The default.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Items travel with a tag: see [`Builder::with_acks`](crate::Builder::with_acks),
/// [`Builder::max_queue_bytes`](crate::Builder::max_queue_bytes),
/// [`Builder::max_age`](crate::Builder::max_age).
#[derive(Clone, Copy, Debug)]
pub struct Tracked;

/// [`Plain`] or [`Tracked`]; there are no others.
pub trait Mode<T>: Carry<T> {
    /// Makes an entry that is not charged yet. Calls the caller's weight function where there is a
    /// budget.
    #[doc(hidden)]
    fn entry(shard: &Shard<T, Self>, item: T, promise: Option<Promise<T>>) -> Self::Entry;

    /// Charges it, and pushes it to a ring of the shard.
    #[doc(hidden)]
    fn push(
        shard: &Shard<T, Self>,
        ring: &impl Push<Self::Entry>,
        entry: Self::Entry,
    ) -> Result<Word, Refused<Self::Entry>>;

    /// Charges and pushes as many items as go in with one claim, `max` at most.
    #[doc(hidden)]
    fn push_run(
        shard: &Shard<T, Self>,
        ring: &impl Push<Self::Entry>,
        front: &mut Front<'_, T>,
        max: usize,
    ) -> Result<Word, RunRefused>;
}

/// What is known of an item besides itself.
pub struct Tag<T> {
    /// Who waits for its fate.
    pub promise: Option<Promise<T>>,
    /// Bytes charged to the budget.
    pub bytes: u64,
    /// When it was added, in nanoseconds after the shard's start, plus 1; 0: not known.
    pub added: u64,
}

impl<T> Default for Tag<T> {
    fn default() -> Self {
        Self { promise: None, bytes: 0, added: 0 }
    }
}

/// An item with its tag, as a ring holds it.
pub struct Tagged<T> {
    item: T,
    tag: Tag<T>,
}

/// The tags of a batch, in the order of its items.
pub struct TagList<T> {
    tags: Vec<Tag<T>>,
    /// Where entries lie between leaving the ring and being taken apart.
    entries: Vec<Tagged<T>>,
}

impl<T> Default for TagList<T> {
    fn default() -> Self {
        Self { tags: Vec::new(), entries: Vec::new() }
    }
}

/// How a [`Mode`] carries items through the engine.
pub trait Carry<T>: Sized + Send + Sync + 'static {
    /// Whether there are tags at all.
    const TRACKED: bool;
    /// What a slot of the ring holds.
    type Entry: Send + 'static;
    /// The tags of a batch.
    type Tags: Default + Send + 'static;

    /// The item in it.
    fn item(entry: &Self::Entry) -> &T;
    /// Takes it apart.
    fn split(entry: Self::Entry) -> (T, Tag<T>);
    /// Appends it to a batch.
    fn put(entry: Self::Entry, items: &mut Vec<T>, tags: &mut Self::Tags) {
        let (item, tag) = Self::split(entry);
        items.push(item);
        Self::put_tag(tag, tags);
    }
    /// Appends a tag.
    fn put_tag(tag: Tag<T>, tags: &mut Self::Tags);
    /// Appends what `drain` takes out of the ring to a batch.
    fn drain<E>(
        items: &mut Vec<T>,
        tags: &mut Self::Tags,
        drain: impl FnOnce(&mut Vec<Self::Entry>) -> Result<Run, E>,
    ) -> Result<Run, E>;
    /// The tag of the item at this place of the batch.
    fn tag(tags: &Self::Tags, index: usize) -> Option<&Tag<T>>;
    /// Takes that tag out; an empty one stays.
    fn take_tag(tags: &mut Self::Tags, index: usize) -> Tag<T>;
    /// Takes all tags out, in order.
    fn take_tags(tags: &mut Self::Tags) -> impl Iterator<Item = Tag<T>>;
}

/// Why no item of a run went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunRefused {
    /// The ring has no room.
    Full,
    /// The ring has room in a moment: an item is on its way out.
    Busy,
    /// The budget has no room.
    Short,
    /// Closed.
    Closed,
    /// The next item is larger than the whole budget.
    TooLarge {
        /// Its bytes.
        bytes: u64,
    },
}

impl From<RunError> for RunRefused {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Full => Self::Full,
            RunError::Busy => Self::Busy,
            RunError::Closed => Self::Closed,
        }
    }
}

impl<T: Send + 'static> Carry<T> for Plain {
    const TRACKED: bool = false;
    type Entry = T;
    type Tags = ();

    fn item(entry: &T) -> &T {
        entry
    }

    fn split(entry: T) -> (T, Tag<T>) {
        (entry, Tag::default())
    }

    fn put_tag(_: Tag<T>, (): &mut ()) {}

    fn drain<E>(
        items: &mut Vec<T>,
        (): &mut (),
        drain: impl FnOnce(&mut Vec<T>) -> Result<Run, E>,
    ) -> Result<Run, E> {
        drain(items)
    }

    fn tag((): &(), _: usize) -> Option<&Tag<T>> {
        None
    }

    fn take_tag((): &mut (), _: usize) -> Tag<T> {
        Tag::default()
    }

    fn take_tags((): &mut ()) -> impl Iterator<Item = Tag<T>> {
        std::iter::empty()
    }
}

impl<T: Send + 'static> Mode<T> for Plain {
    #[inline(always)]
    fn entry(_: &Shard<T, Self>, item: T, _: Option<Promise<T>>) -> T {
        item
    }

    #[inline(always)]
    fn push(_: &Shard<T, Self>, ring: &impl Push<T>, entry: T) -> Result<Word, Refused<T>> {
        ring.push(entry).map_err(Refused::from)
    }

    fn push_run(
        _: &Shard<T, Self>,
        ring: &impl Push<T>,
        front: &mut Front<'_, T>,
        max: usize,
    ) -> Result<Word, RunRefused> {
        ring.push_run(front, max, |item| item).map_err(RunRefused::from)
    }
}

/// Items that are weighed and charged with one claim.
const RUN_MAX: usize = 64;

impl<T: Send + 'static> Mode<T> for Tracked {
    fn entry(shard: &Shard<T, Self>, item: T, promise: Option<Promise<T>>) -> Tagged<T> {
        let bytes = shard.admission.weigh(&item);
        Tagged { item, tag: Tag { promise, bytes, added: 0 } }
    }

    fn push(
        shard: &Shard<T, Self>,
        ring: &impl Push<Tagged<T>>,
        mut entry: Tagged<T>,
    ) -> Result<Word, Refused<Tagged<T>>> {
        let bytes = entry.tag.bytes;
        let charge = match shard.charge(ring, bytes) {
            Ok(charge) => charge,
            Err(RunRefused::TooLarge { bytes }) => return Err(Refused::TooLarge(entry, bytes)),
            Err(RunRefused::Closed) => return Err(Refused::Closed(entry)),
            Err(RunRefused::Full) => return Err(Refused::Full(entry)),
            Err(RunRefused::Busy) => return Err(Refused::Busy(entry)),
            Err(RunRefused::Short) => return Err(Refused::Short(entry)),
        };
        entry.tag.added = shard.stamp(entry.tag.promise.is_some());
        let word = ring.push(entry).map_err(Refused::from)?;
        if let Some(charge) = charge {
            charge.keep();
            shard.pushed_charged();
        }
        Ok(word)
    }

    fn push_run(
        shard: &Shard<T, Self>,
        ring: &impl Push<Tagged<T>>,
        front: &mut Front<'_, T>,
        max: usize,
    ) -> Result<Word, RunRefused> {
        let added = shard.stamp(false);
        if shard.admission.budget.is_none() {
            let wrap = |item| Tagged { item, tag: Tag { added, ..Tag::default() } };
            return Ok(ring.push_run(front, max, wrap)?);
        }
        // Weighed before anything is claimed: it is the caller's code.
        let mut bytes = [0; RUN_MAX];
        let count = front.len().min(RUN_MAX).min(max);
        for (bytes, item) in bytes.iter_mut().zip(front.items()) {
            *bytes = shard.admission.weigh(item);
        }
        let (count, charge) = shard.charge_run(ring, &bytes[..count])?;
        let mut next = bytes[..count].iter();
        let before = front.len();
        let word = ring.push_run(front, count, |item| {
            let bytes = next.next().copied().unwrap_or(0);
            Tagged { item, tag: Tag { added, bytes, promise: None } }
        })?;
        // What did not go in is given back.
        let kept = bytes[..before - front.len()].iter().sum();
        if let Some(charge) = charge {
            charge.keep_part(kept);
            shard.pushed_charged();
        }
        Ok(word)
    }
}

impl<T: Send + 'static> Carry<T> for Tracked {
    const TRACKED: bool = true;
    type Entry = Tagged<T>;
    type Tags = TagList<T>;

    fn item(entry: &Tagged<T>) -> &T {
        &entry.item
    }

    fn split(entry: Tagged<T>) -> (T, Tag<T>) {
        (entry.item, entry.tag)
    }

    fn put_tag(tag: Tag<T>, tags: &mut TagList<T>) {
        tags.tags.push(tag);
    }

    fn drain<E>(
        items: &mut Vec<T>,
        tags: &mut TagList<T>,
        drain: impl FnOnce(&mut Vec<Tagged<T>>) -> Result<Run, E>,
    ) -> Result<Run, E> {
        let run = drain(&mut tags.entries)?;
        for Tagged { item, tag } in tags.entries.drain(..) {
            items.push(item);
            tags.tags.push(tag);
        }
        Ok(run)
    }

    fn tag(tags: &TagList<T>, index: usize) -> Option<&Tag<T>> {
        tags.tags.get(index)
    }

    fn take_tag(tags: &mut TagList<T>, index: usize) -> Tag<T> {
        tags.tags.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    fn take_tags(tags: &mut TagList<T>) -> impl Iterator<Item = Tag<T>> {
        tags.tags.drain(..)
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_plain_entry_is_the_item_and_a_tag_is_small() {
        assert_eq!(size_of::<<Plain as Carry<u64>>::Entry>(), 8);
        assert_eq!(size_of::<<Plain as Carry<u64>>::Tags>(), 0);
        assert_eq!(size_of::<<Tracked as Carry<u64>>::Entry>(), 40);
    }
}
