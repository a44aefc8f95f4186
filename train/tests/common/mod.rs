//! Helpers that run the built binary.
use std::path::Path;
use std::process::{Command, Output};

/// Command `fornax` with these space-separated arguments, in `folder`.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let binary = env!("CARGO_BIN_EXE_fornax");
    let mut command = Command::new(if ignores_hangups() { "env" } else { binary });
    if ignores_hangups() {
        command.args(["--default-signal=HUP", binary]);
    }
    // The width of the user's terminal would wrap the help text.
    command.env_remove("COLUMNS").current_dir(folder).args(arguments.split_whitespace());
    command
}

/// True if the tests run under `nohup`: processes that they start would ignore SIGHUP, too.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
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
