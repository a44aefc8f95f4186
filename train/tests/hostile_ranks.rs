//! Strangers on the ports of ranks: without the token of a job they change nothing, whatever they send and however many they are.
//! `FORNAX_TEST_SWEEP=reliability` sends 10,000 mutated frames and opens 1,000 connections.
#![cfg(target_os = "linux")]
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/strangers.rs"]
mod strangers;
#[path = "common/sweep.rs"]
mod sweep;

use fornax::distributed::{Frame, Handshake, Launch, RendezvousToken, TcpCollective, Timed, join};
use fornax::engine::{Collective, Tensor};
use fornax::error::ErrorKind;
use processes::{Ranks, folder, state, torchrun_rank, train};
use ranks::{free_port, identity, launch};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use strangers::{Mutations, Stranger, connect, listening_ports};
use sweep::is_reliability_sweep;

const TOKEN: &str = "0123456789abcdef-token-of-a-test";

/// One test at a time, as the ranks of a test are found by the ports on which this process listens.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// A rank as torchrun starts it, with a token.
fn rank_with_token(folder: &Path, arguments: &str, rank: usize, port: u16) -> Command {
    let mut command = torchrun_rank(folder, arguments, rank, 2, port);
    command.env("FORNAX_RENDEZVOUS_TOKEN", TOKEN);
    command
}

/// A run of many epochs.
fn long_run(name: &str, options: &str) -> String {
    format!("{} {options}", train(name, 2).replace("--epochs 4 ", "--epochs 4000 "))
}

#[test]
fn frames_of_strangers_neither_end_a_job_nor_get_a_reply() {
    let _one = one_at_a_time();
    let folder = folder();
    let port = free_port();
    let arguments = |name: &str| format!("{} --print-hash", train(name, 2));
    let expected = Ranks::start(folder.path(), "undisturbed", 2, |_| arguments("undisturbed")).hash();
    let replies = Mutex::new(vec![]);
    let mut ranks = Ranks::start_with(folder.path(), "disturbed", 2, |rank, _| {
        if rank == 1 {
            // Rank 0 waits.
            let hello = br#"{"run_id":"none","restarts":0,"rank":1,"world_size":2,"host":"evil\u001b[2J\n[rank 7]","port":1,"program":"0","settings":{}}"#;
            for payload in [&hello[..], b"{}", b"", &[0; 4096]] {
                let mut replies = replies.lock().expect("no panic");
                replies.push(Stranger::new(connect(port)).send_frame(1, payload).reply());
            }
            // A process of this protocol with another token.
            let mut stream = connect(port);
            let outcome = Handshake::rendezvous(&RendezvousToken::new("guess")).connect(&mut stream);
            assert!(outcome.is_err(), "another token is accepted");
        }
        rank_with_token(folder.path(), &arguments("disturbed"), rank, port)
    });
    let replies = replies.into_inner().expect("no panic");
    assert!(replies.iter().all(Vec::is_empty), "{replies:?}");
    for rank in 0..2 {
        let status = ranks.wait(rank, Duration::from_secs(120));
        assert!(status.success(), "rank {rank}: {}", ranks.text(rank, "err"));
    }
    let text = ranks.text(0, "err");
    assert_eq!(text.matches("is ignored").count(), 5, "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains("[rank 7]"), "{text}");
    assert_eq!(ranks.hash(), expected);
}

#[test]
fn rank_with_another_token_is_told_and_counted() {
    let _one = one_at_a_time();
    let port = free_port();
    let with = |rank, token: &str| Launch {
        token: RendezvousToken::new(token),
        timeout: Duration::from_secs(3),
        ..launch(rank, 2, port)
    };
    for other in ["another", ""] {
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| join(&with(0, TOKEN), &identity()).expect_err("incomplete"));
            let second = join(&with(1, other), &identity()).expect_err("another token");
            (first.join().expect("no panic"), second)
        });
        let (first_text, second_text) = (first.to_string(), second.to_string());
        assert_eq!((first.kind(), second.kind()), (ErrorKind::Peer, ErrorKind::Usage));
        assert!(second_text.contains("rank 0 rejects this process's token"), "{second_text}");
        assert!(second_text.contains("set FORNAX_RENDEZVOUS_TOKEN"), "{second_text}");
        assert!(first_text.contains("ignored connections with another token, or none: "), "{first_text}");
        assert!(!format!("{first_text}{second_text}").contains(TOKEN));
    }
}

