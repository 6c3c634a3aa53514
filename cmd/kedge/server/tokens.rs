//! The file of static tokens: `token,user,uid[,"group1,group2"]` a line.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use apiserver::{StaticToken, User};

/// Reads `path`.
///
/// # Errors
/// Names the file and the line.
pub fn read(path: &Path) -> Result<Vec<StaticToken>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--token-auth-file {}", path.display()))?;
    let mut tokens = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let fields = split(line);
        let [token, user, uid, groups @ ..] = fields.as_slice() else {
            bail!(
                "--token-auth-file {}: line {}: want token,user,uid and, if any, \"group1,group2\"",
                path.display(),
                at + 1
            );
        };
        if token.is_empty() || user.is_empty() {
            bail!("--token-auth-file {}: line {}: token and user must not be empty", path.display(), at + 1);
        }
        let groups = groups.first().map(String::as_str).unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
        let user = User { name: user.clone(), uid: uid.clone(), groups, ..User::default() };
        tokens.push(StaticToken { token: token.clone(), user });
    }
    Ok(tokens)
}

/// Fields separated by commas; a field in double quotes may hold commas.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in line.trim().chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quoted_groups_and_names_bad_lines() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("tokens");
        std::fs::write(&path, "# comment\nt1,alice,u1,\"dev, ops\"\nt2,bob,u2\n").expect("writes");
        let tokens = read(&path).expect("reads");
        assert_eq!(tokens[0].user.groups, ["dev", "ops"]);
        assert_eq!((tokens[1].token.as_str(), tokens[1].user.name.as_str()), ("t2", "bob"));
        std::fs::write(&path, "only\n").expect("writes");
        assert!(read(&path).expect_err("refused").to_string().contains("line 1: want token,user,uid"));
    }
}
