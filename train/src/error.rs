//! Errors of a run and their exit codes.
use crate::text::escape_control_in_lines;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::Path;

/// The result of a fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// User-facing error: what failed, where, why, and the remedy.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    location: Option<String>,
    why: Option<String>,
    remedy: Option<String>,
    disk_failure: Option<DiskFailure>,
}

/// Cause of a failed write that may be gone at another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFailure {
    /// The disk is full.
    NoSpace,
    /// The folder of the file does not exist, or another one has its path.
    NoFolder,
}

/// Error category; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A flag, a value or a configuration file is wrong.
    Usage,
    /// The dataset is missing or damaged.
    Data,
    /// A checkpoint cannot be used.
    Checkpoint,
    /// The loss is infinite or not a number.
    NonFinite,
    /// Out of memory.
    Memory,
    /// A file or folder cannot be written.
    Disk,
    /// The process or the system has as many open files as it may have.
    OpenFiles,
    /// Another rank of a distributed run was lost, or did not respond in time.
    Peer,
    /// A device, its driver or one of its libraries cannot be used or failed.
    Device,
    /// An operation rejected its operands: a model, a loss or a callback that the program defines, or a bug in Fornax.
    Operation,
    /// A bug in Fornax.
    Bug,
    /// A signal interrupted the run; a checkpoint is saved.
    Interrupted(Signal),
}

/// Signal that interrupts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM, sent by `kill` and by batch systems.
    Terminate,
    /// SIGHUP, sent when the terminal is closed.
    HangUp,
}

impl Signal {
    /// The signal's name.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "Ctrl-C",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
        }
    }
}

impl ErrorKind {
    /// Exit code of a command that ends with this error.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::Data => 3,
            ErrorKind::Checkpoint => 4,
            ErrorKind::NonFinite => 5,
            ErrorKind::Memory => 6,
            ErrorKind::Disk | ErrorKind::OpenFiles => 7,
            ErrorKind::Peer => 8,
            ErrorKind::Device => 9,
            ErrorKind::Operation | ErrorKind::Bug => 70,
            ErrorKind::Interrupted(Signal::HangUp) => 129,
            ErrorKind::Interrupted(Signal::Interrupt) => 130,
            ErrorKind::Interrupted(Signal::Terminate) => 143,
        }
    }
}

