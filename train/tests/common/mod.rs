//! Helpers that run the built binary.
use std::path::Path;
use std::process::{Command, Output};

/// Command `fornax` with these space-separated arguments, in `folder`.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let binary = env!("CARGO_BIN_EXE_fornax");
    let resets_signals = ignores_signals();
    let mut command = Command::new(if resets_signals { "env" } else { binary });
    if resets_signals {
        command.args(["--default-signal=HUP,INT", binary]);
    }
    // The width of the user's terminal would wrap the help text.
    command.env_remove("COLUMNS").current_dir(folder).args(arguments.split_whitespace());
    command
}

/// True if the tests run under `nohup` or as a background job of a script: processes that they start would ignore SIGHUP or SIGINT, too.
fn ignores_signals() -> bool {
    const HUP_AND_INT: u64 = 0b11;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & HUP_AND_INT != 0)
}

/// Runs `fornax` to its end.
#[allow(dead_code)]
pub fn run(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().expect("the binary starts")
}

/// Runs `fornax`, checks that it succeeds, and returns its stdout.
#[allow(dead_code)]
pub fn succeed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The stderr of a finished command.
#[allow(dead_code)]
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
