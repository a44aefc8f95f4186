//! Files of the Hugging Face hub, in the cache that its other clients share. A cached file is used without network access; other files
//! are downloaded.
mod cache;
#[cfg(feature = "download")]
mod download;
#[cfg(feature = "download")]
mod http;

#[cfg(feature = "download")]
pub use download::download_published;

use crate::{Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Default of `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";

/// Flags that take the path of a weights file.
pub(crate) const GIVE_FILE: &str =
    "pass its path: to `fornax train` with --pretrained-path, to other commands with --weights";

/// Access to the hub: cache, server and credentials.
#[derive(Clone)]
pub struct Hub {
    /// Cache folder.
    pub cache: PathBuf,
    /// URL of the server.
    pub endpoint: String,
    /// Access token for repositories that are not public.
    pub token: Option<String>,
    /// Use only the cache.
    pub offline: bool,
    /// Delay before the second attempt; it doubles with each further attempt.
    pub retry_delay: Duration,
}

/// Model repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `organisation/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl Hub {
    /// Configures access from the process's environment variables: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`.
    pub fn from_environment() -> Hub {
        Hub::new(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// Configures access from variables that `variable` looks up by name.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Hub {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let caches = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let home = path("HF_HOME")
            .unwrap_or_else(|| caches().unwrap_or_else(std::env::temp_dir).join("huggingface"));
        let token = text("HF_TOKEN").or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            std::fs::read_to_string(file).ok()
        });
        let offline = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
        Hub {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').into(),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(offline),
            retry_delay: Duration::from_secs(1),
        }
    }

    /// Path of a repository's file in the cache; downloads it if needed.
    pub fn file(&self, repository: &Repository, file: &str) -> Result<PathBuf> {
        self.first_file(repository, &[file])
    }

    /// Path of the first of several files that a repository has: in the cache, else downloaded. Errors are about the first one.
    pub fn first_file(&self, repository: &Repository, files: &[&str]) -> Result<PathBuf> {
        if let Some(path) = files.iter().find_map(|file| self.cached(repository, file)) {
            return Ok(path);
        }
        let file = files.first().copied().unwrap_or_default();
        let missing = |why: String| {
            Error::checkpoint(format!("{file} of {repository} is not in the cache"))
                .at_path(&self.folder(repository))
                .because(why)
        };
        if self.offline {
            let remedy = format!("unset HF_HUB_OFFLINE, or download the file by other means and {GIVE_FILE}");
            return Err(missing("HF_HUB_OFFLINE is set".into()).remedy(remedy));
        }
        #[cfg(feature = "download")]
        return download::download(self, repository, files);
        #[cfg(not(feature = "download"))]
        Err(missing("this binary was built without the feature \"download\"".into())
            .remedy(format!("build with that feature, or download the file by other means and {GIVE_FILE}")))
    }
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Repository, String> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let named = id.split('/').count() == 2 && id.split('/').all(plain);
        if !named || !revision.split('/').all(plain) {
            return Err(format!("{text:?} is not ORGANISATION/NAME or ORGANISATION/NAME@REVISION"));
        }
        Ok(Repository { id: id.into(), revision: revision.into() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.id),
            revision => write!(f, "{}@{revision}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_variables_configure_the_hub() {
        let hub = |variables: &[(&str, &str)]| {
            Hub::new(|name| variables.iter().find(|v| v.0 == name).map(|v| OsString::from(v.1)))
        };
        let cache = |variables: &[(&str, &str)]| hub(variables).cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), "/f/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]), "/c");
        let plain = hub(&[("HOME", "/nowhere")]);
        assert_eq!((plain.endpoint.as_str(), plain.offline, plain.token), (ENDPOINT, false, None));
        let configured = hub(&[
            ("HF_ENDPOINT", "http://a:1/"),
            ("HF_HUB_OFFLINE", "TRUE"),
            ("HF_TOKEN", " t\n"),
            ("HOME", "/"),
        ]);
        assert_eq!(
            (configured.endpoint.as_str(), configured.offline, configured.token.as_deref()),
            ("http://a:1", true, Some("t"))
        );
    }

    #[test]
    fn repository_names_are_validated() {
        let read = |text: &str| text.parse::<Repository>().ok().map(|r| (r.id, r.revision));
        assert_eq!(read("timm/resnet18.a1_in1k"), Some(("timm/resnet18.a1_in1k".into(), "main".into())));
        assert_eq!(read("a/b@v1"), Some(("a/b".into(), "v1".into())));
        assert_eq!(read("a/b@refs/pr/1"), Some(("a/b".into(), "refs/pr/1".into())));
        for wrong in ["", "a", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b?x", "a /b", "a/b@/etc"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
