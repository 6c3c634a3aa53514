//! Syntax errors of YAML in go-yaml's words.
//!
//! Invariants:
//! - YE-1: the text starts with `yaml: `; a line number follows only beyond the first line, as go-yaml has it.

use granit_parser::{ErrorKind, ScanError};

/// How go-yaml counts lines: its scanner from 1, its parser from 0, and neither names the first.
enum Place {
    Scanner(usize),
    Parser(usize),
    None,
}

/// What go-yaml says where granit-parser reports `error`.
pub(super) fn message(error: &ScanError, text: &str) -> String {
    let line = error.marker().line();
    let end = text.matches('\n').count() + 1;
    let (place, problem): (Place, &str) = match error.kind() {
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            (Place::None, "control characters are not allowed")
        }
        ErrorKind::UnexpectedCharacter { .. }
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabNotAllowed => (Place::Scanner(line), "found character that cannot start any token"),
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            (Place::Scanner(end), "found unexpected end of stream")
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            (Place::Scanner(line + 1), "could not find expected ':'")
        }
        ErrorKind::UnknownQuotedScalarEscape => (Place::Scanner(line), "found unknown escape character"),
        ErrorKind::InvalidQuotedScalarHexEscape => (Place::Scanner(line), "did not find expected hexdecimal number"),
        ErrorKind::UnclosedFlowCollection { open } => (Place::Parser(end), unclosed(text, *open)),
        ErrorKind::UnexpectedEofFlowSequence => (Place::Parser(end), unclosed(text, '[')),
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            (Place::Parser(end), unclosed(text, '{'))
        }
        ErrorKind::ExpectedFlowSequenceSeparator => (Place::Parser(line), SEQUENCE_GOES_ON),
        ErrorKind::ExpectedFlowMappingSeparator => (Place::Parser(line), MAPPING_GOES_ON),
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar
        | ErrorKind::MismatchedFlowCollectionEnd { .. } => (Place::Parser(line), "did not find expected key"),
        ErrorKind::MisplacedFlowCollectionEnd if text.trim_start().starts_with(['}', ']']) => {
            (Place::Parser(line), NO_CONTENT)
        }
        ErrorKind::MisplacedFlowCollectionEnd => (Place::Parser(line), "did not find expected key"),
        ErrorKind::ExpectedBlockSequenceEntry => (Place::Parser(line), "did not find expected '-' indicator"),
        ErrorKind::ExpectedNodeContent => (Place::Parser(line), NO_CONTENT),
        ErrorKind::ExpectedDocumentStart => (Place::Parser(line), "did not find expected <document start>"),
        ErrorKind::UndeclaredTagHandle => (Place::Parser(line), "found undefined tag handle"),
        ErrorKind::UnknownAnchor => {
            return format!("yaml: unknown anchor '{}' referenced", alias(error, text));
        }
        _ => {
            // go-yaml keeps the context to itself: "while scanning a tag, did not find ..."
            let info = error.info();
            let problem = match info.split_once(", ") {
                Some((context, problem)) if context.starts_with("while ") => problem,
                _ => &info,
            };
            return format!("yaml: {}{problem}", shown(Place::Scanner(line)));
        }
    };
    format!("yaml: {}{problem}", shown(place))
}

const SEQUENCE_GOES_ON: &str = "did not find expected ',' or ']'";
const MAPPING_GOES_ON: &str = "did not find expected ',' or '}'";
const NO_CONTENT: &str = "did not find expected node content";

/// A flow collection that the document ends in.
fn unclosed(text: &str, open: char) -> &'static str {
    if text.trim_end().ends_with([',', '[', '{']) {
        NO_CONTENT
    } else if open == '[' {
        SEQUENCE_GOES_ON
    } else {
        MAPPING_GOES_ON
    }
}

fn shown(place: Place) -> String {
    match place {
        Place::Scanner(line) if line > 1 => format!("line {line}: "),
        Place::Parser(line) if line > 1 => format!("line {}: ", line - 1),
        _ => String::new(),
    }
}

/// The name of the alias at an error.
fn alias<'a>(error: &ScanError, text: &'a str) -> &'a str {
    let rest = error.marker().byte_offset().and_then(|at| text.get(at..)).unwrap_or_default();
    let name = rest.trim_start_matches('*');
    let end = name.find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}')).unwrap_or(name.len());
    &name[..end]
}
