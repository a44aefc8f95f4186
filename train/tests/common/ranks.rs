//! Ranks as threads of the test process.
use fornax::distributed::{Identity, Job, Launch, ProcessGroup, RendezvousToken, join};
use serde_json::Map;
use std::sync::Arc;
use std::time::Duration;

/// A free TCP port.
#[allow(dead_code)]
pub fn free_port() -> u16 {
    fornax::distributed::free_port().expect("a port")
}

/// Place of a rank in a group of threads.
pub fn launch(rank: usize, world_size: usize, port: u16) -> Launch {
    Launch {
        rank,
        world_size,
        local_rank: rank,
        local_world_size: None,
        address: "127.0.0.1".into(),
        port,
        launcher: "test",
        job: Job::default(),
        token: RendezvousToken::default(),
        agent_store: false,
        timeout: Duration::from_secs(20),
    }
}

/// Program and options of a rank of a test.
pub fn identity() -> Identity {
    Identity { program: "test".into(), settings: Map::new() }
}

/// Runs `f` on every rank of a group, and returns the results by rank.
#[allow(dead_code)]
pub fn on_ranks<R: Send>(world: usize, f: impl Fn(Arc<ProcessGroup>) -> R + Sync) -> Vec<R> {
    let port = free_port();
    let f = &f;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| scope.spawn(move || f(join(&launch(rank, world, port), &identity()).expect("meets"))))
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}
