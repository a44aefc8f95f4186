//! The `fornax` command.
#![forbid(unsafe_code)]

use rustix::process::{Resource, getrlimit, setrlimit};

fn main() -> std::process::ExitCode {
    raise_open_files();
    fornax::cli::main()
}

/// Raises the limit of open files to the one that the system allows, as servers do: data loading and many ranks need more than the usual
/// 1024. Where that is not possible, the limit remains.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        // macOS has no larger one, whatever its maximum.
        limit.current = Some(10_240);
        setrlimit(Resource::Nofile, limit).ok();
    }
}
