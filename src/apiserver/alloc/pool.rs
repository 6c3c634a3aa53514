//! A range of numbers of which some are taken, with a lower band that is kept for those who choose.

use std::collections::HashSet;

use rand::Rng as _;

/// How often a random number is tried before the range is searched.
const TRIES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Taken,
    OutOfRange,
}

pub struct Pool {
    first: u128,
    last: u128,
    /// The first number of the upper band.
    upper: u128,
    taken: HashSet<u128>,
}

impl Pool {
    /// `band`: the size of the lower band.
    pub fn new(first: u128, last: u128, band: u128) -> Self {
        Self { first, last, upper: (first + band).min(last + 1), taken: HashSet::new() }
    }

    pub fn take(&mut self, number: u128) -> Result<(), Refused> {
        if !(self.first..=self.last).contains(&number) {
            return Err(Refused::OutOfRange);
        }
        if self.taken.insert(number) { Ok(()) } else { Err(Refused::Taken) }
    }

    /// A free number, from the upper band while it has one.
    pub fn take_any(&mut self) -> Option<u128> {
        let found = self.search(self.upper, self.last).or_else(|| self.search(self.first, self.upper - 1))?;
        self.taken.insert(found);
        Some(found)
    }

    pub fn free(&mut self, number: u128) {
        self.taken.remove(&number);
    }

    fn search(&self, first: u128, last: u128) -> Option<u128> {
        if first > last {
            return None;
        }
        let mut random = rand::rng();
        for _ in 0..TRIES {
            let candidate = random.random_range(first..=last);
            if !self.taken.contains(&candidate) {
                return Some(candidate);
            }
        }
        let start = random.random_range(first..=last);
        (start..=last).chain(first..start).find(|candidate| !self.taken.contains(candidate))
    }
}

/// The lower band of a range of `size` addresses (KEP-3070): a sixteenth, 16 to 256.
pub fn address_band(size: u128) -> u128 {
    if size < 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// The lower band of a range of `size` ports (KEP-3668): a thirty-second, 16 to 128.
pub fn port_band(size: u128) -> u128 {
    if size < 16 { 0 } else { (size / 32).clamp(16, 128) }
}
