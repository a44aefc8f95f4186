//! Ranks as processes of the built binary, on the small dataset.
use crate::common::command;
use crate::ranks::free_port;
use crate::small_dataset::write_small_dataset;
use fornax::checkpoint;
use fornax::trainer::TrainerState;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run of updates of 16 images over all ranks, two per epoch, with every kind of state.
#[allow(dead_code)]
const RUN: &str = "--dataset idx --data-dir small --model resnet8 --epochs 4 --warmup-epochs 1 --opt adamw --model-ema \
    --model-ema-decay 0.9 --recovery-interval 1 --log-interval 1 --progress plain --output out --threads 1 --workers 1";

/// Variables of launchers.
const VARIABLES: [&str; 9] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_PROCID",
    "PMI_RANK",
    "FORNAX_RENDEZVOUS_TOKEN",
    "FORNAX_RDZV_ID",
];

/// Arguments of a run of this name on `world` ranks.
#[allow(dead_code)]
pub fn train(name: &str, world: usize) -> String {
    format!("train {RUN} --batch-size {} --experiment {name}", 16 / world)
}

/// Folder with the small dataset.
#[allow(dead_code)]
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write_small_dataset(folder.path());
    folder
}

/// The last checkpoint of a run.
pub fn last_checkpoint(folder: &Path, name: &str) -> PathBuf {
    folder.join("out").join(name).join("checkpoints/last.safetensors")
}

/// State of the last checkpoint of a run.
#[allow(dead_code)]
pub fn state(folder: &Path, name: &str) -> TrainerState {
    checkpoint::read(&last_checkpoint(folder, name)).expect("loads").header.state
}

/// A command without a launcher's variables.
pub fn command_without_launcher(folder: &Path, arguments: &str) -> Command {
    let mut command = command(folder, arguments);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
}

/// A rank as torchrun starts it.
pub fn torchrun_rank(folder: &Path, arguments: &str, rank: usize, world: usize, port: u16) -> Command {
    let mut command = command_without_launcher(folder, arguments);
    for (name, value) in [("RANK", rank), ("WORLD_SIZE", world), ("LOCAL_RANK", rank)] {
        command.env(name, value.to_string());
    }
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command
}

/// Processes of a parent that run, by /proc, in the order of their ids.
#[cfg(target_os = "linux")]
#[allow(dead_code)]
pub fn children(parent: u32) -> Vec<u32> {
    let of_parent = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name: state, parent.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, of) = (fields.next()?, fields.next()?);
        (state != "Z" && of == parent.to_string()).then_some(pid)
    };
    let mut children: Vec<u32> =
        fs::read_dir("/proc").expect("lists").flatten().filter_map(of_parent).collect();
    children.sort_unstable();
    children
}

/// Processes of a run.
pub struct Ranks {
    children: Vec<Child>,
    folder: PathBuf,
    name: String,
}

impl Ranks {
    /// Starts the ranks of a run as torchrun does.
    #[allow(dead_code)]
    pub fn start(folder: &Path, name: &str, world: usize, arguments: impl Fn(usize) -> String) -> Ranks {
        let command = |rank, port| torchrun_rank(folder, &arguments(rank), rank, world, port);
        Ranks::start_with(folder, name, world, command)
    }

    /// Starts processes by their commands, which get a port.
    pub fn start_with(
        folder: &Path,
        name: &str,
        count: usize,
        command: impl Fn(usize, u16) -> Command,
    ) -> Ranks {
        let port = free_port();
        let file = |rank: usize, kind: &str| {
            File::create(folder.join(format!("{name}-{rank}.{kind}"))).expect("a file")
        };
        let start = |rank| {
            let mut command = command(rank, port);
            command.stdout(file(rank, "out")).stderr(file(rank, "err")).stdin(Stdio::null());
            command.spawn().expect("the binary starts")
        };
        Ranks { children: (0..count).map(start).collect(), folder: folder.into(), name: name.into() }
    }

    /// What a process has written to `out` or `err`.
    pub fn text(&self, rank: usize, kind: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{}-{rank}.{kind}", self.name))).expect("a file")
    }

    /// Waits until something is true of the run. A rank that ends meanwhile is a failure.
    #[allow(dead_code)]
    pub fn wait_until(&mut self, what: &str, is_true: impl Fn(&Ranks) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !is_true(self) {
            assert!(Instant::now() < deadline, "{what}: {}", self.text(0, "err"));
            let ended = self.children.iter_mut().any(|child| child.try_wait().expect("a child").is_some());
            let texts = || (0..self.children.len()).map(|r| self.text(r, "err")).collect::<String>();
            assert!(!ended, "a rank ended before {what}: {}", texts());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Number of updates that rank 0 has reported.
    #[allow(dead_code)]
    pub fn updates(&self) -> usize {
        self.text(0, "err").matches("  batch ").count()
    }

    /// Waits until rank 0 has reported this many updates.
    #[allow(dead_code)]
    pub fn wait_for_updates(&mut self, updates: usize) {
        self.wait_until(&format!("update {updates}"), |ranks| ranks.updates() >= updates);
    }

    /// Waits until a rank ends.
    pub fn wait(&mut self, rank: usize, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.children[rank].try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "rank {rank} still runs: {}", self.text(rank, "err"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Number of processes.
    #[allow(dead_code)]
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// True if a rank has ended.
    #[allow(dead_code)]
    pub fn has_ended(&mut self, rank: usize) -> bool {
        self.children[rank].try_wait().expect("a child").is_some()
    }

    /// Process id of a rank.
    #[allow(dead_code)]
    pub fn pid(&self, rank: usize) -> u32 {
        self.children[rank].id()
    }

    /// Sends a signal to a rank, unless it has ended.
    #[allow(dead_code)]
    pub fn signal(&self, rank: usize, signal: Signal) {
        let pid = Pid::from_raw(self.children[rank].id() as i32).expect("a process");
        let sent = kill_process(pid, signal);
        assert!(matches!(sent, Ok(()) | Err(Errno::SRCH)), "{sent:?}");
    }

    /// Waits for all ranks, which must succeed, and returns the last line of rank 0: its hash.
    #[allow(dead_code)]
    pub fn hash(mut self) -> String {
        for rank in 0..self.children.len() {
            let status = self.wait(rank, Duration::from_secs(120));
            assert!(status.success(), "rank {rank}: {}", self.text(rank, "err"));
            assert!(rank == 0 || self.text(rank, "out").is_empty(), "results of rank {rank}");
        }
        self.text(0, "out").lines().last().expect("a hash").to_string()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
