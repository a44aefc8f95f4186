//! HTTP requests to the hub: metadata and contents of a file.
use super::Hub;
use super::cache::is_plain;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Maximum number of redirects.
const REDIRECTS: usize = 5;

/// Failure of a request.
#[derive(Debug)]
pub enum RequestError {
    /// Transient; another attempt may succeed.
    Transient(String),
    /// Permanent HTTP status.
    Status(StatusCode),
    /// Invalid response.
    InvalidResponse(String),
}

/// Metadata of a file on the hub.
#[derive(Debug)]
pub struct Metadata {
    /// Commit of the revision.
    pub commit: String,
    /// Etag of the contents: their SHA-256 for large files.
    pub etag: String,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Location of the contents.
    url: Uri,
}

impl Metadata {
    /// Metadata of a published file of known size and SHA-256 outside of the hub.
    pub fn of_published_file(url: &str, size: u64, sha256: &str) -> Result<Metadata, RequestError> {
        let url = parse_url(url)?;
        Ok(Metadata { commit: String::new(), etag: sha256.into(), size: Some(size), url })
    }
}

/// Contents of a file from an offset on.
pub struct FileContents {
    /// Offset of the first byte; 0 if the server does not support ranges.
    pub start: u64,
    /// Size of the whole file in bytes, if the server sends it.
    pub size: Option<u64>,
    /// The bytes from `start` on.
    pub body: Box<dyn Read>,
}

/// HTTP client for the hub.
pub struct Client<'a> {
    hub: &'a Hub,
    agent: Agent,
}

impl<'a> Client<'a> {
    /// Creates a client; it connects on the first request. It follows redirects itself, as the token must not be sent to other hosts.
    pub fn new(hub: &'a Hub) -> Client<'a> {
        let config = Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_per_read(Some(Duration::from_secs(30)))
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("fornax/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { hub, agent: config.into() }
    }

    /// Requests the metadata of a file.
    pub fn metadata(&self, path: &str) -> Result<Metadata, RequestError> {
        let mut url = parse_url(&format!("{}/{path}", self.hub.endpoint))?;
        for _ in 0..=REDIRECTS {
            let request = self.agent.head(&url).header("accept-encoding", "identity");
            let request = match self.token_for(&url) {
                Some(token) => request.header("authorization", token),
                None => request,
            };
            let response = request.call().map_err(transport_error)?;
            let next = redirect_target(&url, &response)?;
            match next {
                // A renamed repository.
                Some(next)
                    if next.authority() == url.authority()
                        && header(&response, "x-linked-etag").is_none() =>
                {
                    url = next;
                }
                next => return parse_metadata(&response, next.unwrap_or(url)),
            }
        }
        Err(RequestError::InvalidResponse(format!("more than {REDIRECTS} redirects")))
    }

    /// Requests the contents of a file from `start` on.
    pub fn contents(&self, file: &Metadata, start: u64) -> Result<FileContents, RequestError> {
        let mut url = file.url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.token_for(&url) {
                request = request.header("authorization", token);
            }
            let response = request.call().map_err(transport_error)?;
            if let Some(next) = redirect_target(&url, &response)? {
                url = next;
                continue;
            }
            let length = header_number(&response, "content-length");
            let (start, size) = match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    range(&response).filter(|r| r.0 == start).ok_or_else(|| {
                        RequestError::InvalidResponse(format!(
                            "bytes from {start} on were requested, others arrived"
                        ))
                    })?
                }
                status if status.is_success() => (0, length),
                status => return Err(status_error(status)),
            };
            return Ok(FileContents { start, size, body: Box::new(response.into_body().into_reader()) });
        }
        Err(RequestError::InvalidResponse(format!("more than {REDIRECTS} redirects")))
    }

    /// The authorization header, for the hub itself only.
    fn token_for(&self, url: &Uri) -> Option<String> {
        let hub: Uri = self.hub.endpoint.parse().ok()?;
        let same = hub.authority() == url.authority() && hub.scheme() == url.scheme();
        self.hub.token.as_ref().filter(|_| same).map(|token| format!("Bearer {token}"))
    }
}

