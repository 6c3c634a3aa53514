//! What each source file looks like, and what it may do.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{report, root, scrub};

const HARD_LINES: usize = 700;
const SOFT_LINES: usize = 500;

/// Folders of facts: tables longer than any code may be, and files that a script writes.
const DATA: &[&str] = &["src/apiserver/data/", "src/apimachinery/data/", "src/api/data/"];

/// Who owns which nftables table (rule 5).
const TABLES: &[(&str, &str)] = &[("kedge-proxy", "kube-proxy"), ("kedge-policy", "network"), ("kedge-cni", "network")];

struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn crate_name(&self) -> &str {
        self.path.split('/').nth(1).unwrap_or_default()
    }

    fn in_src(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// Build scripts, tests, benches and examples: not part of the program.
    fn beside_the_program(&self) -> bool {
        let mut parts: Vec<&str> = self.path.split('/').collect();
        let file = parts.pop().unwrap_or_default();
        self.path.starts_with("tests/")
            || ["build.rs", "tests.rs"].contains(&file)
            || file.ends_with("_tests.rs")
            || parts.iter().any(|part| ["tests", "benches", "examples"].contains(part))
            || self.text.contains("#![cfg(test)]")
    }

    fn is_data(&self) -> bool {
        DATA.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "cmd", "tests"] {
        walk(&root(), folder, &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "found only {} source files below {}", found.len(), root().display());
    found
}

fn walk(root: &Path, folder: &str, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(root.join(folder)).expect("the folder can be read").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if entry.path().is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(root, &path, found);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(entry.path()).expect("source is UTF-8");
            found.push(Source { path, text });
        }
    }
}

/// Files that `cfg(test)` names from their parent (`#[cfg(test)] mod end_to_end;`) are tests too.
fn test_modules(sources: &[Source]) -> Vec<String> {
    let mut names = Vec::new();
    for source in sources {
        let code = scrub::code(&source.text);
        let folder = source.path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let file = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let base = if ["mod", "lib", "main"].contains(&file) { folder.to_owned() } else { format!("{folder}/{file}") };
        for (at, _) in code.match_indices("#[cfg(test)]") {
            let rest = code[at + "#[cfg(test)]".len()..].trim_start();
            let rest = rest.strip_prefix("pub(crate) ").or_else(|| rest.strip_prefix("pub ")).unwrap_or(rest);
            if let Some((name, _)) = rest.strip_prefix("mod ").and_then(|rest| rest.split_once(';')) {
                names.push(format!("{base}/{name}.rs"));
                names.push(format!("{base}/{name}/"));
            }
        }
    }
    names
}

/// Every line of program code (no comments, no texts, no tests) with `wanted` as a whole path or word.
fn lines_with<'a>(
    sources: &'a [Source],
    tests: &'a [String],
    wanted: &'a [&'a str],
) -> Vec<(&'a Source, usize, &'a str)> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.beside_the_program()) {
        if tests.iter().any(|test| source.path == *test || test.ends_with('/') && source.path.starts_with(test)) {
            continue;
        }
        let code = scrub::without_tests(&scrub::code(&source.text));
        for (number, line) in code.lines().enumerate() {
            for word in wanted.iter().filter(|word| has_word(line, word)) {
                found.push((source, number + 1, *word));
            }
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part) && !line[at + word.len()..].chars().next().is_some_and(part)
    })
}

#[test]
fn files_open_with_their_purpose() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_data()) {
        if !source.text.starts_with("//! ") {
            problems.push(format!("{}: open it with `//! what it is for`, then its invariants", source.path));
        }
    }
    report(problems);
}

