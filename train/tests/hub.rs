//! Downloads from a local hub server with injected failures.
#![cfg(feature = "download")]
#[path = "common/server.rs"]
mod server;

use fornax::Error;
use fornax::error::ErrorKind;
use fornax::hub::{Hub, Repository};
use fornax::weights::WeightsSource;
use server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const FILE: &str = "model.safetensors";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hub(cache: &Path, endpoint: &str) -> Hub {
    let (endpoint, patience) = (endpoint.to_string(), Duration::from_millis(1));
    Hub {
        cache: cache.join("hub"),
        endpoint,
        token: Some("secret".into()),
        offline: false,
        retry_delay: patience,
    }
}

fn repository(text: &str) -> Repository {
    text.parse().expect("a repository")
}

/// The hub's response for a file stored on another server.
fn linked(location: &str) -> Response {
    let content = content();
    Response::status(302)
        .header("location", location)
        .header("x-repo-commit", COMMIT)
        .header("x-linked-etag", format!("\"{}\"", sha256(&content)))
        .header("x-linked-size", content.len())
}

/// The response to a range request.
fn part(request: &Request, content: &[u8]) -> Response {
    let range =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match range {
        Some(start) if start < content.len() => {
            let body = content[start..].to_vec();
            Response { body, ..Response::status(206) }
                .header("content-range", format!("bytes {start}-{}/{}", content.len() - 1, content.len()))
        }
        Some(_) => Response::status(416),
        None => Response { body: content.to_vec(), ..Response::status(200) },
    }
}

/// A hub, and the storage server that holds the contents and responds with `serve`.
fn servers(serve: impl Fn(&Request) -> Response + Send + 'static) -> (Server, Server) {
    let store = Server::start(serve);
    let location = format!("{}/store/blob", store.url);
    (Server::start(move |_| linked(&location)), store)
}

/// Downloads into an empty cache.
fn download(hub_url: &str) -> (tempfile::TempDir, fornax::Result<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let result = hub(folder.path(), hub_url).file(&repository("timm/net.tag"), FILE);
    (folder, result)
}

#[track_caller]
fn assert_fails(result: fornax::Result<PathBuf>, parts: &[&str]) -> Error {
    let error = result.expect_err("cannot be downloaded");
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is missing in {error}");
    }
    error
}

#[test]
fn file_is_downloaded_once_and_then_served_from_cache() {
    let (hub_server, store) = servers(|request| part(request, &content()));
    let (folder, path) = download(&hub_server.url);
    let path = path.expect("downloads");
    assert_eq!(fs::read(&path).expect("reads"), content());
    let root = folder.path().join("hub/models--timm--net.tag");
    assert_eq!(path, root.join("snapshots").join(COMMIT).join(FILE));
    let blob = Path::new("../../blobs").join(sha256(&content()));
    assert_eq!(fs::read_link(&path).expect("a link"), blob);
    assert_eq!(fs::read_to_string(root.join("refs/main")).expect("reads"), COMMIT);
    assert_eq!(fs::read_dir(root.join("blobs")).expect("lists").count(), 1, "no .incomplete file is left");

    let [head] = hub_server.requests().try_into().expect("one request");
    assert_eq!(
        (head.method.as_str(), head.path.as_str()),
        ("HEAD", "/timm/net.tag/resolve/main/model.safetensors")
    );
    assert_eq!(head.header("authorization"), Some("Bearer secret"));
    let [get] = store.requests().try_into().expect("one request");
    assert_eq!(get.path, "/store/blob");
    assert_eq!(get.header("authorization"), None, "the token is sent to the hub only");

    // Again, by branch and by commit, offline and with an unreachable hub.
    let offline = Hub { offline: true, ..hub(folder.path(), &hub_server.url) };
    let gone = hub(folder.path(), "http://127.0.0.1:9");
    for name in ["timm/net.tag", &format!("timm/net.tag@{COMMIT}")] {
        assert_eq!(offline.file(&repository(name), FILE).expect("cached"), path);
        assert_eq!(gone.file(&repository(name), FILE).expect("cached"), path);
    }
    assert_eq!((hub_server.requests().len(), store.requests().len()), (1, 1));
    assert_fails(
        offline.file(&repository("timm/net.tag"), "other"),
        &["HF_HUB_OFFLINE", "--weights", "--pretrained-path"],
    );
    assert_fails(
        offline.file(&repository("timm/net.tag@v2"), FILE),
        &["timm/net.tag@v2", "not in the cache"],
    );
}

