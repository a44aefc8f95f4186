//! Description of the machine.
use fornax_engine::cpu::simd;
use serde::Serialize;
use std::fs;

/// Machine and software versions, for `env.json` and `fornax doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Version of Fornax.
    pub fornax: &'static str,
    /// Host name.
    pub host: String,
    /// Operating system and architecture.
    pub platform: String,
    /// Model name of the CPU; on aarch64 its implementer and part, in Arm's numbers.
    pub cpu: String,
    /// Widest SIMD instruction set that kernels use.
    pub simd: String,
    /// Number of CPU threads.
    pub threads: usize,
    /// Main memory in bytes.
    pub memory: u64,
}

impl Machine {
    /// Detects this machine.
    pub fn detect() -> Machine {
        let unknown = || "unknown".to_string();
        Machine {
            fornax: env!("CARGO_PKG_VERSION"),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name().unwrap_or_else(unknown),
            simd: format!("{:?}", simd::level()).to_lowercase(),
            threads: rayon::current_num_threads(),
            memory: total_memory(),
        }
    }
}

/// Main memory in bytes; 0 if unknown.
pub fn total_memory() -> u64 {
    field("/proc/meminfo", "MemTotal").as_deref().and_then(kibibytes).unwrap_or(0)
}

/// Main memory in bytes that new allocations can use without swapping; 0 if unknown.
pub fn available_memory() -> u64 {
    field("/proc/meminfo", "MemAvailable").as_deref().and_then(kibibytes).unwrap_or(0)
}

fn cpu_name() -> Option<String> {
    let field = |name| field("/proc/cpuinfo", name);
    field("model name")
        .or_else(|| Some(format!("implementer {}, part {}", field("CPU implementer")?, field("CPU part")?)))
}

/// Resident memory of this process in bytes; 0 if unknown.
pub fn resident_memory() -> u64 {
    field("/proc/self/status", "VmRSS").as_deref().and_then(kibibytes).unwrap_or(0)
}

/// The value of the first `name: value` line of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?.1;
    Some(value.trim().to_string())
}

/// Parses `"123 kB"` into bytes.
fn kibibytes(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kibibytes_are_converted_to_bytes() {
        assert_eq!(kibibytes("2 kB"), Some(2048));
        assert_eq!(kibibytes("?"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_and_threads_are_detected() {
        let machine = Machine::detect();
        assert!(machine.memory > 1 << 24 && machine.threads > 0, "{machine:?}");
        assert!((1 << 20..machine.memory).contains(&resident_memory()));
        assert!((1 << 20..machine.memory).contains(&available_memory()));
    }
}
