//! Errors of writing, each with the remedy of its cause.
use crate::Error;
use crate::error::DiskFailure;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Error about a file or folder that cannot be written.
pub fn cannot_write(what: &str, path: &Path, error: &io::Error) -> Error {
    let cannot = Error::disk(what).at_path(path);
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => cannot.because(error).remedy("free some space"),
        ErrorKind::FileTooLarge => {
            cannot.because(error).remedy("raise the limit of the size of files (ulimit -f)")
        }
        ErrorKind::NotFound => cannot
            .because(format!("its folder does not exist ({error})"))
            .remedy("create the folder")
            .with_disk_failure(DiskFailure::NoFolder),
        _ => cannot.because(error).remedy("make the folder writable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_depends_on_the_cause() {
        for (kind, remedy) in [
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::FileTooLarge, "ulimit -f"),
            (ErrorKind::NotFound, "create the folder"),
            (ErrorKind::PermissionDenied, "make the folder writable"),
        ] {
            let error = cannot_write("it cannot be written", Path::new("a"), &kind.into());
            assert!(error.help().is_some_and(|help| help.contains(remedy)), "{error}");
            assert_eq!(error.kind().exit_code(), 7);
        }
    }
}
