//! Process groups and collective operations over TCP, between threads.
#[path = "common/ranks.rs"]
mod ranks;

use fornax::distributed::{Identity, Job, Launch, ProcessGroup, TcpCollective, join};
use fornax::engine::dtype::bf16;
use fornax::engine::{Collective, Reduction, Tensor};
use fornax::error::ErrorKind;
use ranks::{free_port, identity, launch, on_ranks};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn collective(group: &Arc<ProcessGroup>) -> TcpCollective {
    TcpCollective::new(group.clone()).expect("connects")
}

/// Values of a rank, of different magnitudes.
fn values(rank: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((rank * 7919 + i * 104_729) % 1009) as f32 * 10f32.powi((i % 7) as i32 - 3)).collect()
}

#[test]
fn all_reduce_adds_in_the_order_of_ranks() {
    for world in [2, 3, 4] {
        // Below and above the limit of one exchange, several chunks, and fewer elements than ranks.
        for n in [1, 3, 1000, 50_001, 1_000_003] {
            let results = on_ranks(world, |group| {
                let tensor = Tensor::from_vec(values(group.rank(), n), [n]).expect("shape");
                let collective = collective(&group);
                collective.all_reduce(&tensor, Reduction::Sum).expect("reduces");
                group.finish().expect("ends");
                tensor.to_vec::<f32>().expect("f32")
            });
            let mut expected = values(0, n);
            for rank in 1..world {
                expected.iter_mut().zip(values(rank, n)).for_each(|(sum, value)| *sum += value);
            }
            assert!(results.iter().all(|result| *result == expected), "{world} ranks, {n} elements");
        }
    }
}

#[test]
fn operations_of_every_kind_run_in_order() {
    let results = on_ranks(3, |group| {
        let rank = group.rank();
        let collective = collective(&group);
        let counts = Tensor::from_slice(&[rank as i64 + 1, 10], [2]).expect("shape");
        let mean = Tensor::from_slice(&[bf16::from_f32(rank as f32)], [1]).expect("shape");
        let max = Tensor::from_slice(&[rank as f64, -1.0], [2]).expect("shape");
        let pending = [
            collective.start_all_reduce(&counts, Reduction::Sum).expect("starts"),
            collective.start_all_reduce(&mean, Reduction::Mean).expect("starts"),
            collective.start_all_reduce(&max, Reduction::Max).expect("starts"),
        ];
        pending.into_iter().for_each(|pending| pending.wait().expect("reduces"));
        let from_last = Tensor::from_slice(&[rank as f32; 4], [2, 2]).expect("shape");
        collective.broadcast(&from_last, 2).expect("broadcasts");
        let gathered = collective.all_gather(&Tensor::from_slice(&[rank as u8; 2], [2]).expect("shape"));
        let gathered = gathered.expect("gathers");
        collective.barrier().expect("meets");
        let texts = group.all_gather("texts", format!("rank {rank}").as_bytes()).expect("gathers");
        group.finish().expect("ends");
        (
            counts.to_vec::<i64>().expect("i64"),
            mean.to_vec::<bf16>().expect("bf16")[0].to_f32(),
            max.to_vec::<f64>().expect("f64"),
            from_last.to_vec::<f32>().expect("f32"),
            (gathered.dims().to_vec(), gathered.to_vec::<u8>().expect("u8")),
            texts,
        )
    });
    for (counts, mean, max, broadcast, gathered, texts) in results {
        assert_eq!((counts, mean, max), (vec![6, 30], 1.0, vec![2.0, -1.0]));
        assert_eq!((broadcast, gathered), (vec![2.0; 4], (vec![3, 2], vec![0, 0, 1, 1, 2, 2])));
        assert_eq!(texts, [b"rank 0", b"rank 1", b"rank 2"]);
    }
}