#[test]
fn token_appears_in_no_file_and_no_message() {
    let _one = one_at_a_time();
    let folder = folder();
    let arguments = train("secret", 2);
    let mut ranks = Ranks::start_with(folder.path(), "secret", 2, |rank, port| {
        rank_with_token(folder.path(), &arguments, rank, port)
    });
    for rank in 0..2 {
        assert!(ranks.wait(rank, Duration::from_secs(120)).success(), "{}", ranks.text(rank, "err"));
    }
    let mut files = 0;
    let mut folders = vec![folder.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("lists").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).expect("reads");
            let is_leaked = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!is_leaked, "{}", entry.path().display());
            files += 1;
        }
    }
    assert!(folder.path().join("out/secret/env.json").exists() && files > 10, "{files} files");
}

#[test]
fn slow_connection_to_the_mesh_port_does_not_extend_the_timeout() {
    let _one = one_at_a_time();
    let port = free_port();
    let place = |rank| Launch { timeout: Duration::from_secs(6), ..launch(rank, 2, port) };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let (sender, is_lost) = channel();
        let first = scope.spawn(move || {
            let group = join(&place(0), &identity()).expect("meets");
            let error = TcpCollective::new(group).expect_err("rank 1 is lost");
            drop(is_lost);
            error
        });
        let second = join(&place(1), &identity()).expect("meets");
        let ports = listening_ports();
        let slow: Vec<_> = ports.into_iter().filter(|other| *other != port).map(Stranger::at).collect();
        slow.into_iter().for_each(|stranger| {
            let sender = sender.clone();
            scope.spawn(move || {
                stranger.expect("connects").drip(Duration::from_millis(1500), || sender.send(()).is_err())
            });
        });
        // It does not connect; rank 0 notices that it ends.
        std::thread::sleep(Duration::from_secs(1));
        drop(second);
        let error = first.join().expect("no panic");
        assert_eq!(error.kind(), ErrorKind::Peer);
        assert!(error.to_string().contains("rank 1 on "), "{error}");
    });
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn silent_slow_and_garbage_connections_change_nothing() {
    let _one = one_at_a_time();
    let all = if is_reliability_sweep() { 1000 } else { 200 };
    let folder = folder();
    let port = free_port();
    let expected =
        Ranks::start(folder.path(), "alone", 2, |_| format!("{} --print-hash", train("alone", 2))).hash();
    let is_over = AtomicBool::new(false);
    let open = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        let hostile = || {
            let mut open = open.lock().expect("no panic");
            for number in 0..all {
                let Ok(stranger) = Stranger::at(port) else { continue };
                match number % 3 {
                    0 => open.push(stranger),
                    1 => open.push(stranger.send(b"FXD2\x28\xe8\x03")),
                    _ => open.push(stranger.send(&[0xff; 100])),
                }
            }
            let slow = Stranger::at(port);
            scope.spawn(move || {
                if let Ok(slow) = slow {
                    slow.drip(Duration::from_millis(100), || is_over.load(Ordering::Acquire));
                }
            });
        };
        let arguments = format!("{} --print-hash --dist-timeout 30", train("flooded", 2));
        let mut ranks = Ranks::start_with(folder.path(), "flooded", 2, |rank, _| {
            let command = rank_with_token(folder.path(), &arguments, rank, port);
            if rank == 1 {
                drop(connect(port));
                hostile();
            }
            // As a usual shell sets it, with no room for the strangers.
            let mut limited = Command::new("sh");
            limited.arg("-c").arg("ulimit -n 140; exec \"$@\"").arg("sh");
            limited.arg(command.get_program()).args(command.get_args()).current_dir(folder.path());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => limited.env(name, value),
                    None => limited.env_remove(name),
                };
            }
            limited
        });
        ranks.wait_for_updates(1);
        hostile();
        assert_eq!(ranks.hash(), expected);
        is_over.store(true, Ordering::Release);
    });
    eprintln!("N6: {all} hostile connections before and {all} during training: equal hashes");
}

/// Bytes that a rank sends to rank 0 after the handshake.
fn hello(port: u16) -> Vec<u8> {
    // The first connection of a true rank.
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
    let join = std::thread::spawn(move || {
        join(&Launch { timeout: Duration::from_secs(5), ..launch(1, 2, port) }, &identity()).map(drop)
    });
    let (mut stream, _) = listener.accept().expect("connects");
    Handshake::rendezvous(&RendezvousToken::default()).accept(&mut stream).expect("the same token");
    let frame = Frame::read(&mut stream, 1 << 20).expect("a frame");
    Frame::write(&mut stream, 9, b"").expect("writes");
    let error = join.join().expect("no panic").expect_err("no welcome");
    assert_eq!(error.kind(), ErrorKind::Peer, "{error}");
    let mut bytes = vec![];
    Frame::write(&mut bytes, frame.kind, &frame.payload).expect("writes to memory");
    bytes
}

