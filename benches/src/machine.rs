//! Memory of this process, from `/proc`, and CPU times.
use rustix::time::{ClockId, clock_gettime};
use std::fs::read_to_string;

/// Peak resident memory of this process in bytes.
pub fn peak_memory() -> u64 {
    status("VmHWM:")
}

/// Resident memory of this process in bytes.
pub fn memory() -> u64 {
    status("VmRSS:")
}

/// Minor page faults of this process since it started.
pub fn page_faults() -> u64 {
    // Field 10. The name in field 2 may contain spaces and ends at the last parenthesis.
    let stat = read("/proc/self/stat");
    let after_name = stat.rsplit_once(')').expect("the process has a name").1;
    after_name.split_whitespace().nth(7).and_then(|field| field.parse().ok()).expect("minflt is a number")
}

/// CPU time in seconds of all processes of the machine since it started, summed over the CPUs.
pub fn busy_cpu_seconds() -> f64 {
    let stat = read("/proc/stat");
    let total = stat.lines().next().expect("the first line is the sum over CPUs");
    // user, nice and system, without idle, iowait and interrupts; Linux counts 100 ticks per second.
    total.split_whitespace().skip(1).take(3).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / 100.0
}

/// CPU time in seconds of this thread since it started.
pub fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn status(name: &str) -> u64 {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux reports this");
    let kib = line.trim().trim_end_matches("kB").trim();
    1024 * kib.parse::<u64>().expect("the amount is a number")
}

fn read(path: &str) -> String {
    read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_new_memory_raises_page_faults_and_peak() {
        let (faults, peak) = (page_faults(), peak_memory());
        let buffer = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(page_faults() > faults);
        assert!(peak_memory() >= peak + (32 << 20) || peak >= memory() + (32 << 20));
        drop(buffer);
    }

    #[test]
    fn cpu_times_are_positive() {
        assert!(busy_cpu_seconds() > 0.0 && thread_cpu_seconds() > 0.0);
    }
}