/// A small file that the hub serves itself, in a renamed repository.
#[test]
fn redirects_within_the_hub_keep_the_token() {
    let server = Server::start(|request| match request.path.strip_prefix("/new/name/") {
        None => {
            Response::status(307).header("location", request.path.replace("/timm/net.tag/", "/new/name/"))
        }
        Some(_) => Response { body: b"small".to_vec(), ..Response::status(200) }
            .header("x-repo-commit", COMMIT)
            .header("etag", "W/\"aabbccddeeff00112233445566778899aabbccdd\""),
    });
    let (_folder, path) = download(&server.url);
    assert_eq!(fs::read(path.expect("downloads")).expect("reads"), b"small");
    assert!(server.requests().iter().all(|r| r.header("authorization") == Some("Bearer secret")));
}

#[test]
fn interrupted_download_is_resumed() {
    let served = AtomicUsize::new(0);
    let (hub_server, store) = servers(move |request| {
        let cut =
            [Some(300_000), Some(0), Some(123_456), None][served.fetch_add(1, Ordering::Relaxed).min(3)];
        Response { cut, ..part(request, &content()) }
    });
    let (_folder, path) = download(&hub_server.url);
    assert_eq!(fs::read(path.expect("downloads")).expect("reads"), content());
    let ranges: Vec<Option<String>> =
        store.requests().iter().map(|r| r.header("range").map(String::from)).collect();
    let range = |start: usize| Some(format!("bytes={start}-"));
    assert_eq!(ranges, [None, range(300_000), range(300_000), range(423_456)]);
}

