//! `cargo bench -p fornax-benches -- PATTERN`: Fornax alone, by criterion. With `--features libtorch`: Fornax and libtorch, interleaved.
//!
//! Both run on `RAYON_NUM_THREADS` threads, one per core by default.

#[cfg(not(feature = "libtorch"))]
fn main() {
    use std::time::Duration;
    let mut criterion = criterion::Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for row in fornax_benches::rows::all() {
        // Prepared at the first measurement, so that rows that the pattern excludes cost nothing.
        let mut prepared = None;
        criterion.bench_function(&row.to_string(), |bencher| {
            let run = prepared.get_or_insert_with(|| fornax_benches::fornax::prepare(&row));
            bencher.iter_custom(|runs| Duration::from_secs_f64((0..runs).map(|_| run().wall).sum()));
        });
    }
    criterion.final_summary();
}

#[cfg(feature = "libtorch")]
fn main() -> std::io::Result<()> {
    comparison::run(&comparison::Options::from_args())
}

#[cfg(feature = "libtorch")]
mod comparison {
    use fornax_benches::measure::{MeasureOptions, measure};
    use fornax_benches::report::{ResultWriter, RowResult, RunConditions, SideResult};
    use fornax_benches::{fornax, libtorch, rows};
    use std::path::Path;

    /// Options of `cargo bench … -- [PATTERN…] [--rounds N] [--turn SECONDS]`.
    pub struct Options {
        /// Substrings of the names of rows to run; all rows if empty.
        patterns: Vec<String>,
        measure: MeasureOptions,
    }

    impl Options {
        /// Parses the command line; exits with a usage error if it is invalid.
        pub fn from_args() -> Self {
            let mut options =
                Options { patterns: vec![], measure: MeasureOptions { rounds: 7, min_seconds: 0.2 } };
            let mut args = std::env::args().skip(1);
            while let Some(arg) = args.next() {
                let mut value =
                    |name: &str| args.next().unwrap_or_else(|| usage_error(&format!("{name} needs a value")));
                match arg.as_str() {
                    // Passed by cargo.
                    "--bench" => {}
                    "--rounds" => options.measure.rounds = number(&value("--rounds")),
                    "--turn" => options.measure.min_seconds = number(&value("--turn")),
                    flag if flag.starts_with('-') => usage_error(&format!("unknown option {flag}")),
                    pattern => options.patterns.push(pattern.to_string()),
                }
            }
            if options.measure.rounds < 5 {
                usage_error("--rounds must be at least 5");
            }
            options
        }

        fn selects(&self, row: &str) -> bool {
            self.patterns.is_empty() || self.patterns.iter().any(|pattern| row.contains(pattern))
        }
    }

    /// Measures the selected rows and writes their results.
    pub fn run(options: &Options) -> std::io::Result<()> {
        let threads = rayon::current_num_threads();
        if std::env::var("OMP_WAIT_POLICY").is_err() {
            eprintln!(
                "warning: OMP_WAIT_POLICY is not set, so libtorch's idle threads spin while Fornax runs."
            );
            eprintln!("Run scripts/bench-libtorch, which sets it and tunes libtorch's allocator.");
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-rows");
        let mut results = ResultWriter::open(&folder.join(format!("threads-{threads}.jsonl")))?;
        for row in rows::all().iter().filter(|row| options.selects(&row.to_string())) {
            let mut sides = vec![fornax::prepare(row)];
            let (layouts, peers): (Vec<_>, Vec<_>) = libtorch::prepare(row, threads).into_iter().unzip();
            sides.extend(peers);
            let measured = measure(&mut sides, options.measure);
            let (ours, theirs) = measured.times.split_first().expect("Fornax is the first side");
            let peers =
                layouts.iter().zip(theirs).map(|(layout, &time)| SideResult::new(layout.name(), time));
            let conditions =
                RunConditions { threads, rounds: options.measure.rounds, other_load: measured.other_load };
            results.add(&RowResult::new(
                row,
                SideResult::new("Fornax", *ours),
                peers.collect(),
                conditions,
            ))?;
        }
        Ok(())
    }

    fn number<T: std::str::FromStr>(text: &str) -> T {
        text.parse().unwrap_or_else(|_| usage_error(&format!("{text} is not a number")))
    }

    fn usage_error(message: &str) -> ! {
        eprintln!("error: {message}\nusage: [PATTERN…] [--rounds N] [--turn SECONDS]");
        std::process::exit(2);
    }
}
