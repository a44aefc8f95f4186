//! Jobs on one machine: two that start at once do not mix, whatever their launcher, ports and options; and the addresses at which ranks meet.
//! `FORNAX_TEST_SWEEP=reliability` starts 100 pairs.
mod common;
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/small_dataset.rs"]
mod small_dataset;
#[path = "common/sweep.rs"]
mod sweep;

use fornax::distributed::{Job, Launch, TcpCollective, join};
use fornax::error::ErrorKind;
use processes::{Ranks, command_without_launcher, folder, train};
use ranks::{free_port, identity, launch};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use sweep::is_reliability_sweep;

/// Variables of a rank of a job.
type Variables = Vec<(&'static str, String)>;

/// Variables of Open MPI: the namespace is the job.
fn open_mpi(namespace: &str, rank: usize) -> Variables {
    vec![
        ("OMPI_COMM_WORLD_RANK", rank.to_string()),
        ("OMPI_COMM_WORLD_SIZE", "2".into()),
        ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
        ("PMIX_NAMESPACE", namespace.into()),
    ]
}

/// Variables of a step of a Slurm job.
fn slurm(job: &str, step: &str, rank: usize) -> Variables {
    vec![
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_NTASKS", "2".into()),
        ("SLURM_LOCALID", rank.to_string()),
        ("SLURM_NODELIST", "127.0.0.1".into()),
        ("SLURM_JOB_ID", job.into()),
        ("SLURM_STEP_ID", step.into()),
    ]
}

/// A rank of `train` with a launcher's variables.
fn rank(folder: &Path, arguments: &str, variables: Variables) -> Command {
    let mut command = command_without_launcher(folder, arguments);
    command.envs(variables);
    command
}

/// A run of one epoch.
fn short(name: &str) -> String {
    train(name, 2).replace("--epochs 4 --warmup-epochs 1", "--epochs 1 --warmup-epochs 0")
}

/// A number that no other test of this machine uses at the same time.
fn unique(number: usize) -> String {
    format!("{}{number}", std::process::id())
}

/// The processes of job 0 or 1 of a pair, which are started by Open MPI, as steps of a common Slurm job, or by `fornax launch`.
fn start(folder: &Path, pair: usize, job: usize, arguments: &str) -> Ranks {
    let name = format!("job-{pair}-{job}");
    if pair % 3 == 2 {
        let launch = format!("launch --nproc-per-node 2 {arguments}");
        return Ranks::start_with(folder, &name, 1, |_, _| command_without_launcher(folder, &launch));
    }
    Ranks::start_with(folder, &name, 2, |process, _| {
        // Rank 1 of one job starts before rank 0.
        let of_rank = if job == pair % 2 { 1 - process } else { process };
        let variables = match pair % 3 {
            0 => open_mpi(&format!("prterun-{}@{job}", unique(pair)), of_rank),
            _ => slurm(&unique(pair), &job.to_string(), of_rank),
        };
        rank(folder, arguments, variables)
    })
}

#[test]
fn jobs_of_one_machine_that_start_at_once_do_not_mix() {
    let folder = folder();
    let options = ["--lr 0.1", "--lr 0.2"];
    let arguments =
        |name: &str, job: usize| format!("{} --print-hash --dist-timeout 60 {}", short(name), options[job]);
    let expected = [0, 1].map(|job| {
        let name = format!("expected-{job}");
        Ranks::start(folder.path(), &name, 2, |_| arguments(&name, job)).hash()
    });
    assert_ne!(expected[0], expected[1]);
    let (pairs, started) = (if is_reliability_sweep() { 100 } else { 6 }, Instant::now());
    for pair in 0..pairs {
        let mut jobs =
            [0, 1].map(|job| start(folder.path(), pair, job, &arguments(&format!("job-{pair}-{job}"), job)));
        for (job, ranks) in jobs.iter_mut().enumerate() {
            let mut hashes = String::new();
            for process in 0..ranks.len() {
                let status = ranks.wait(process, Duration::from_secs(120));
                assert!(status.success(), "pair {pair}, job {job}: {}", ranks.text(process, "err"));
                hashes += &ranks.text(process, "out");
            }
            assert_eq!(hashes.lines().last(), Some(&*expected[job]), "pair {pair}, job {job}");
        }
    }
    eprintln!(
        "N2: {pairs} pairs of jobs start at once, each job has the result of the job alone, {} s",
        started.elapsed().as_secs()
    );
}

#[test]
fn job_whose_port_another_job_uses_ends_and_the_other_one_is_undisturbed() {
    let folder = folder();
    let port = free_port();
    let command = |name: &str, options: &str, place: usize| {
        let flags = format!("--rank {place} --world-size 2 --master-addr 127.0.0.1 --master-port {port}");
        rank(folder.path(), &format!("{} --dist-timeout 60 {flags} {options}", short(name)), vec![])
    };
    // Without ids, the folders of the runs tell them apart.
    for (number, options) in ["", "--lr 0.3", "--rdzv-id b", "--output elsewhere"].into_iter().enumerate() {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        let b = if options == "--output elsewhere" { a.clone() } else { b };
        let mut first =
            Ranks::start_with(folder.path(), &format!("first-{number}"), 1, |_, _| command(&a, "", 0));
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "{}", first.text(0, "err"));
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut other = Ranks::start_with(folder.path(), &format!("other-{number}"), 2, |place, _| {
            command(&b, options, place)
        });
        for place in 0..2 {
            let code = other.wait(place, Duration::from_secs(60)).code();
            assert_eq!(code, Some(2), "{options}: {}", other.text(place, "err"));
        }
        let text = other.text(1, "err");
        assert!(text.contains("rank 0 belongs to another job") && text.contains("--rdzv-id"), "{text}");
        assert!(!text.contains("--lr 0.3"), "{text}");
        let mut second =
            Ranks::start_with(folder.path(), &format!("second-{number}"), 1, |_, _| command(&a, "", 1));
        assert!(second.wait(0, Duration::from_secs(60)).success(), "{}", second.text(0, "err"));
        assert!(first.wait(0, Duration::from_secs(60)).success(), "{}", first.text(0, "err"));
        assert!(first.text(0, "err").contains("it belongs to another job"), "{}", first.text(0, "err"));
    }
}

