//! Unified differences of texts, as upstream shows them in messages: difflib's matching, three lines of context, no
//! file names.
//!
//! Invariants:
//! - DF-1: the same hunks as Python's difflib (and its Go port) make, the junk heuristic for long texts included.

use std::collections::HashMap;
use std::fmt::Write as _;

const CONTEXT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Equal,
    Change,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    tag: Tag,
    a: (usize, usize),
    b: (usize, usize),
}

/// The difference from `a` to `b`; "" when there is none.
pub(crate) fn unified(a: &str, b: &str) -> String {
    let a: Vec<&str> = a.split('\n').collect();
    let b: Vec<&str> = b.split('\n').collect();
    let mut out = String::new();
    for group in groups(&blocks(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let _ = writeln!(out, "@@ -{} +{} @@", range(first.a.0, last.a.1), range(first.b.0, last.b.1));
        for block in group {
            match block.tag {
                Tag::Equal => lines(&mut out, ' ', &a[block.a.0..block.a.1]),
                Tag::Change => {
                    lines(&mut out, '-', &a[block.a.0..block.a.1]);
                    lines(&mut out, '+', &b[block.b.0..block.b.1]);
                }
            }
        }
    }
    out
}

fn lines(out: &mut String, mark: char, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(out, "{mark}{line}");
    }
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

fn blocks(a: &[&str], b: &[&str]) -> Vec<Block> {
    let mut positions: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, line) in b.iter().enumerate() {
        positions.entry(line).or_default().push(i);
    }
    if b.len() >= 200 {
        // Lines that are everywhere say nothing about where the texts belong together.
        let popular = b.len() / 100 + 1;
        positions.retain(|_, at| at.len() <= popular);
    }
    let mut matches = Vec::new();
    let mut queue = vec![(0, a.len(), 0, b.len())];
    while let Some((a_low, a_high, b_low, b_high)) = queue.pop() {
        let (i, j, size) = longest(a, b, &positions, (a_low, a_high), (b_low, b_high));
        if size > 0 {
            matches.push((i, j, size));
            if a_low < i && b_low < j {
                queue.push((a_low, i, b_low, j));
            }
            if i + size < a_high && j + size < b_high {
                queue.push((i + size, a_high, j + size, b_high));
            }
        }
    }
    matches.sort_unstable();
    matches.push((a.len(), b.len(), 0));
    let mut out: Vec<Block> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (ai, bj, size) in matches {
        if i < ai || j < bj {
            out.push(Block { tag: Tag::Change, a: (i, ai), b: (j, bj) });
        }
        if size > 0 {
            match out.last_mut() {
                Some(last) if last.tag == Tag::Equal => {
                    last.a.1 += size;
                    last.b.1 += size;
                }
                _ => out.push(Block { tag: Tag::Equal, a: (ai, ai + size), b: (bj, bj + size) }),
            }
        }
        (i, j) = (ai + size, bj + size);
    }
    out
}

fn longest(
    a: &[&str],
    b: &[&str],
    positions: &HashMap<&str, Vec<usize>>,
    (a_low, a_high): (usize, usize),
    (b_low, b_high): (usize, usize),
) -> (usize, usize, usize) {
    let (mut best_i, mut best_j, mut best) = (a_low, b_low, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, line) in a.iter().enumerate().take(a_high).skip(a_low) {
        let mut next = HashMap::new();
        for &j in positions.get(line).map_or(&[][..], Vec::as_slice) {
            if j < b_low {
                continue;
            }
            if j >= b_high {
                break;
            }
            let length = j.checked_sub(1).and_then(|p| lengths.get(&p)).copied().unwrap_or(0) + 1;
            next.insert(j, length);
            if length > best {
                (best_i, best_j, best) = (i + 1 - length, j + 1 - length, length);
            }
        }
        lengths = next;
    }
    // Popular lines start no match but may lengthen one.
    while best_i > a_low && best_j > b_low && a[best_i - 1] == b[best_j - 1] {
        (best_i, best_j, best) = (best_i - 1, best_j - 1, best + 1);
    }
    while best_i + best < a_high && best_j + best < b_high && a[best_i + best] == b[best_j + best] {
        best += 1;
    }
    (best_i, best_j, best)
}

fn groups(blocks: &[Block]) -> Vec<Vec<Block>> {
    let mut blocks = blocks.to_vec();
    if blocks.iter().all(|b| b.tag == Tag::Equal) {
        return Vec::new();
    }
    if let Some(first) = blocks.first_mut().filter(|b| b.tag == Tag::Equal) {
        first.a.0 = first.a.0.max(first.a.1.saturating_sub(CONTEXT));
        first.b.0 = first.b.0.max(first.b.1.saturating_sub(CONTEXT));
    }
    if let Some(last) = blocks.last_mut().filter(|b| b.tag == Tag::Equal) {
        last.a.1 = last.a.1.min(last.a.0 + CONTEXT);
        last.b.1 = last.b.1.min(last.b.0 + CONTEXT);
    }
    let mut out = Vec::new();
    let mut group: Vec<Block> = Vec::new();
    for mut block in blocks {
        if block.tag == Tag::Equal && block.a.1 - block.a.0 > 2 * CONTEXT {
            let (a, b) = (block.a, block.b);
            group.push(Block { tag: Tag::Equal, a: (a.0, a.0 + CONTEXT), b: (b.0, b.0 + CONTEXT) });
            out.push(std::mem::take(&mut group));
            block.a.0 = a.1 - CONTEXT;
            block.b.0 = b.1 - CONTEXT;
        }
        group.push(block);
    }
    if group.iter().any(|block| block.tag == Tag::Change) {
        out.push(group);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::unified;

    #[test]
    fn hunks() {
        let a = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16";
        let b = a.replace("\n5\n", "\nfive\nV\n").replace("\n15\n", "\n");
        let expected =
            "@@ -2,7 +2,8 @@\n 2\n 3\n 4\n-5\n+five\n+V\n 6\n 7\n 8\n@@ -12,5 +13,4 @@\n 12\n 13\n 14\n-15\n 16\n";
        assert_eq!(unified(a, &b), expected);
        assert_eq!(unified(a, a), "");
    }
}