#[test]
fn different_operations_end_all_ranks_with_both_named() {
    let errors = on_ranks(2, |group| {
        let collective = collective(&group);
        let n = if group.rank() == 0 { 4 } else { 5 };
        let tensor = Tensor::from_vec(vec![1.0f32; n], [n]).expect("shape");
        let error = collective.all_reduce(&tensor, Reduction::Sum).expect_err("shapes differ");
        fornax::Error::from(error)
    });
    for error in errors {
        assert_eq!(error.kind().exit_code(), 8);
        let text = error.to_string();
        assert!(text.contains("all_reduce of 4 elements") && text.contains("5 elements"), "{text}");
    }
}

#[test]
fn lost_rank_ends_waiting_operations_and_is_named() {
    let started = Instant::now();
    let errors = on_ranks(3, |group| {
        let collective = collective(&group);
        group.barrier().expect("meets");
        if group.rank() == 2 {
            return None;
        }
        let tensor = Tensor::from_slice(&[1.0f32], [1]).expect("shape");
        let error = collective.all_reduce(&tensor, Reduction::Sum).expect_err("a rank is lost");
        assert!(group.barrier().is_err(), "the group has failed");
        Some(error.to_string())
    });
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for text in errors.into_iter().flatten() {
        assert!(text.contains("rank 2 on "), "{text}");
    }
}

#[test]
fn abort_reason_reaches_every_rank() {
    let errors = on_ranks(3, |group| {
        if group.rank() == 1 {
            group.abort("the disk is full");
        }
        group.barrier().expect_err("aborted").to_string()
    });
    for text in errors {
        assert!(text.contains("rank 1 on ") && text.contains("the disk is full"), "{text}");
    }
}

#[test]
fn rank_that_ends_after_an_exchange_leaves_the_others_their_values() {
    for _ in 0..200 {
        let results = on_ranks(3, |group| {
            let result = group.all_gather("a value", &[group.rank() as u8]);
            if group.rank() == 1 {
                group.abort("it needs no more");
            }
            result.map_err(|error| error.to_string())
        });
        for result in results {
            assert_eq!(result, Ok(vec![vec![0], vec![1], vec![2]]));
        }
    }
}

#[test]
fn missing_rank_is_named_after_the_timeout() {
    let port = free_port();
    let short = |rank| Launch { timeout: Duration::from_millis(2500), ..launch(rank, 3, port) };
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| join(&short(1), &identity()).expect_err("incomplete"));
        let first = join(&short(0), &identity()).expect_err("incomplete");
        (first, second.join().expect("no panic"))
    });
    assert_eq!((first.kind(), second.kind()), (ErrorKind::Peer, ErrorKind::Peer));
    assert!(first.to_string().contains("rank 2 did not connect within 2.5 s"), "{first}");
}

#[test]
fn busy_rank_is_waited_for_longer_than_the_timeout() {
    let port = free_port();
    let join_as = |rank| {
        let place = Launch { timeout: Duration::from_secs(2), ..launch(rank, 2, port) };
        join(&place, &identity()).expect("meets")
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let group = join_as(1);
            std::thread::sleep(group.timeout() * 3 / 2);
            group.barrier().expect("rank 0 waits");
        });
        let group = join_as(0);
        group.barrier().expect("rank 1 sends heartbeats");
        assert_eq!(group.operation_timeout(), group.timeout() * 5);
    });
}

#[test]
fn mismatches_end_all_ranks_at_once_with_the_difference() {
    let with = |key: &str, value: &str| {
        let settings = [(key.to_string(), value.into())].into_iter().collect();
        Identity { settings, ..identity() }
    };
    let other_program = Identity { program: "other".into(), ..identity() };
    let cases: [(Launch, Identity, &[&str]); 4] = [
        (launch(1, 2, 0), other_program, &["differ in the program", "SHA-256 other"]),
        (launch(1, 2, 0), with("lr", "0.2"), &["differ in their options", "--lr unset", "--lr \"0.2\""]),
        (launch(1, 4, 0), identity(), &["the number of processes", "rank 0", ": 2", ": 4"]),
        (launch(5, 2, 0), identity(), &["rank 5", "outside of a group of 2"]),
    ];
    for (other, program, expected) in cases {
        let port = free_port();
        let started = Instant::now();
        let errors = std::thread::scope(|scope| {
            let other = Launch { port, ..other };
            let second = scope.spawn(move || join(&other, &program).expect_err("rejected"));
            let first = join(&launch(0, 2, port), &identity()).expect_err("rejected");
            [first, second.join().expect("no panic")]
        });
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        for error in errors {
            assert_eq!(error.kind().exit_code(), 2);
            let text = error.to_string();
            expected.iter().for_each(|part| assert!(text.contains(part), "{part} is missing in {text}"));
        }
    }
}

