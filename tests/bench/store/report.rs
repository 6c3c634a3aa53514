//! The table.

use super::load::Figures;

#[derive(Default)]
pub(super) struct Report {
    rows: Vec<[String; 5]>,
    notes: Vec<String>,
}

impl Report {
    pub(super) fn note(&mut self, text: String) {
        eprintln!("{text}");
        self.notes.push(text);
    }

    /// etcd first. `ratio`: above 1 kedge is better.
    pub(super) fn row(&mut self, what: &str, goal: &str, [etcd, kedge]: [String; 2], ratio: f64) {
        eprintln!("{what}: etcd {etcd}, kedge {kedge}");
        self.rows.push([what.into(), goal.into(), etcd, kedge, format!("{ratio:.1}x")]);
    }

    pub(super) fn rates(&mut self, what: &str, goal: &str, both: [&Figures; 2]) {
        let ratio = both[1].rate() / both[0].rate();
        self.row(what, goal, both.map(Figures::text), ratio);
    }

    pub(super) fn print(&self) {
        println!("| what | goal | etcd | kedge | kedge is better by |\n|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("{cpus} CPUs, load {}", load.trim());
    }
}
