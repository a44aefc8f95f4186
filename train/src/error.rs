//! What can go wrong in a run, and the exit code that each kind ends with.
use std::fmt;
use std::path::Path;

/// The result of a fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error for a person to read: what failed, where, why, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    place: Option<String>,
    why: Option<String>,
    remedy: Option<String>,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A flag, a value or a configuration file is wrong.
    Usage,
    /// The data set is missing or damaged.
    Data,
    /// A checkpoint cannot be used.
    Checkpoint,
    /// The loss is infinite or not a number.
    NonFinite,
    /// The allocator refused.
    Memory,
    /// A file or folder cannot be written.
    Disk,
    /// A device, its driver or one of its libraries cannot be used or failed.
    Device,
    /// The engine refused what the trainer asked of it: a defect of Fornax.
    Bug,
    /// A signal asked the run to stop, and its state is saved.
    Interrupted(Signal),
}

/// A signal that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What `kill` and batch systems send.
    Terminate,
}

impl Kind {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Data => 3,
            Kind::Checkpoint => 4,
            Kind::NonFinite => 5,
            Kind::Memory => 6,
            Kind::Disk => 7,
            Kind::Device => 9,
            Kind::Bug => 70,
            Kind::Interrupted(Signal::Interrupt) => 130,
            Kind::Interrupted(Signal::Terminate) => 143,
        }
    }
}

impl Error {
    /// An error of a kind; `what` is a sentence without a full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), place: None, why: None, remedy: None }
    }

    /// A wrong flag, value or configuration file.
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(Kind::Usage, what)
    }

    /// A missing or damaged data set.
    pub fn data(what: impl Into<String>) -> Error {
        Error::new(Kind::Data, what)
    }

    /// A checkpoint that cannot be used.
    pub fn checkpoint(what: impl Into<String>) -> Error {
        Error::new(Kind::Checkpoint, what)
    }

    /// A file or folder that cannot be written.
    pub fn disk(what: impl Into<String>) -> Error {
        Error::new(Kind::Disk, what)
    }

    /// Names the file, flag or line that it is about.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.place = Some(place.to_string());
        self
    }

    /// Names the file that it is about.
    pub fn at_path(self, path: &Path) -> Error {
        self.at(path.display())
    }

    /// Says why.
    pub fn because(mut self, why: impl fmt::Display) -> Error {
        self.why = Some(why.to_string());
        self
    }

    /// Says what to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let parts = [("where", &self.place), ("why", &self.why), ("to do", &self.remedy)];
        for (label, text) in parts {
            if let Some(text) = text {
                write!(f, "\n  {label:<6} {}", text.trim_end().replace('\n', "\n         "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<fornax_engine::Error> for Error {
    fn from(error: fornax_engine::Error) -> Error {
        let kind = match error {
            fornax_engine::Error::OutOfMemory { .. } => Kind::Memory,
            fornax_engine::Error::Device { .. } => Kind::Device,
            _ => Kind::Bug,
        };
        Error::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_where_why_and_what_to_do() {
        let error = Error::data("the images cannot be read")
            .at_path(Path::new("/d/t"))
            .because("it ends early\nat byte 9")
            .remedy("get it again");
        assert_eq!(
            error.to_string(),
            "the images cannot be read\n  where  /d/t\n  why    it ends early\n         at byte 9\n  to do  get it again"
        );
        assert_eq!(error.kind().exit_code(), 3);
    }
}
