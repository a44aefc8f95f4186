//! Driving the built binary.
use std::path::Path;
use std::process::{Command, Output};

/// `fornax` with these arguments, separated by spaces, in `folder`.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fornax"));
    // The width of whoever runs the tests would wrap the help text.
    command.env_remove("COLUMNS").current_dir(folder).args(arguments.split_whitespace());
    command
}

/// Runs it to its end.
pub fn run(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().expect("the binary starts")
}

/// What it wrote to stdout, after checking that it succeeded.
pub fn succeed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it wrote to stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
