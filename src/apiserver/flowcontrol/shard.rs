//! Shuffle sharding: a flow is dealt a hand of queues and waits in the shortest of them, so that a heavy flow and a light
//! one seldom share all of theirs.
//!
//! Invariants:
//! - SS-1: a flow's hand is always the same, and has no queue twice.

use sha2::{Digest as _, Sha256};

/// 64 bits that stand for a flow.
pub fn hash(schema: &str, flow: &str) -> u64 {
    let mut digest = Sha256::new();
    digest.update((schema.len() as u64).to_le_bytes());
    digest.update(schema.as_bytes());
    digest.update(flow.as_bytes());
    let digest = digest.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// The hand of a flow: `size` of the queues `0..deck`.
pub fn deal(mut hash: u64, deck: usize, size: usize) -> Vec<usize> {
    let size = size.min(deck);
    let mut hand: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size {
        let left = (deck - dealt) as u64;
        let mut card = usize::try_from(hash % left).expect("less than a number of queues");
        hash /= left;
        // The card'th of those that are left: count past the dealt ones, in order.
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        for taken in sorted {
            card += usize::from(card >= taken);
        }
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_have_no_queue_twice() {
        for flow in 0..200 {
            let flow = flow.to_string();
            let hand = deal(hash("schema", &flow), 16, 6);
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!((sorted.len(), hand.iter().all(|queue| *queue < 16)), (6, true));
            assert_eq!(hand, deal(hash("schema", &flow), 16, 6));
        }
        assert_eq!(deal(7, 1, 4), [0]);
    }
}
