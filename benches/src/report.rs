//! Results: a line per row on stdout, and a JSON line for `scripts/bench-report`.
use crate::measure::Time;
use crate::rows::{Row, RowWork};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Time of one side for a run of a row.
#[derive(Clone, Debug, Serialize)]
pub struct SideResult {
    /// `Fornax`, or libtorch's layout.
    pub name: &'static str,
    /// Wall-clock milliseconds, median over the rounds.
    pub ms: f64,
    /// CPU milliseconds of all threads, median over the rounds.
    pub cpu_ms: f64,
}

impl SideResult {
    /// Result of a side with this time.
    pub fn new(name: &'static str, time: Time) -> Self {
        SideResult { name, ms: time.wall * 1e3, cpu_ms: time.cpu * 1e3 }
    }
}

/// Conditions of a measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RunConditions {
    /// Threads of each side.
    pub threads: usize,
    /// Number of interleaved rounds.
    pub rounds: usize,
    /// Average number of CPUs that other processes used.
    pub other_load: f64,
}

/// Result of a row.
#[derive(Clone, Debug, Serialize)]
pub struct RowResult {
    row: String,
    fornax: SideResult,
    /// libtorch in its faster layout; none if libtorch lacks the operation.
    libtorch: Option<SideResult>,
    /// libtorch's time divided by Fornax's; above 1, Fornax is faster.
    ratio: Option<f64>,
    /// Minimum FLOPs or bytes of a run, in `unit`; none if neither bounds the row.
    work: Option<f64>,
    unit: Option<&'static str>,
    #[serde(flatten)]
    conditions: RunConditions,
    /// True if libtorch's allocator is tuned (see `scripts/bench-libtorch`).
    tuned: bool,
}

impl RowResult {
    /// Result of `row` from the times of Fornax and of libtorch in each layout.
    pub fn new(row: &Row, fornax: SideResult, libtorch: Vec<SideResult>, conditions: RunConditions) -> Self {
        let libtorch = libtorch.into_iter().min_by(|a, b| a.ms.total_cmp(&b.ms));
        let (work, unit) = match row.work() {
            Some(RowWork::Flops(flops)) => (Some(flops), Some("FLOP")),
            Some(RowWork::Bytes(bytes)) => (Some(bytes), Some("B")),
            None => (None, None),
        };
        RowResult {
            row: row.to_string(),
            ratio: libtorch.as_ref().map(|libtorch| libtorch.ms / fornax.ms),
            fornax,
            libtorch,
            work,
            unit,
            conditions,
            tuned: std::env::var("GLIBC_TUNABLES").is_ok_and(|v| v.contains("mmap_threshold")),
        }
    }
}

/// Writes results to stdout and to a file of JSON lines.
pub struct ResultWriter {
    file: File,
}

impl ResultWriter {
    /// Prints the table's header and opens the file for appending. `scripts/bench-report` uses the last result of each row.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        println!("{:<56} {:>12} {:>12} {:>11}", "row", "fornax", "libtorch", "ratio");
        Ok(ResultWriter { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Prints and stores a result.
    pub fn add(&mut self, result: &RowResult) -> io::Result<()> {
        print!("{:<56} {:>9.3} ms", result.row, result.fornax.ms);
        match (&result.libtorch, result.ratio) {
            (Some(libtorch), Some(ratio)) => {
                println!(" {:>9.3} ms {} {ratio:>6.2}x", libtorch.ms, libtorch.name)
            }
            _ => println!(),
        }
        serde_json::to_writer(&mut self.file, result)?;
        self.file.write_all(b"\n")
    }
}
