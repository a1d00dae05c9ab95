//! What the sink has said of each item, against what is in the store.

use std::fmt::Debug;

/// Longer items are cut in messages.
const SHOWN: usize = 120;

/// What the sink has said of an item.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It is in.
    In,
    /// It failed and nothing was applied.
    Refused(String),
    /// It failed, and may be in.
    Unknown(String),
}

pub(super) fn show(item: &impl Debug) -> String {
    let text = format!("{item:?}");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Compares everything that was written, in order, with everything that was found.
pub(super) fn compare<T: PartialEq + Debug>(
    written: &[(T, Fate)],
    found: &[T],
) -> Result<(), String> {
    let mut seen = vec![false; written.len()];
    let mut last: Option<usize> = None;
    for item in found {
        // Mostly it is the one after the last.
        let next = last.map_or(0, |last| last + 1);
        let places = (next..written.len()).chain(0..next);
        let is_it = |place: &usize| written[*place].0 == *item;
        let Some(place) = places.into_iter().find(is_it) else {
            return Err(format!("the store has {}, which was never written", show(item)));
        };
        if seen[place] {
            return Err(format!("{} was written once and is in the store twice", show(item)));
        }
        seen[place] = true;
        if let Fate::Refused(why) = &written[place].1 {
            return Err(format!(
                "{} is in the store, but the sink said that nothing of it was applied ({why})",
                show(item)
            ));
        }
        if let Some(last) = last.filter(|last| *last > place) {
            let (before, after) = (show(&written[last].0), show(item));
            return Err(format!("out of order: {after} was written before {before}"));
        }
        last = Some(place);
    }
    let lost = written.iter().zip(&seen).find(|((_, fate), seen)| *fate == Fate::In && !**seen);
    match lost {
        None => Ok(()),
        Some(((item, _), _)) => Err(format!(
            "{} is not in the store, but the sink said that it was written ({} of {} items found)",
            show(item),
            found.len(),
            written.iter().filter(|(_, fate)| *fate == Fate::In).count()
        )),
    }
}
