//! Chance that can be had again.

/// `SplitMix64`: the same numbers for the same seed, on every machine.
pub(super) struct Rng(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// The numbers of one call: what another call draws does not shift them.
    pub(super) fn of_call(seed: u64, call: u64) -> Self {
        let mut rng = Self(seed);
        Self(rng.next() ^ call.wrapping_mul(STEP))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True once in so many times; never for 0.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        let drawn = self.next(); // whatever the answer, so that settings do not shift each other
        drawn.checked_rem(times) == Some(0)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 0
    }
}
