//! Successes and failures in a row, against their thresholds.

use super::ProbeResult;

/// The state machine of one probe.
#[derive(Debug, Clone)]
pub struct Thresholds {
    result: ProbeResult,
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

impl Thresholds {
    pub fn new(first: ProbeResult, success_threshold: u32, failure_threshold: u32) -> Self {
        Self { result: first, success_threshold, failure_threshold, last: None, run: 0 }
    }

    pub fn result(&self) -> ProbeResult {
        self.result
    }

    /// Books one answer; true when the result changed.
    pub fn book(&mut self, success: bool) -> bool {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold {
            return false;
        }
        let result = if success { ProbeResult::Success } else { ProbeResult::Failure };
        std::mem::replace(&mut self.result, result) != result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_what_is_consecutive() {
        let mut state = Thresholds::new(ProbeResult::Failure, 2, 3);
        let answers = [true, false, true, true, false, false, true, false, false, false];
        let changed: Vec<bool> = answers.iter().map(|answer| state.book(*answer)).collect();
        assert_eq!(changed, [false, false, false, true, false, false, false, false, false, true]);
        assert_eq!(state.result(), ProbeResult::Failure);
    }
}
