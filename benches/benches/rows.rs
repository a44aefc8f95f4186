//! `cargo bench -p fornax-benches -- PATTERN`: Fornax alone, by criterion. With `--features libtorch`: both, side by side.
//!
//! Both run on `RAYON_NUM_THREADS` threads, by default one a core.

#[cfg(not(feature = "libtorch"))]
fn main() {
    use std::time::Duration;
    let mut criterion = criterion::Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for case in fornax_benches::cases::all() {
        let mut work = None;
        criterion.bench_function(&case.to_string(), |bencher| {
            let work = work.get_or_insert_with(|| fornax_benches::fornax::prepare(&case));
            bencher.iter_custom(|runs| {
                let seconds = (0..runs).map(|_| work().wall).sum();
                Duration::from_secs_f64(seconds)
            });
        });
    }
    criterion.final_summary();
}

#[cfg(feature = "libtorch")]
fn main() -> std::io::Result<()> {
    side_by_side::run(&side_by_side::Options::from_args())
}

#[cfg(feature = "libtorch")]
mod side_by_side {
    use fornax_benches::measure::{Effort, Work, measure};
    use fornax_benches::report::{Report, Row, Run, Side};
    use fornax_benches::{cases, fornax, libtorch};
    use std::path::Path;

    /// What `cargo bench … -- [PATTERN…] [--rounds N] [--turn SECONDS]` asks for.
    pub struct Options {
        /// A row is run when its name contains one of these, or there are none.
        patterns: Vec<String>,
        effort: Effort,
    }

    impl Options {
        /// From the command line; ends the process when it makes no sense.
        pub fn from_args() -> Self {
            let mut options = Options { patterns: vec![], effort: Effort { rounds: 7, turn: 0.2 } };
            let mut args = std::env::args().skip(1);
            while let Some(arg) = args.next() {
                let mut value =
                    |name: &str| args.next().unwrap_or_else(|| refuse(&format!("{name} needs a value")));
                match arg.as_str() {
                    // Cargo's own.
                    "--bench" => {}
                    "--rounds" => options.effort.rounds = number(&value("--rounds")),
                    "--turn" => options.effort.turn = number(&value("--turn")),
                    flag if flag.starts_with('-') => refuse(&format!("unknown option {flag}")),
                    pattern => options.patterns.push(pattern.to_string()),
                }
            }
            if options.effort.rounds < 5 {
                refuse("--rounds must be at least 5");
            }
            options
        }

        fn wants(&self, row: &str) -> bool {
            self.patterns.is_empty() || self.patterns.iter().any(|pattern| row.contains(pattern))
        }
    }

    /// Measures and reports the rows that are asked for.
    pub fn run(options: &Options) -> std::io::Result<()> {
        let threads = rayon::current_num_threads();
        if std::env::var("OMP_WAIT_POLICY").is_err() {
            eprintln!("OMP_WAIT_POLICY is not set: libtorch's idle threads will spin while Fornax runs.");
            eprintln!("scripts/bench-libtorch sets it, and what else makes libtorch fast.");
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-rows");
        let mut report = Report::open(&folder.join(format!("threads-{threads}.jsonl")))?;
        for case in cases::all().iter().filter(|case| options.wants(&case.to_string())) {
            let layouts = libtorch::layouts(case);
            let mut sides: Vec<Work> = fornax::prepare(case).into_iter().collect();
            let peers = layouts.iter().map(|&layout| libtorch::prepare(case, layout, threads));
            sides.extend(peers);
            let measured = measure(&mut sides, options.effort);
            let mut times = measured.times.into_iter();
            let fornax = (times.len() > layouts.len()).then(|| times.next().expect("Fornax is first"));
            let peers = layouts.iter().zip(times).map(|(layout, time)| Side::new(layout.name(), time));
            let run = Run { threads, rounds: options.effort.rounds, others: measured.others };
            let fornax = fornax.map(|time| Side::new("Fornax", time));
            report.add(&Row::new(case, fornax, peers.collect(), run))?;
        }
        Ok(())
    }

    fn number<T: std::str::FromStr>(text: &str) -> T {
        text.parse().unwrap_or_else(|_| refuse(&format!("{text} is not a number")))
    }

    fn refuse(why: &str) -> ! {
        eprintln!("{why}\nusage: [PATTERN…] [--rounds N] [--turn SECONDS]");
        std::process::exit(2);
    }
}
