//! Lines on stderr.

/// As `eprintln!`, without a panic if stderr is closed or full: a message must not end a run.
macro_rules! message {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stderr().lock(), $($argument)*).ok();
    }};
}
