//! One line a row on stdout, and the same as a JSON line for `scripts/bench-report`.
use crate::cases::{Case, Load};
use crate::measure::Time;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// What a side took for one run of a row.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Whose implementation.
    pub name: &'static str,
    /// Milliseconds on the clock, median over the rounds.
    pub ms: f64,
    /// Milliseconds on the processors, all threads together, median over the rounds.
    pub cpu_ms: f64,
}

impl Side {
    /// A side and its time.
    pub fn new(name: &'static str, time: Time) -> Self {
        Side { name, ms: time.wall * 1e3, cpu_ms: time.cpu * 1e3 }
    }
}

/// How a row was measured.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Threads of each side.
    pub threads: usize,
    /// How often the sides took turns.
    pub rounds: usize,
    /// Processors that other processes kept busy meanwhile.
    pub others: f64,
}

/// The result of one row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    row: String,
    /// None while Fornax lacks the operation.
    fornax: Option<Side>,
    /// The better of the peer's layouts.
    libtorch: Side,
    /// libtorch's time over Fornax's: above 1, Fornax is faster.
    ratio: Option<f64>,
    /// Fornax's rate in GFLOP/s or GB/s (see `unit`); none for a row of many operations.
    rate: Option<f64>,
    unit: Option<&'static str>,
    threads: usize,
    rounds: usize,
    /// Processors that other processes kept busy meanwhile.
    others: f64,
    /// Whether the process was started with the allocator settings of the tuned peer.
    tuned: bool,
}

impl Row {
    /// The result of `case`: Fornax's side, and the peer's in each layout.
    ///
    /// # Panics
    /// When there is no peer.
    pub fn new(case: &Case, fornax: Option<Side>, peers: Vec<Side>, run: Run) -> Self {
        let libtorch = peers.into_iter().min_by(|a, b| a.ms.total_cmp(&b.ms)).expect("there is a peer");
        let (rate, unit) = match case.load() {
            Load::Flops(flops) => (Some(flops), Some("GFLOP/s")),
            Load::Bytes(bytes) => (Some(bytes), Some("GB/s")),
            Load::Mixed => (None, None),
        };
        Row {
            row: case.to_string(),
            ratio: fornax.as_ref().map(|fornax| libtorch.ms / fornax.ms),
            rate: fornax.as_ref().and_then(|fornax| Some(rate? / fornax.ms / 1e6)),
            unit,
            fornax,
            libtorch,
            threads: run.threads,
            rounds: run.rounds,
            others: run.others,
            tuned: std::env::var("GLIBC_TUNABLES").is_ok_and(|v| v.contains("mmap_threshold")),
        }
    }
}

/// Where rows go: stdout, and a file of JSON lines.
pub struct Report {
    file: File,
}

impl Report {
    /// Heads the table and opens the file; rows are added to those of earlier runs, the last one of a name counts.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        println!("{:<52} {:>10} {:>10}         {:>7}", "row", "fornax", "libtorch", "ratio");
        Ok(Report { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Prints and records a row.
    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        let layout = row.libtorch.name;
        println!(
            "{:<52} {:>7.3} ms {:>7.3} ms {layout} {:>7.2}x",
            row.row,
            row.fornax.as_ref().map_or(f64::NAN, |f| f.ms),
            row.libtorch.ms,
            row.ratio.unwrap_or(f64::NAN)
        );
        serde_json::to_writer(&mut self.file, row)?;
        self.file.write_all(b"\n")
    }
}
