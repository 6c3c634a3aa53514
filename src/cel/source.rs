//! An expression's text, positions in it, and how issues are shown.
//!
//! Invariants:
//! - CEL-E1: issues are shown in order of position, each with its line and a caret; wide characters get wide dots.

use std::fmt::Write as _;

/// Longest line that is shown with an issue, in bytes.
const MAX_SNIPPET: usize = 16_384;
/// How many issues are shown.
const MAX_ISSUES: usize = 100;

pub struct Source<'s> {
    pub text: &'s str,
    /// Offset, in characters, of the start of each line.
    lines: Vec<usize>,
}

/// Line (from 1) and column (from 0).
pub type Location = (i64, i64);

/// Where an issue without a place is reported.
pub const NO_LOCATION: Location = (-1, -1);

#[derive(Debug)]
pub struct Issue {
    pub at: Location,
    pub message: String,
}

impl<'s> Source<'s> {
    pub fn new(text: &'s str) -> Source<'s> {
        let mut lines = vec![0];
        lines.extend(text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1));
        Source { text, lines }
    }

    pub fn location(&self, offset: usize) -> Location {
        let line = self.lines.partition_point(|start| *start <= offset);
        (line as i64, (offset - self.lines[line.max(1) - 1]) as i64)
    }

    /// All issues as cel-go prints them.
    pub fn display(&self, mut issues: Vec<Issue>) -> String {
        issues.sort_by_key(|issue| issue.at);
        let more = issues.len().saturating_sub(MAX_ISSUES);
        let mut out = String::new();
        for issue in issues.iter().take(MAX_ISSUES) {
            if !out.is_empty() {
                out.push('\n');
            }
            self.show(issue, &mut out);
        }
        if more > 0 {
            let _ = write!(out, "\n{more} more errors were truncated");
        }
        out
    }

    fn show(&self, issue: &Issue, out: &mut String) {
        let (line, column) = issue.at;
        let _ = write!(out, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
        let text = usize::try_from(line - 1).ok().and_then(|line| self.text.split('\n').nth(line));
        let Some(text) = text.filter(|text| text.len() <= MAX_SNIPPET) else { return };
        let text = text.replace('\t', " ");
        let _ = write!(out, "\n | {text}\n | ");
        let mut chars = text.chars();
        for _ in 0..column {
            match chars.next() {
                Some(c) if c.len_utf8() > 1 => out.push('．'),
                Some(_) => out.push('.'),
                None => break,
            }
        }
        out.push(if chars.next().is_some_and(|c| c.len_utf8() > 1) { '＾' } else { '^' });
    }
}
