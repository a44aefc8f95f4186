//! Downloads of dataset files from a local server: mirrors, resuming, sizes and SHA-256.
#![cfg(feature = "download")]
mod common;
#[path = "common/server.rs"]
mod server;

use fornax::hub::{Hub, download_published};
use server::{Request, Response, Server};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hub(folder: &Path) -> Hub {
    Hub { cache: folder.into(), retry_delay: Duration::from_millis(1), ..Hub::new(|_| None) }
}

/// Answer with the rest of the file from the requested byte on.
fn rest(request: &Request, file: &[u8]) -> Response {
    let start = request.header("range").map(|range| {
        let from = range.trim_start_matches("bytes=").trim_end_matches('-');
        from.parse::<usize>().expect("a number")
    });
    match start {
        None => Response { body: file.to_vec(), ..Response::status(200) },
        Some(start) => Response { body: file[start..].to_vec(), ..Response::status(206) }
            .header("content-range", format!("bytes {start}-{}/{}", file.len() - 1, file.len())),
    }
}

#[test]
fn interrupted_download_is_resumed_on_the_mirror_that_has_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = Server::start(|_| Response::status(404));
    let calls = AtomicUsize::new(0);
    let good = Server::start(move |request| {
        let cut = (calls.fetch_add(1, Ordering::SeqCst) == 0).then_some(100_000);
        Response { cut, ..rest(request, &content()) }
    });
    let destination = folder.path().join("images.gz");
    let content = content();
    let fetch = |mirrors: &[&str]| {
        let (size, hash) = (content.len() as u64, sha256(&content));
        download_published(&hub(folder.path()), mirrors, "images.gz", size, &hash, &destination)
    };
    fetch(&[&missing.url, &good.url]).expect("downloads");
    assert_eq!(fs::read(&destination).expect("reads"), content);
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "no partial file is left");
    assert_eq!(missing.requests().len(), 1);
    let requests = good.requests();
    assert!(requests.len() == 2 && requests[0].header("range").is_none(), "{requests:?}");
    assert!(requests[1].header("range").is_some_and(|range| range != "bytes=0-"), "{requests:?}");
    assert!(requests.iter().all(|request| request.method == "GET" && request.path == "/images.gz"));
    // A complete file is checked, not fetched again.
    fetch(&[&good.url]).expect("is there");
    assert_eq!(good.requests().len(), 2);
    fs::write(&destination, b"mine").expect("writes");
    let error = fetch(&[&good.url]).expect_err("damaged").to_string();
    assert!(error.contains("4 bytes, 300000 were announced") && error.contains("remove the file"), "{error}");
    assert_eq!(fs::read(&destination).expect("still there"), b"mine");
}

#[test]
fn file_with_another_hash_is_removed_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(|request| rest(request, &content()));
    let destination = folder.path().join("a");
    let hash = sha256(b"another");
    let result = download_published(&hub(folder.path()), &[&server.url], "a", 300_000, &hash, &destination);
    let error = result.expect_err("another file");
    assert_eq!(error.kind().exit_code(), 3);
    let text = error.to_string();
    assert!(text.contains("a cannot be downloaded") && text.contains(&hash), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 0);
}

#[test]
fn unencrypted_mirrors_and_unknown_names_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, part) in [
        ("datasets download mnist --mirror http://example.com/mnist", "not encrypted"),
        ("datasets download digits", "mnist, fashion-mnist"),
    ] {
        let output = common::run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(common::stderr(&output).contains(part), "{}", common::stderr(&output));
    }
    assert!(common::succeed(folder.path(), "datasets list").contains("download"));
    let server = Server::start(|_| Response::status(404));
    let output = common::run(folder.path(), &format!("datasets download mnist --mirror {}", server.url));
    assert_eq!(output.status.code(), Some(3));
    assert!(common::stderr(&output).contains("train-images-idx3-ubyte.gz"), "{}", common::stderr(&output));
}