fn parse_metadata(response: &Response<Body>, url: Uri) -> Result<Metadata, RequestError> {
    let status = response.status();
    if !status.is_success() && !status.is_redirection() {
        return Err(status_error(status));
    }
    let plain = |name: &str, value: Option<&str>| match value {
        Some(value) if is_plain(value) => Ok(value.to_string()),
        Some(value) => Err(RequestError::InvalidResponse(format!("the response's {name} is {value:?}"))),
        None => {
            Err(RequestError::InvalidResponse(format!("the response has no {name}; is the server a hub?")))
        }
    };
    let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let own_length = status.is_success().then(|| header_number(response, "content-length")).flatten();
    Ok(Metadata {
        commit: plain("x-repo-commit", header(response, "x-repo-commit"))?,
        etag: plain("etag", etag)?,
        size: header_number(response, "x-linked-size").or(own_length),
        url,
    })
}

/// Target of a redirect, if the response is one.
fn redirect_target(from: &Uri, response: &Response<Body>) -> Result<Option<Uri>, RequestError> {
    if !response.status().is_redirection() {
        return Ok(None);
    }
    let location = header(response, "location")
        .ok_or_else(|| RequestError::InvalidResponse("a redirect without location".into()))?;
    let next = parse_url(&resolve(from, location))?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(RequestError::InvalidResponse(format!("a redirect to {next}, which is not encrypted")));
    }
    Ok(Some(next))
}

/// The URL that a reference, absolute or relative, denotes in a response from `from` (RFC 3986, section 5.2).
fn resolve(from: &Uri, reference: &str) -> String {
    let scheme = from.scheme_str().unwrap_or("https");
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let start = reference.split(['/', '?', '#']).next().unwrap_or_default();
    if start.contains(':') {
        return reference.to_string();
    }
    let (path, rest) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = match path {
        "" => from.path().to_string(),
        path if path.starts_with('/') => without_dots(path),
        path => without_dots(&format!("{folder}/{path}")),
    };
    format!("{scheme}://{}{path}{rest}", from.authority().map_or("", |a| a.as_str()))
}

/// An absolute path without its segments `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = vec![];
    let names_folder = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    for segment in path.split('/').skip(1).filter(|segment| *segment != ".") {
        if segment == ".." {
            segments.pop();
        } else {
            segments.push(segment);
        }
    }
    if names_folder && segments.last().is_none_or(|last| !last.is_empty()) {
        segments.push("");
    }
    format!("/{}", segments.join("/"))
}

/// First byte and file size in the header `content-range: bytes 5-9/10`.
fn range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, size) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn header_number(response: &Response<Body>, name: &str) -> Option<u64> {
    header(response, name)?.parse().ok()
}

fn parse_url(url: &str) -> Result<Uri, RequestError> {
    url.parse().map_err(|e| RequestError::InvalidResponse(format!("{url:?} is not a URL: {e}")))
}

fn status_error(status: StatusCode) -> RequestError {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            RequestError::Transient(status.to_string())
        }
        status if status.is_server_error() => RequestError::Transient(status.to_string()),
        status => RequestError::Status(status),
    }
}

fn transport_error(error: ureq::Error) -> RequestError {
    RequestError::Transient(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_against_the_url_of_the_response() {
        let from: Uri = "https://hub.example/a/b/file?download=1".parse().expect("a URL");
        for (reference, url) in [
            ("https://other.example/x", "https://other.example/x"),
            ("//other.example/x", "https://other.example/x"),
            ("/x?y=/z", "https://hub.example/x?y=/z"),
            ("x", "https://hub.example/a/b/x"),
            ("x?y=a:b", "https://hub.example/a/b/x?y=a:b"),
            ("../x", "https://hub.example/a/x"),
            ("./../../../x/./", "https://hub.example/x/"),
            ("..", "https://hub.example/a/"),
            ("?y", "https://hub.example/a/b/file?y"),
        ] {
            assert_eq!(resolve(&from, reference), url, "{reference}");
        }
    }
}
