//! Token of a job: the secret that its ranks share.
use crate::{Error, Result};
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Environment variable with the token of a job.
pub const TOKEN_VARIABLE: &str = "FORNAX_RENDEZVOUS_TOKEN";
/// Environment variable with the path of a file that contains the token of a job.
pub const TOKEN_FILE_VARIABLE: &str = "FORNAX_RENDEZVOUS_TOKEN_FILE";
/// Longest token in a file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Secret that the ranks of a job share; empty without one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RendezvousToken(String);

impl RendezvousToken {
    /// A token with this text.
    pub fn new(text: impl Into<String>) -> RendezvousToken {
        RendezvousToken(text.into())
    }

    /// The token of [`TOKEN_VARIABLE`], else of the file of [`TOKEN_FILE_VARIABLE`], else an empty one. Errors if the file cannot be read, or
    /// if others may read it.
    pub fn from_environment(environment: &dyn Fn(&str) -> Option<String>) -> Result<RendezvousToken> {
        match (environment(TOKEN_VARIABLE), environment(TOKEN_FILE_VARIABLE)) {
            (Some(text), _) => Ok(RendezvousToken(text)),
            (None, Some(path)) => read(Path::new(&path)).map(RendezvousToken),
            (None, None) => Ok(RendezvousToken::default()),
        }
    }

    /// True without a token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Messages never show the token.
impl fmt::Debug for RendezvousToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "no token" } else { "a token" })
    }
}

/// The token in a file of its user.
fn read(path: &Path) -> Result<String> {
    let rejected = |what: &str| Error::usage(what).at(format!("{TOKEN_FILE_VARIABLE}={}", path.display()));
    let unreadable = |e: std::io::Error| {
        rejected("the token of the rendezvous cannot be read")
            .because(e)
            .remedy("check the path and its permissions on every machine")
    };
    // Opening a named pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(rejected("the token of the rendezvous is not in a regular file")
            .remedy("write the token to a file of mode 0600"));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(rejected("other users can read the token of the rendezvous")
            .because(format!("the mode of the file is {mode:04o}"))
            .remedy(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(unreadable)?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() || text.len() as u64 > MAX_TOKEN {
        return Err(rejected("the token of the rendezvous is empty or too long")
            .because(format!("a token has 1 to {MAX_TOKEN} bytes"))
            .remedy("write 32 random bytes to the file: openssl rand -hex 32"));
    }
    Ok(token.to_string())
}

/// Hexadecimal text of 32 bytes of the system's random source.
pub fn random_text() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn from_file(path: &Path) -> Result<RendezvousToken> {
        let path = path.display().to_string();
        RendezvousToken::from_environment(&|name| (name == TOKEN_FILE_VARIABLE).then(|| path.clone()))
    }

    fn file(folder: &Path, mode: u32, text: &str) -> PathBuf {
        let path = folder.join(format!("{mode:o}-{}", text.len()));
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets the mode");
        path
    }

    #[test]
    fn token_of_a_private_file_is_read_and_never_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = from_file(&file(folder.path(), 0o600, "a secret\n")).expect("private");
        assert_eq!(token, RendezvousToken::new("a secret"));
        assert!(!format!("{token:?}").contains("secret"));
        let both =
            |name: &str| Some(if name == TOKEN_VARIABLE { "x".into() } else { "/no/such/file".into() });
        assert_eq!(
            RendezvousToken::from_environment(&both).expect("the variable wins"),
            RendezvousToken::new("x")
        );
        assert!(RendezvousToken::from_environment(&|_| None).expect("none").is_empty());
    }

    #[test]
    fn unusable_files_of_a_token_are_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, part) in [
            (file(folder.path(), 0o640, "token"), "the mode of the file is 0640"),
            (file(folder.path(), 0o604, "token"), "chmod 600"),
            (file(folder.path(), 0o600, "\n"), "empty or too long"),
            (file(folder.path(), 0o600, &"t".repeat(5000)), "empty or too long"),
            (folder.path().join("missing"), "cannot be read"),
            (folder.path().into(), "not in a regular file"),
        ] {
            let error = from_file(&path).expect_err(part).to_string();
            assert!(error.contains(part) && !error.contains("token\n"), "{part} is missing in {error}");
        }
    }

    #[test]
    fn random_texts_differ() {
        let (one, other) = (random_text().expect("random"), random_text().expect("random"));
        assert_eq!((one.len(), other.len()), (64, 64));
        assert_ne!(one, other);
    }
}
