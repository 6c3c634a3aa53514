//! Rust source without what is not code: comments, texts and test modules become blanks, lines stay where they are.

/// Blanks comments and the insides of string and character literals.
pub fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = vec![b' '; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skip = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(bytes, at) {
            len
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            out[at] = rest[0];
            1
        };
        for i in at..(at + skip).min(bytes.len()) {
            if bytes[i] == b'\n' {
                out[i] = b'\n';
            }
        }
        at += skip;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Blanks every item under `#[cfg(test)]` in scrubbed code.
pub fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = item_end(&bytes, start + "#[cfg(test)]".len());
        for byte in bytes[start..end].iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        from = end;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            b';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    bytes.len()
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut i = 0;
    while i < rest.len() {
        if rest[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if rest[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    rest.len()
}

fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let inside_word =
        at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b';
    if bytes[at] != b'r' || inside_word {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = at + 2 + hashes;
    let end = bytes[body..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(bytes.len() - at, |end| body + end + close.len() - at))
}

fn quoted(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// A character literal, or one byte of a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', tail @ ..] => tail.iter().skip(1).position(|b| *b == b'\'').map_or(1, |end| end + 4),
        _ => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(6)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()
                .and_then(|text| text.chars().next())
                .map_or(1, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 1 }
        }
    }
}

#[test]
fn only_code_is_left() {
    let source = "fn a<'x>() { /* unsafe */ b(\"unsafe \\\" {\"); 'c'; '\\''; r#\"unsafe\"#; } // unsafe\nunsafe {}";
    let code = code(source);
    assert_eq!(code.matches("unsafe").count(), 1, "{code}");
    assert_eq!(code.lines().count(), 2);
    assert!(code.lines().nth(1).is_some_and(|line| line.starts_with("unsafe")));
}

#[test]
fn test_items_are_no_code() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { c(); }\n}\n#[cfg(test)] mod more;\nfn d() {}";
    let left = without_tests(code);
    assert!(left.contains("fn a()") && left.contains("fn d()"));
    assert!(!left.contains("fn b()") && !left.contains("more"));
    assert_eq!(left.lines().count(), code.lines().count());
}
