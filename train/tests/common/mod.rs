//! Helpers that run the built binary.
use std::path::Path;
use std::process::{Command, Output};

/// Command `fornax` with these space-separated arguments, in `folder`.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fornax"));
    // The width of the user's terminal would wrap the help text.
    command.env_remove("COLUMNS").current_dir(folder).args(arguments.split_whitespace());
    command
}

/// Runs `fornax` to its end.
pub fn run(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().expect("the binary starts")
}

/// Runs `fornax`, checks that it succeeds, and returns its stdout.
pub fn succeed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The stderr of a finished command.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