#[test]
fn incomplete_file_of_earlier_run_is_resumed_or_replaced() {
    let whole = content();
    let cases: [(Vec<u8>, &[Option<&str>]); 4] = [
        (whole[..1000].to_vec(), &[Some("bytes=1000-")]),
        (whole.clone(), &[]),
        // Longer than the file: start over.
        ([&whole[..], b"more"].concat(), &[None]),
        (vec![], &[None]),
    ];
    for (left, expected) in cases {
        let (hub_server, store) = servers(|request| part(request, &content()));
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = folder.path().join("hub/models--timm--net.tag/blobs");
        fs::create_dir_all(&blobs).expect("creates");
        fs::write(blobs.join(format!("{}.incomplete", sha256(&whole))), left).expect("writes");
        let path = hub(folder.path(), &hub_server.url).file(&repository("timm/net.tag"), FILE);
        assert_eq!(fs::read(path.expect("downloads")).expect("reads"), whole);
        let requests = store.requests();
        assert_eq!(requests.iter().map(|r| r.header("range")).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn server_without_ranges_restarts_download() {
    let served = AtomicUsize::new(0);
    let (hub_server, store) = servers(move |_| Response {
        body: content(),
        cut: (served.fetch_add(1, Ordering::Relaxed) == 0).then_some(5000),
        ..Response::status(200)
    });
    let (_folder, path) = download(&hub_server.url);
    assert_eq!(fs::read(path.expect("downloads")).expect("reads"), content());
    assert_eq!(store.requests().len(), 2);
}

#[test]
fn wrong_hash_or_size_is_rejected() {
    let mut wrong = content();
    wrong[77] ^= 1;
    let longer = [content(), vec![0]].concat();
    for (body, part_of_message) in
        [(wrong, "its SHA-256 is"), (longer, "800001 bytes, 800000 were announced")]
    {
        let (hub_server, _store) = servers(move |_| Response { body: body.clone(), ..Response::status(200) });
        let (folder, result) = download(&hub_server.url);
        assert_fails(result, &[part_of_message, "announced"]);
        let root = folder.path().join("hub/models--timm--net.tag");
        assert_eq!(fs::read_dir(root.join("blobs")).expect("lists").count(), 0);
        assert!(!root.join("snapshots").join(COMMIT).join(FILE).exists());
    }
}

#[test]
fn http_errors_have_a_remedy() {
    let cases: [(u16, &[&str], usize); 5] = [
        (401, &["401", "HF_TOKEN"], 1),
        (403, &["403", "ask for access"], 1),
        (404, &["404", "check the name"], 1),
        (500, &["500", "4 times in a row", "HF_ENDPOINT"], 4),
        (429, &["429", "4 times in a row"], 4),
    ];
    for (status, parts, attempts) in cases {
        let server = Server::start(move |_| Response::status(status));
        let (folder, result) = download(&server.url);
        let error = assert_fails(result, parts);
        assert!(error.to_string().contains(&server.url), "{error}");
        assert_eq!(server.requests().len(), attempts, "{status}");
        assert!(!folder.path().join("hub").exists(), "nothing is written");
    }
    let (_folder, result) = download("http://127.0.0.1:9");
    assert_fails(result, &["127.0.0.1:9", "4 times in a row", "HTTPS_PROXY"]);
    // The hub responds, the storage server does not.
    let (hub_server, store) = servers(|_| Response::status(503));
    assert_fails(download(&hub_server.url).1, &["503", "4 times in a row"]);
    assert_eq!(store.requests().len(), 4);
}

#[test]
fn server_that_is_not_a_hub_is_rejected() {
    let commit = |r: Response| r.header("x-repo-commit", COMMIT);
    type Answer = Box<dyn Fn(&Request) -> Response + Send>;
    let cases: [(Answer, &str); 5] = [
        (Box::new(|_| Response::status(200)), "x-repo-commit"),
        (Box::new(move |_| commit(Response::status(200))), "etag"),
        (
            Box::new(move |_| commit(Response::status(200)).header("etag", "\"../../../evil\"")),
            "../../../evil",
        ),
        (Box::new(|_| Response::status(200).header("x-repo-commit", "../up").header("etag", "a")), "../up"),
        (Box::new(|r| Response::status(302).header("location", &r.path)), "more than 5 redirects"),
    ];
    for (answer, part) in cases {
        let server = Server::start(answer);
        let (folder, result) = download(&server.url);
        assert_fails(result, &[part]);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0, "nothing is written");
    }
}

#[test]
fn unwritable_cache_is_rejected() {
    let (hub_server, _store) = servers(|request| part(request, &content()));
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("hub"), "a file").expect("writes");
    let error =
        hub(folder.path(), &hub_server.url).file(&repository("timm/net.tag"), FILE).expect_err("no folder");
    assert_eq!(error.kind(), ErrorKind::Disk);
    assert!(error.to_string().contains("HF_HUB_CACHE"), "{error}");
}

/// As in timm.
#[test]
fn repository_without_safetensors_falls_back_to_its_pytorch_file() {
    let store = Server::start(|request| part(request, &content()));
    let location = format!("{}/store/blob", store.url);
    let server = Server::start(move |request| match request.path.ends_with("/pytorch_model.bin") {
        true => linked(&location),
        false => Response::status(404),
    });
    let folder = tempfile::tempdir().expect("a folder");
    let source = WeightsSource::Hub(repository("timm/net.tag"));
    let path = source.resolve(&hub(folder.path(), &server.url)).expect("downloads");
    assert!(path.ends_with("pytorch_model.bin"), "{}", path.display());
    assert_eq!(fs::read(&path).expect("reads"), content());
    let offline = Hub { offline: true, ..hub(folder.path(), &server.url) };
    assert_eq!(source.resolve(&offline).expect("cached"), path);

    let empty = Server::start(|_| Response::status(404));
    let folder = tempfile::tempdir().expect("a folder");
    assert_fails(source.resolve(&hub(folder.path(), &empty.url)), &["model.safetensors", "404"]);
}