#[test]
fn mutated_frames_cause_no_panic_and_end_no_group() {
    let _one = one_at_a_time();
    let all = if is_reliability_sweep() { 10_000 } else { 500 };
    let before = mutated_frames_to_rank_0(all);
    let mesh = mutated_frames_to_the_mesh(all);
    let fifth = all / 5;
    let with_token = mutated_frames_with_the_token(fifth);
    let replies = mutated_frames_to_a_visitor(fifth);
    eprintln!(
        "N5: {before} mutated frames to rank 0 and {mesh} to a rank's other port change nothing; {fifth} of processes with the token: exit \
         codes {with_token:?}; {fifth} replies of a hostile rank 0: exit codes {replies:?}"
    );
}

fn mutated_frames_to_rank_0(all: usize) -> usize {
    let hello = hello(free_port());
    let (port, mut mutations) = (free_port(), Mutations::new(7));
    let token = RendezvousToken::new(TOKEN);
    let place =
        |rank| Launch { token: token.clone(), timeout: Duration::from_secs(300), ..launch(rank, 2, port) };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| join(&place(0), &identity()).expect("meets"));
        drop(connect(port));
        for _ in 0..all {
            if let Ok(stranger) = Stranger::at(port) {
                stranger.send(&mutations.of(&hello));
            }
        }
        let second = join(&place(1), &identity()).expect("meets");
        let first = first.join().expect("no panic");
        let ends = scope.spawn(move || first.finish().expect("ends"));
        second.finish().expect("ends");
        ends.join().expect("no panic");
    });
    all
}

fn mutated_frames_to_the_mesh(all: usize) -> usize {
    let port = free_port();
    let mut greeting = vec![];
    Frame::write(&mut greeting, 33, &1u64.to_le_bytes()).expect("writes to memory");
    let place = |rank| Launch { timeout: Duration::from_secs(300), ..launch(rank, 2, port) };
    std::thread::scope(|scope| {
        let run = |collective: &TcpCollective| {
            let tensor = Tensor::from_slice(&[1.0f32, 2.0], [2]).expect("shape");
            collective.all_reduce(&tensor, fornax::engine::Reduction::Sum).expect("all ranks take part");
            assert_eq!(tensor.to_vec::<f32>().expect("f32"), [2.0, 4.0]);
        };
        let first = scope.spawn(move || {
            let group = join(&place(0), &identity()).expect("meets");
            let collective = TcpCollective::new(group.clone()).expect("connects");
            run(&collective);
            group.finish().expect("ends");
        });
        let group = join(&place(1), &identity()).expect("meets");
        let mut mutations = Mutations::new(11);
        let mut ports: Vec<u16> = listening_ports().into_iter().filter(|other| *other != port).collect();
        assert!(!ports.is_empty(), "rank 0 listens");
        let mut silent = vec![];
        for number in 0..all {
            let port = ports[number % ports.len()];
            match Stranger::at(port) {
                Ok(stranger) if number % 5 == 0 && silent.len() < 200 => silent.push(stranger),
                Ok(stranger) => drop(stranger.send(&mutations.of(&greeting))),
                // The port of this rank, which accepts nothing yet.
                Err(_) if ports.len() > 1 => ports.retain(|other| *other != port),
                Err(_) => {}
            }
        }
        let collective = TcpCollective::new(group.clone()).expect("connects");
        run(&collective);
        group.finish().expect("ends");
        first.join().expect("no panic");
    });
    all
}