#[test]
fn files_are_short() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_data()) {
        let lines = source.text.lines().count();
        if lines > HARD_LINES {
            problems.push(format!("{}: {lines} lines: split it by responsibility (at most {HARD_LINES})", source.path));
        } else if lines > SOFT_LINES {
            println!("warning: {}: {lines} lines, over {SOFT_LINES}", source.path);
        }
    }
    report(problems);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not name them.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["unimple", "mented!"], ["to", "do!("], ["for ", "now"]]
        .map(|m| m.concat());
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_data()) {
        for (number, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| has_word(line, mark)) {
                problems.push(format!(
                    "{}:{}: `{mark}`: do it, or open an issue and say what is",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    report(problems);
}

#[test]
fn only_sys_holds_unsafe_and_spawns() {
    let sources = sources();
    let tests = test_modules(&sources);
    let mut problems = Vec::new();
    for (source, line, word) in lines_with(&sources, &tests, &["unsafe"]) {
        // The pause program is built before any crate exists.
        if source.crate_name() != "sys" && !source.path.starts_with("cmd/pause/") {
            problems.push(format!("{}:{line}: `{word}`: put the safe wrapper into `sys` (rule 3)", source.path));
        }
    }
    let spawning = ["Command::new", "process::Command", "tokio::process", "posix_spawn", "libc::fork", "execve"];
    for (source, line, word) in lines_with(&sources, &tests, &spawning) {
        if source.crate_name() != "sys" {
            problems.push(format!("{}:{line}: `{word}`: use sys::process (rule 3)", source.path));
        }
    }
    report(problems);
}

#[test]
fn only_cmd_reads_argv_and_environment_and_exits() {
    let sources = sources();
    let tests = test_modules(&sources);
    let words = [
        "env::var",
        "env::vars",
        "env::var_os",
        "env::vars_os",
        "env::args",
        "env::args_os",
        "env::set_var",
        "process::exit",
        "process::abort",
        "anyhow",
    ];
    let mut problems = Vec::new();
    for (source, line, word) in lines_with(&sources, &tests, &words) {
        if source.in_src() {
            problems.push(format!("{}:{line}: `{word}`: only cmd does; take it as an argument (rule 4)", source.path));
        }
    }
    report(problems);
}

#[test]
fn pure_crates_do_no_input_and_output() {
    let sources = sources();
    let tests = test_modules(&sources);
    let words = [
        "std::fs",
        "File::open",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "thread::spawn",
        "thread::sleep",
        "Instant::now",
        "SystemTime::now",
        "Timestamp::now",
        "Zoned::now",
        "tokio",
    ];
    let mut problems = Vec::new();
    for (source, line, word) in lines_with(&sources, &tests, &words) {
        if source.in_src() && ["apimachinery", "api"].contains(&source.crate_name()) {
            problems.push(format!(
                "{}:{line}: `{word}`: this crate is pure; take the result as an argument (rule 1)",
                source.path
            ));
        }
    }
    report(problems);
}

#[test]
fn each_nftables_table_has_one_owner() {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.in_src() && !source.beside_the_program()) {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(name) = line.contains("const TABLE").then(|| line.split('"').nth(1)).flatten() {
                let owner = source.crate_name().to_owned();
                match TABLES.iter().find(|(table, _)| *table == name) {
                    None => problems.push(format!(
                        "{}:{}: table {name:?} is not in TABLES of tests/tidy/sources.rs",
                        source.path,
                        number + 1
                    )),
                    Some((_, want)) if *want != owner => {
                        problems.push(format!("{}:{}: table {name:?} belongs to {want}", source.path, number + 1));
                    }
                    Some(_) => {}
                }
                if let Some(other) = owners.insert(name.to_owned(), source.path.clone()) {
                    problems.push(format!("{}: table {name:?} is declared in {other} too: use that", source.path));
                }
            }
            for (table, owner) in TABLES.iter().filter(|(_, owner)| *owner != source.crate_name()) {
                let named =
                    line.contains(&format!("table inet {table}")) || line.contains(&format!("table ip {table}"));
                if named && !line.trim_start().starts_with("//") {
                    problems.push(format!("{}:{}: touches table {table} of {owner} (rule 5)", source.path, number + 1));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn words_are_whole() {
    assert!(has_word("x = env::var(\"A\")", "env::var"));
    assert!(!has_word("env::var_os(a)", "env::var"));
    assert!(has_word("unsafe { }", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