#[test]
fn duplicate_rank_is_rejected() {
    let port = free_port();
    let errors = std::thread::scope(|scope| {
        let ranks: Vec<_> = [0, 1, 1]
            .into_iter()
            .map(|rank| scope.spawn(move || join(&launch(rank, 3, port), &identity()).expect_err("rejected")))
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic").to_string()).collect::<Vec<_>>()
    });
    for text in errors {
        assert!(text.contains("two processes have the same rank"), "{text}");
    }
}

#[test]
fn garbage_and_other_jobs_are_ignored_and_the_group_forms() {
    let port = free_port();
    std::thread::scope(|scope| {
        let first = scope.spawn(move || join(&launch(0, 2, port), &identity()).expect("meets"));
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
        let mut reply = vec![];
        stream.read_to_end(&mut reply).ok();
        assert!(reply.is_empty(), "{reply:?}");
        let job = Job { id: Some("another".into()), ..Job::default() };
        let stranger = Launch { job, ..launch(1, 2, port) };
        let error = join(&stranger, &identity()).expect_err("another job");
        assert!(error.to_string().contains("\"another\""), "{error}");
        let second = join(&launch(1, 2, port), &identity()).expect("meets");
        let first = first.join().expect("no panic");
        // A process that comes too late.
        let error = join(&launch(1, 2, port), &identity()).expect_err("too late").to_string();
        assert!(error.contains("runs already"), "{error}");
        let ends = scope.spawn(move || first.finish().expect("ends"));
        second.finish().expect("ends");
        ends.join().expect("no panic");
    });
}

/// Serves a connection of the key-value store of torchrun's agent, as PyTorch's `TCPStore` does.
fn serve_store(mut stream: TcpStream, keys: &Mutex<HashMap<String, Vec<u8>>>) -> std::io::Result<()> {
    let text = |stream: &mut TcpStream| -> std::io::Result<Vec<u8>> {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let key = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let mut kind = [0];
    while stream.read_exact(&mut kind).is_ok() {
        match kind[0] {
            0 => {
                let mut magic = [0; 4];
                stream.read_exact(&mut magic)?;
                assert_eq!(u32::from_le_bytes(magic), 0x3C85_F7CE);
            }
            1 => {
                let (name, value) = (key(text(&mut stream)?), text(&mut stream)?);
                keys.lock().expect("no panic").insert(name, value);
            }
            3 => {
                let name = key(text(&mut stream)?);
                let value = keys.lock().expect("no panic")[&name].clone();
                stream.write_all(&(value.len() as u64).to_le_bytes())?;
                stream.write_all(&value)?;
            }
            5 => {
                let mut count = [0; 8];
                stream.read_exact(&mut count)?;
                assert_eq!(u64::from_le_bytes(count), 1);
                let is_set = keys.lock().expect("no panic").contains_key(&key(text(&mut stream)?));
                stream.write_all(&[u8::from(!is_set)])?;
            }
            other => panic!("request {other}"),
        }
    }
    Ok(())
}

#[test]
fn ranks_meet_by_the_store_of_the_agent_of_torchrun() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let keys = Arc::new(Mutex::new(HashMap::new()));
        for stream in listener.incoming().flatten() {
            let keys = keys.clone();
            std::thread::spawn(move || serve_store(stream, &keys));
        }
    });
    let place = |rank| Launch { agent_store: true, ..launch(rank, 2, port) };
    std::thread::scope(|scope| {
        let second = scope.spawn(|| join(&place(1), &identity()).expect("meets").finish());
        // The other rank asks before the port is published.
        std::thread::sleep(Duration::from_millis(150));
        join(&place(0), &identity()).expect("meets").finish().expect("ends");
        second.join().expect("no panic").expect("ends");
    });
}
