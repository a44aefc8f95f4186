//! Requests: where a file of the hub is and what it is, and its bytes.
use super::Hub;
use super::cache::is_plain;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Worth another attempt.
    Passing(String),
    /// The server's answer, which another attempt would not change.
    Final(StatusCode),
    /// The server's answer makes no sense.
    Senseless(String),
}

/// What the hub says about a file.
#[derive(Debug)]
pub struct Metadata {
    /// The commit that the revision is at.
    pub commit: String,
    /// Name of the contents: their SHA-256 for large files.
    pub etag: String,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Where the bytes are.
    url: Uri,
}

/// The rest of a file.
pub struct Rest {
    /// First byte; 0 where the server would not begin later.
    pub start: u64,
    /// Bytes of the whole file, where the server says.
    pub size: Option<u64>,
    /// The bytes.
    pub body: Box<dyn Read>,
}

/// A connection to the hub.
pub struct Client<'a> {
    hub: &'a Hub,
    agent: Agent,
}

impl<'a> Client<'a> {
    /// Connects when asked for something. Redirects are followed here rather than by the library, as the token must not leave the hub.
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

    /// Asks what a file is.
    pub fn metadata(&self, path: &str) -> Result<Metadata, Failure> {
        let mut url = parsed(&format!("{}/{path}", self.hub.endpoint))?;
        for _ in 0..=REDIRECTS {
            let request = self.agent.head(&url).header("accept-encoding", "identity");
            let request = match self.token_for(&url) {
                Some(token) => request.header("authorization", token),
                None => request,
            };
            let response = request.call().map_err(passing)?;
            let next = target(&url, &response)?;
            match next {
                // A repository that was renamed.
                Some(next)
                    if next.authority() == url.authority()
                        && header(&response, "x-linked-etag").is_none() =>
                {
                    url = next;
                }
                next => return described(&response, next.unwrap_or(url)),
            }
        }
        Err(Failure::Senseless(format!("more than {REDIRECTS} redirects")))
    }

    /// Asks for the bytes of a file from `start` on.
    pub fn rest(&self, file: &Metadata, start: u64) -> Result<Rest, Failure> {
        let mut url = file.url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            if let Some(token) = self.token_for(&url) {
                request = request.header("authorization", token);
            }
            let response = request.call().map_err(passing)?;
            if let Some(next) = target(&url, &response)? {
                url = next;
                continue;
            }
            let length = number(&response, "content-length");
            let (start, size) = match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    range(&response).filter(|r| r.0 == start).ok_or_else(|| {
                        Failure::Senseless(format!("bytes from {start} on were asked for, others came"))
                    })?
                }
                status if status.is_success() => (0, length),
                status => return Err(refused(status)),
            };
            return Ok(Rest { start, size, body: Box::new(response.into_body().into_reader()) });
        }
        Err(Failure::Senseless(format!("more than {REDIRECTS} redirects")))
    }

    /// The token, for the hub itself and nobody else.
    fn token_for(&self, url: &Uri) -> Option<String> {
        let hub: Uri = self.hub.endpoint.parse().ok()?;
        let same = hub.authority() == url.authority() && hub.scheme() == url.scheme();
        self.hub.token.as_ref().filter(|_| same).map(|token| format!("Bearer {token}"))
    }
}

fn described(response: &Response<Body>, url: Uri) -> Result<Metadata, Failure> {
    let status = response.status();
    if !status.is_success() && !status.is_redirection() {
        return Err(refused(status));
    }
    let plain = |name: &str, value: Option<&str>| match value {
        Some(value) if is_plain(value) => Ok(value.to_string()),
        Some(value) => Err(Failure::Senseless(format!("its {name} is {value:?}"))),
        None => Err(Failure::Senseless(format!("it sends no {name}: is it a hub?"))),
    };
    let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let own_length = status.is_success().then(|| number(response, "content-length")).flatten();
    Ok(Metadata {
        commit: plain("x-repo-commit", header(response, "x-repo-commit"))?,
        etag: plain("etag", etag)?,
        size: number(response, "x-linked-size").or(own_length),
        url,
    })
}

/// Where a response says to go instead.
fn target(from: &Uri, response: &Response<Body>) -> Result<Option<Uri>, Failure> {
    if !response.status().is_redirection() {
        return Ok(None);
    }
    let location =
        header(response, "location").ok_or_else(|| Failure::Senseless("a redirect to nowhere".into()))?;
    let absolute = match location.starts_with('/') {
        true => format!(
            "{}://{}{location}",
            from.scheme_str().unwrap_or("https"),
            from.authority().map_or("", |a| a.as_str())
        ),
        false => location.to_string(),
    };
    let next = parsed(&absolute)?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(Failure::Senseless(format!("a redirect to {next}, which is not encrypted")));
    }
    Ok(Some(next))
}

/// First byte and size of the file of a partial answer: `bytes 5-9/10`.
fn range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let (range, size) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()))
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    header(response, name)?.parse().ok()
}

fn parsed(url: &str) -> Result<Uri, Failure> {
    url.parse().map_err(|e| Failure::Senseless(format!("{url:?} is not an address: {e}")))
}

fn refused(status: StatusCode) -> Failure {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Failure::Passing(status.to_string()),
        status if status.is_server_error() => Failure::Passing(status.to_string()),
        status => Failure::Final(status),
    }
}

fn passing(error: ureq::Error) -> Failure {
    Failure::Passing(error.to_string())
}
