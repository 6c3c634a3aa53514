//! Evaluates one rule many times, to be timed from outside: `time speed <expression> <count>`.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "it is a program to run by hand")]

use cel::{DeclType, Env, PER_CALL_LIMIT, Program, Value};
use serde_json::json;

fn main() {
    // A small stack, as hostile expressions would find it.
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run).expect("a thread");
    thread.join().expect("it ends");
}

fn run() {
    let mut args = std::env::args().skip(1);
    let text = args.next().unwrap_or_else(|| "self.replicas <= self.max".to_owned());
    let text = match text.strip_prefix("deep:").and_then(|depth| depth.parse().ok()) {
        Some(depth) => "-(".repeat(depth) + "self.max" + &")".repeat(depth),
        None => text,
    };
    let count: u32 = args.next().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
        "items": {"type": "array", "items": {"type": "string"}},
    }});
    let decl = DeclType::from_openapi(&schema, false, "selfType").expect("an object");
    let env = Env::kubernetes().with_variable("self", decl.ty.clone());
    let program = Program::compile(&env, &text).expect("an expression");
    let object = json!({"replicas": 1, "max": 2, "name": "some-name", "items": ["a", "b", "c", "d", "e"]});
    let mut truths = 0_u32;
    for _ in 0..count {
        let value = Value::from_json(&object, Some(&decl)).expect("an object");
        let outcome = program.eval(&[("self", value)], PER_CALL_LIMIT);
        truths += u32::from(matches!(outcome.result, Ok(Value::Bool(true))));
    }
    println!("{truths} of {count} true");
}
