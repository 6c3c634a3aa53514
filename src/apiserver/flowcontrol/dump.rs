//! The pages of `/debug/api_priority_and_fairness/`: tables of levels, queues and waiting requests, as upstream prints
//! them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dispatch::{Dispatcher, LevelState};
use super::level::Level;

const LEVEL_COLUMNS: &[&str] = &[
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUE_COLUMNS: &[&str] = &[
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUEST_COLUMNS: &[&str] = &[
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAIL_COLUMNS: &[&str] =
    &["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

pub fn page(name: &str, details: bool, levels: &[Arc<Level>], dispatcher: &Dispatcher) -> Option<String> {
    let mut levels: Vec<&Arc<Level>> = levels.iter().collect();
    levels.sort_by(|a, b| a.name.cmp(&b.name));
    dispatcher.with_levels(|states| {
        let state = |level: &Level| states.iter().find(|state| state.id == level.id);
        Some(match name {
            "dump_priority_levels" => table(LEVEL_COLUMNS, levels.iter().map(|level| level_row(level, state(level)))),
            "dump_queues" => table(QUEUE_COLUMNS, levels.iter().filter_map(|level| state(level)).flat_map(queue_rows)),
            "dump_requests" => {
                let columns =
                    if details { [REQUEST_COLUMNS, DETAIL_COLUMNS].concat() } else { REQUEST_COLUMNS.to_vec() };
                let rows = levels.iter().filter_map(|level| state(level));
                table(&columns, rows.flat_map(|state| request_rows(state, details)))
            }
            _ => return None,
        })
    })
}

fn level_row(level: &Level, state: Option<&LevelState>) -> Vec<String> {
    let Some(state) = state else {
        let (executing, dispatched) =
            (level.executing.load(Ordering::Relaxed), level.dispatched.load(Ordering::Relaxed));
        let none = || "<none>".to_owned();
        let counts = [executing, dispatched].map(|count| count.to_string());
        return [level.name.clone(), none(), none(), none(), none()]
            .into_iter()
            .chain(counts)
            .chain(std::iter::repeat_with(none).take(3))
            .collect();
    };
    let active = state.queues.iter().filter(|queue| !queue.waiting.is_empty() || queue.executing > 0).count();
    let idle = state.executing == 0 && state.waiting == 0;
    vec![
        state.name.clone(),
        active.to_string(),
        idle.to_string(),
        state.removed.to_string(),
        state.waiting.to_string(),
        state.executing.to_string(),
        state.dispatched.to_string(),
        state.rejected.to_string(),
        state.timed_out.to_string(),
        state.cancelled.to_string(),
    ]
}

fn queue_rows(state: &LevelState) -> Vec<Vec<String>> {
    let rows = state.queues.iter().enumerate().map(|(index, queue)| {
        let seats: i64 = queue.waiting.iter().map(|request| request.seats).sum();
        vec![
            state.name.clone(),
            index.to_string(),
            queue.waiting.len().to_string(),
            queue.executing.to_string(),
            queue.seats.to_string(),
            format!("{:.8}ss", queue.next),
            seats.to_string(),
            seats.to_string(),
            format!("{:.8}ss", work(seats)),
        ]
    });
    rows.collect()
}

#[allow(clippy::cast_precision_loss)]
fn work(seats: i64) -> f64 {
    seats as f64 * 0.003
}

fn request_rows(state: &LevelState, details: bool) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (queue, waiting) in state.queues.iter().enumerate() {
        for (index, request) in waiting.waiting.iter().enumerate() {
            let about = &request.details;
            let mut row = vec![
                state.name.clone(),
                about.schema.clone(),
                queue.to_string(),
                index.to_string(),
                about.flow.clone(),
                request.arrived.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
                request.seats.to_string(),
                "0".to_owned(),
                "0s".to_owned(),
                "0001-01-01T00:00:00.000000000Z".to_owned(),
            ];
            if details {
                row.extend(
                    [
                        &about.user,
                        &about.verb,
                        &about.path,
                        &about.namespace,
                        &about.name,
                        &about.api_version,
                        &about.resource,
                        &about.subresource,
                    ]
                    .map(Clone::clone),
                );
            }
            rows.push(row);
        }
    }
    rows
}

/// Columns of at least eight, one space apart; the last one as it is.
fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = columns.iter().map(|column| (*column).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let cell = |line: &[String], at: usize| format!("{}{}", line[at], if at + 1 < line.len() { "," } else { "" });
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().map(|line| cell(line, at).len() + 1).max().unwrap_or(0).max(8))
        .collect();
    let mut out = String::new();
    for line in &lines {
        for (at, width) in widths.iter().enumerate().take(line.len()) {
            let text = cell(line, at);
            out.push_str(&text);
            if at + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(text.len())));
            }
        }
        out.push('\n');
    }
    out
}
