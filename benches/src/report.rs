//! One line a row on stdout, and the same as a JSON line for `scripts/bench-report`.
use crate::cases::{Load, Row};
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
#[derive(Clone, Copy, Debug, Serialize)]
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
pub struct Finding {
    row: String,
    fornax: Side,
    /// The better of the peer's layouts; none for an operation that libtorch lacks.
    libtorch: Option<Side>,
    /// libtorch's time over Fornax's: above 1, Fornax is faster.
    ratio: Option<f64>,
    /// What the row cannot do without, in `unit`s; none for a row of many operations.
    load: Option<f64>,
    unit: Option<&'static str>,
    #[serde(flatten)]
    run: Run,
    /// Whether the process was started with the allocator settings of the tuned peer.
    tuned: bool,
}

impl Finding {
    /// The result of `row`: Fornax's side, and the peer's in each layout.
    pub fn new(row: &Row, fornax: Side, peers: Vec<Side>, run: Run) -> Self {
        let libtorch = peers.into_iter().min_by(|a, b| a.ms.total_cmp(&b.ms));
        let (load, unit) = match row.load() {
            Some(Load::Flops(flops)) => (Some(flops), Some("FLOP")),
            Some(Load::Bytes(bytes)) => (Some(bytes), Some("B")),
            None => (None, None),
        };
        Finding {
            row: row.to_string(),
            ratio: libtorch.as_ref().map(|libtorch| libtorch.ms / fornax.ms),
            fornax,
            libtorch,
            load,
            unit,
            run,
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
        println!("{:<56} {:>12} {:>12} {:>11}", "row", "fornax", "libtorch", "ratio");
        Ok(Report { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Prints and records a row.
    pub fn add(&mut self, found: &Finding) -> io::Result<()> {
        print!("{:<56} {:>9.3} ms", found.row, found.fornax.ms);
        match (&found.libtorch, found.ratio) {
            (Some(peer), Some(ratio)) => println!(" {:>9.3} ms {} {ratio:>6.2}x", peer.ms, peer.name),
            _ => println!(),
        }
        serde_json::to_writer(&mut self.file, found)?;
        self.file.write_all(b"\n")
    }
}