/// Sends mutated frames to rank 0 of many groups as a process with the token: the exit codes of their errors with their numbers.
fn mutated_frames_with_the_token(all: usize) -> BTreeMap<u8, usize> {
    let hello = hello(free_port());
    let mut mutations = Mutations::new(17);
    let mut codes = BTreeMap::new();
    for number in 0..all {
        let port = free_port();
        let place = Launch { timeout: Duration::from_millis(150), ..launch(0, 2, port) };
        let rank = std::thread::spawn(move || match join(&place, &identity()) {
            Ok(group) => group.all_gather("a value", b"1").expect_err("rank 1 is lost"),
            Err(error) => error,
        });
        let mut stream = connect(port);
        let mut timed = Timed::new(&stream, Duration::from_secs(1));
        if Handshake::rendezvous(&RendezvousToken::default()).connect(&mut timed).is_ok() {
            // Before the group is complete, or after it.
            let bytes = if number % 2 == 0 { mutations.of(&hello) } else { hello.clone() };
            stream.write_all(&bytes).ok();
            stream.write_all(&mutations.of(&hello)).ok();
        }
        drop(stream);
        let error = rank.join().expect("no panic");
        let code = error.kind().exit_code();
        assert!(matches!(code, 2 | 8), "{error}");
        *codes.entry(code).or_default() += 1;
    }
    codes
}

/// Sends mutated replies to ranks; the exit codes of their errors with their numbers.
fn mutated_frames_to_a_visitor(all: usize) -> BTreeMap<u8, usize> {
    let mut mutations = Mutations::new(13);
    let mut codes = BTreeMap::new();
    let members = |count: usize| {
        let members = vec![r#"{"host":"a","address":null,"port":1}"#; count].join(",");
        format!(r#"{{"group":"g","members":[{members}]}}"#)
    };
    let mut welcome = vec![];
    Frame::write(&mut welcome, 2, members(2).as_bytes()).expect("writes to memory");
    // The values of an exchange, which follow.
    let mut values = vec![];
    let payload: Vec<u8> = [1u64, 0, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
    Frame::write(&mut values, 18, &payload).expect("writes to memory");
    for number in 0..all {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let bytes = match number {
            0..4 => {
                let mut bytes = vec![];
                let payload = [members(0), members(1), members(3), "{".into()][number].clone();
                Frame::write(&mut bytes, 2, payload.as_bytes()).expect("writes to memory");
                bytes
            }
            _ if number % 3 == 0 => [&welcome[..], &mutations.of(&values)].concat(),
            _ => mutations.of(&welcome),
        };
        let timeout = Duration::from_millis(if number < 4 { 20_000 } else { 150 });
        let place = Launch { timeout, ..launch(1, 2, port) };
        let visitor = std::thread::spawn(move || match join(&place, &identity()) {
            // Rank 0 is lost after an exchange or two.
            Ok(group) => (0..10).find_map(|_| group.barrier().err()).expect("rank 0 is lost"),
            Err(error) => error,
        });
        listener.set_nonblocking(true).expect("sets");
        while !visitor.is_finished() {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            stream.set_nonblocking(false).expect("sets");
            let mut timed = Timed::new(&stream, Duration::from_secs(1));
            // Some replies come instead of the handshake.
            if number % 8 != 7 {
                Handshake::rendezvous(&RendezvousToken::default()).accept(&mut timed).ok();
                Frame::read(&mut timed, 1 << 20).ok();
            }
            timed.write_all(&bytes).ok();
        }
        let error = visitor.join().expect("no panic");
        let code = error.kind().exit_code();
        assert!(matches!(code, 2 | 8), "{error}");
        assert!(number >= 4 || error.to_string().contains("the reply of rank 0 cannot be used"), "{error}");
        *codes.entry(code).or_default() += 1;
    }
    codes
}

#[test]
fn many_connections_during_training_leave_no_files_open() {
    let _one = one_at_a_time();
    let folder = folder();
    let port = free_port();
    let arguments = long_run("files", "--dist-timeout 30");
    let mut ranks = Ranks::start_with(folder.path(), "files", 2, |rank, _| {
        rank_with_token(folder.path(), &arguments, rank, port)
    });
    ranks.wait_for_updates(1);
    let count = |ranks: &Ranks| {
        std::fs::read_dir(format!("/proc/{}/fd", ranks.pid(0))).map_or(0, |files| files.count())
    };
    let before = count(&ranks);
    let strangers: Vec<_> = (0..100).filter_map(|_| Stranger::at(port).ok()).collect();
    let updates = ranks.updates();
    ranks.wait_for_updates(updates + 2);
    let after = count(&ranks);
    assert!(strangers.len() == 100 && after < before + 20, "{before} and {after} open files");
    ranks.signal(0, rustix::process::Signal::TERM);
    for rank in 0..2 {
        let code = ranks.wait(rank, Duration::from_secs(30)).code();
        assert_eq!(code, Some(143), "{}", ranks.text(rank, "err"));
    }
    assert!(state(folder.path(), "files").update >= 1);
}
