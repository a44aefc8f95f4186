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
    for row in fornax_benches::cases::all() {
        // Made when the first measurement asks for it: rows that the pattern leaves out cost nothing.
        let mut work = None;
        criterion.bench_function(&row.to_string(), |bencher| {
            let work = work.get_or_insert_with(|| fornax_benches::fornax::prepare(&row));
            bencher.iter_custom(|runs| Duration::from_secs_f64((0..runs).map(|_| work().wall).sum()));
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
    use fornax_benches::measure::{Effort, measure};
    use fornax_benches::report::{Finding, Report, Run, Side};
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
        for row in cases::all().iter().filter(|row| options.wants(&row.to_string())) {
            let mut sides = vec![fornax::prepare(row)];
            let (layouts, peers): (Vec<_>, Vec<_>) = libtorch::prepare(row, threads).into_iter().unzip();
            sides.extend(peers);
            let measured = measure(&mut sides, options.effort);
            let (ours, theirs) = measured.times.split_first().expect("Fornax is the first side");
            let peers = layouts.iter().zip(theirs).map(|(layout, &time)| Side::new(layout.name(), time));
            let run = Run { threads, rounds: options.effort.rounds, others: measured.others };
            report.add(&Finding::new(row, Side::new("Fornax", *ours), peers.collect(), run))?;
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