#[test]
fn output_folders_may_differ_in_a_job_with_an_id() {
    let folder = folder();
    let mut ranks = Ranks::start_with(folder.path(), "local", 2, |place, port| {
        let run = short("local").replace("--output out", "");
        let place_flags =
            format!("--rank {place} --world-size 2 --master-addr 127.0.0.1 --master-port {port}");
        let flags = format!("--rdzv-id sweep-7 --output scratch{place} {place_flags}");
        rank(folder.path(), &format!("{run} {flags}"), vec![])
    });
    for place in 0..2 {
        assert!(ranks.wait(place, Duration::from_secs(60)).success(), "{}", ranks.text(place, "err"));
    }
    assert!(folder.path().join("scratch0/local").exists() && !folder.path().join("scratch1").exists());
}

/// Two ranks meet at an address and exchange a tensor's elements.
fn meet_at(address: &str) {
    let port = free_port();
    let place = |rank| Launch { address: address.into(), ..launch(rank, 3, port) };
    std::thread::scope(|scope| {
        let ranks = [2, 1, 0].map(|rank| {
            scope.spawn(move || {
                let group = join(&place(rank), &identity()).unwrap_or_else(|e| panic!("{address}: {e}"));
                let collective =
                    TcpCollective::new(group.clone()).unwrap_or_else(|e| panic!("{address}: {e}"));
                fornax::engine::Collective::barrier(&collective).expect("all ranks take part");
                group.finish().expect("ends");
            })
        });
        ranks.into_iter().for_each(|rank| rank.join().expect("no panic"));
    });
}

#[test]
fn ranks_meet_at_every_kind_of_address() {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut addresses = vec!["127.0.0.1", "127.0.1.1", "localhost"];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        addresses.extend(["::1", "[::1]"]);
    }
    if std::net::ToSocketAddrs::to_socket_addrs(&(&*host, 1)).is_ok() {
        addresses.push(&host);
    }
    addresses.into_iter().for_each(meet_at);
}

#[test]
fn group_of_a_restart_waits_for_its_own_rank_0() {
    let port = free_port();
    let place = |rank, restarts, seconds| {
        let job = Job { id: Some("elastic".into()), restarts, ..Job::default() };
        Launch { job, timeout: Duration::from_secs(seconds), ..launch(rank, 2, port) }
    };
    std::thread::scope(|scope| {
        // Rank 0 of the earlier start is about to end.
        let earlier = scope.spawn(|| join(&place(0, 0, 2), &identity()).expect_err("incomplete"));
        std::thread::sleep(Duration::from_millis(300));
        let second = scope.spawn(|| join(&place(1, 1, 30), &identity()).expect("meets"));
        assert_eq!(earlier.join().expect("no panic").kind(), ErrorKind::Peer);
        let first = join(&place(0, 1, 30), &identity()).expect("meets");
        let second = second.join().expect("no panic");
        let ends = scope.spawn(move || first.finish().expect("ends"));
        second.finish().expect("ends");
        ends.join().expect("no panic");
    });
}

#[test]
fn unreachable_rank_0_is_reported_early() {
    let folder = folder();
    let port = free_port();
    for (address, warning) in [
        ("no-such-host.invalid", "its name cannot be resolved"),
        ("127.0.0.1", "is this machine, and nothing listens there"),
    ] {
        let flags =
            format!("--rank 1 --world-size 2 --master-addr {address} --master-port {port} --dist-timeout 6");
        let output = rank(folder.path(), &format!("{} {flags}", train("late", 2)), vec![]).output();
        let output = output.expect("the binary starts");
        let text = common::stderr(&output);
        assert_eq!(output.status.code(), Some(8), "{text}");
        assert_eq!(text.matches(warning).count() + text.matches("Connection refused").count(), 2, "{text}");
        assert_eq!(text.matches("warning: rank 1 has not reached rank 0").count(), 1, "{text}");
    }
    // Rank 0 itself.
    let flags = format!(
        "--rank 0 --world-size 2 --master-addr no-such-host.invalid --master-port {port} --dist-timeout 1"
    );
    let output = rank(folder.path(), &format!("{} {flags}", train("late", 2)), vec![]).output();
    let text = common::stderr(&output.expect("the binary starts"));
    assert!(text.contains("cannot be resolved on its own machine"), "{text}");
    // It listens on all addresses, without a token.
    assert_eq!(text.matches("is not authenticated").count(), 1, "{text}");
}
