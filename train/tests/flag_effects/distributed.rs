//! Cases of the flags of runs on several ranks.
use crate::case::{Case, assert_effects, check, tested};
use crate::common::{command, run, stderr, succeed};
use crate::ranks::free_port;
use std::collections::BTreeSet;

pub const CASES: &[Case] = &[
    check("sync_bn", batch_norm_and_exchange_change_the_weights),
    check("dist_bn", batch_norm_and_exchange_change_the_weights),
    check("ddp_compress", batch_norm_and_exchange_change_the_weights),
    tested("rank", "distributed.rs", "every_launcher_gives_the_same_run"),
    tested("world_size", "distributed.rs", "every_launcher_gives_the_same_run"),
    tested("master_addr", "distributed.rs", "every_launcher_gives_the_same_run"),
    tested("master_port", "distributed.rs", "every_launcher_gives_the_same_run"),
    tested(
        "rdzv_id",
        "rendezvous_jobs.rs",
        "job_whose_port_another_job_uses_ends_and_the_other_one_is_undisturbed",
    ),
    check("local_rank", local_rank_selects_the_device),
    check("dist_timeout", missing_rank_is_lost_after_the_timeout),
];

const TRAIN: &str = "train --train-num-samples 32 --val-num-samples 8 --batch-size 8 --epochs 1 --warmup-epochs 0 --progress none --print-hash";

/// Two ranks end with different states for each exchange of statistics and gradients.
fn batch_norm_and_exchange_change_the_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = ["", "--sync-bn", "--dist-bn broadcast", "--dist-bn none", "--ddp-compress bf16"];
    let hashes: BTreeSet<String> = all
        .iter()
        .enumerate()
        .map(|(i, flags)| {
            let line = format!("launch --nproc-per-node 2 {TRAIN} --output out/{i} {flags}");
            succeed(folder.path(), &line).lines().last().expect("a hash").into()
        })
        .collect();
    // Rank 0 has its own statistics by broadcast and by none.
    assert_eq!(hashes.len(), all.len() - 1, "{hashes:?}");
}

/// Rank 0 with local rank 1 has the second device.
fn local_rank_selects_the_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let rank = |rank: usize, local_rank: usize| {
        format!(
            "train --dry-run --device emulated:2 --rank {rank} --world-size 2 --local-rank {local_rank} \
             --master-addr 127.0.0.1 --master-port {port}"
        )
    };
    let mut peer = command(folder.path(), &rank(1, 0)).spawn().expect("starts");
    let plan = succeed(folder.path(), &rank(0, 1));
    assert!(peer.wait().expect("ends").success());
    assert!(plan.lines().any(|line| line.ends_with("on 2 ranks of cuda:1")), "{plan}");
}

fn missing_rank_is_lost_after_the_timeout() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let line = format!(
        "{TRAIN} --rank 0 --world-size 2 --master-addr 127.0.0.1 --master-port {port} --dist-timeout 1"
    );
    let started = std::time::Instant::now();
    let output = run(folder.path(), &line);
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    assert!(started.elapsed().as_secs() < 60, "the default timeout was used");
}

#[test]
fn flags_of_several_ranks_have_their_effects() {
    assert_effects(&CASES[2..]);
}
