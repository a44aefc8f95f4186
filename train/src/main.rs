//! The `fornax` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    fornax::cli::main()
}