impl Error {
    /// Creates an error; `what` is a sentence without a full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), location: None, why: None, remedy: None, disk_failure: None }
    }

    /// Creates an error about a wrong flag, value or configuration file.
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, what)
    }

    /// Creates an error about a missing or damaged dataset.
    pub fn data(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Data, what)
    }

    /// Creates an error about a checkpoint that cannot be used.
    pub fn checkpoint(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Checkpoint, what)
    }

    /// Creates an error about a file or folder that cannot be written.
    pub fn disk(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Disk, what)
    }

    /// Creates an error about a file that cannot be read.
    pub fn unreadable(kind: ErrorKind, what: impl Into<String>, path: &Path, error: &io::Error) -> Error {
        let is_limit = too_many_files_are_open(error);
        let unreadable = Error::new(if is_limit { ErrorKind::OpenFiles } else { kind }, what).at_path(path);
        match error.kind() {
            _ if is_limit => unreadable
                .because(error)
                .remedy("raise the limit of open files with `ulimit -n`, or close other programs"),
            io::ErrorKind::NotFound => unreadable.because("no such file").remedy("check the path"),
            _ => unreadable.because(error).remedy("check the path and its permissions"),
        }
    }

    /// Sets the location: a file, flag or line.
    pub fn at(mut self, location: impl fmt::Display) -> Error {
        self.location = Some(location.to_string());
        self
    }

    /// Sets the location to a file.
    pub fn at_path(self, path: &Path) -> Error {
        self.at(path.display())
    }

    /// Sets the reason.
    pub fn because(mut self, why: impl fmt::Display) -> Error {
        self.why = Some(why.to_string());
        self
    }

    /// Sets the remedy.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// Sets the cause of a failed write.
    pub fn with_disk_failure(mut self, failure: DiskFailure) -> Error {
        self.disk_failure = Some(failure);
        self
    }

    /// Cause of a failed write that may be gone at another attempt, if it is known.
    pub fn disk_failure(&self) -> Option<DiskFailure> {
        self.disk_failure
    }

    /// What failed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The reason, if it is known.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The location, if there is one.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// The remedy, if there is one.
    pub fn help(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The error's category.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// True if a file could not be opened because the process or the system has as many open files as it may have: the file is not to blame.
pub fn too_many_files_are_open(error: &io::Error) -> bool {
    let limits = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| limits.contains(&code))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_control_in_lines(&self.what))?;
        let parts = [("where", &self.location), ("why", &self.why), ("help", &self.remedy)];
        for (label, text) in parts {
            if let Some(text) = text {
                let text = escape_control_in_lines(text.trim_end());
                write!(f, "\n  {label:<6} {}", text.replace('\n', "\n         "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<fornax_engine::Error> for Error {
    fn from(error: fornax_engine::Error) -> Error {
        let kind = match error {
            fornax_engine::Error::OutOfMemory { .. } => ErrorKind::Memory,
            fornax_engine::Error::Device { .. } => ErrorKind::Device,
            fornax_engine::Error::Collective { .. } => ErrorKind::Peer,
            _ => ErrorKind::Operation,
        };
        let converted = Error::new(kind, error.to_string());
        match kind {
            ErrorKind::Memory => converted.remedy("lower --batch-size, or add --grad-checkpointing or --amp"),
            _ => converted,
        }
    }
}

impl From<fornax_nn::Error> for Error {
    fn from(error: fornax_nn::Error) -> Error {
        let kind = match error {
            fornax_nn::Error::Engine(error) => return error.into(),
            fornax_nn::Error::UnknownModel { .. } | fornax_nn::Error::ModelOption { .. } => ErrorKind::Usage,
            fornax_nn::Error::StateDict { .. } | fornax_nn::Error::Safetensors(_) => ErrorKind::Checkpoint,
            _ => ErrorKind::Bug,
        };
        Error::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_has_exit_code_6_and_names_the_flags() {
        let bytes = isize::MAX as usize - (4 << 10);
        let error = fornax_engine::cpu::memory::CpuBuffer::new(bytes).map(drop).expect_err("too large");
        let error = Error::from(error);
        assert_eq!(error.kind().exit_code(), 6);
        let text = error.to_string();
        assert!(text.contains("out of memory on cpu: 9223372036854771711 bytes requested"), "{text}");
        for flag in ["--batch-size", "--grad-checkpointing", "--amp"] {
            assert!(text.contains(flag), "{text}");
        }
    }

    #[test]
    fn full_table_of_open_files_is_not_the_fault_of_the_file() {
        for errno in [Errno::MFILE, Errno::NFILE] {
            let error = io::Error::from(errno);
            let error = Error::unreadable(ErrorKind::Data, "it cannot be read", Path::new("a.png"), &error);
            assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::OpenFiles, 7));
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        let damaged = io::Error::from(Errno::IO);
        let error = Error::unreadable(ErrorKind::Data, "it cannot be read", Path::new("a.png"), &damaged);
        assert_eq!(error.kind(), ErrorKind::Data);
    }

    #[test]
    fn errors_of_engine_and_models_convert_into_errors_of_a_run() {
        fn kind(error: impl Into<Error>) -> ErrorKind {
            error.into().kind()
        }
        let unknown = fornax_nn::create_model("resnet19", &fornax_nn::ModelOptions::default()).map(drop);
        assert_eq!(kind(unknown.expect_err("no such model")), ErrorKind::Usage);
        assert_eq!(kind(fornax_nn::Error::Safetensors("it is empty".into())), ErrorKind::Checkpoint);
        let scalar = fornax_engine::Tensor::scalar(1.0f32).expect("memory");
        let shape = scalar.reshape([2]).expect_err("one element");
        assert_eq!(kind(fornax_nn::Error::from(shape)), ErrorKind::Operation);
    }

    #[test]
    fn display_shows_what_where_why_and_remedy() {
        let error = Error::data("the images cannot be read")
            .at_path(Path::new("/d/t"))
            .because("it ends early\nat byte 9")
            .remedy("download it again");
        assert_eq!(
            error.to_string(),
            "the images cannot be read\n  where  /d/t\n  why    it ends early\n         at byte 9\n  help   download it again"
        );
        assert_eq!(error.kind().exit_code(), 3);
    }
}
