//! `$(VAR)` in commands, arguments, values and sub-paths.

/// Replaces `$(NAME)` by what `lookup` gives; unknown names stay, `$$` is one `$`.
pub fn expand(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// Like [`expand`], but an unknown name is an error that names it.
///
/// # Errors
/// The unknown name.
pub fn expand_strict(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let out = expand(input, &|name| {
        let value = lookup(name);
        if value.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        value
    });
    missing.into_inner().map_or(Ok(out), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_like_upstream() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        for (input, expected) in [
            ("$(A)", "1"),
            ("$(B)", "$(A)"),
            ("x$(A)$(A)y", "x11y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(X)", "$(X)"),
            ("$(E)", ""),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(input, &lookup), expected, "{input}");
        }
        assert_eq!(expand_strict("$(X)/$(Y)", &lookup), Err("X".into()));
    }
}
