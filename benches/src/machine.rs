//! What the system says about this process and the machine, from `/proc`.
use std::fs::read_to_string;

/// The most memory that this process has held at once, in bytes.
pub fn peak_memory() -> u64 {
    status("VmHWM:")
}

/// The memory that this process holds, in bytes.
pub fn memory() -> u64 {
    status("VmRSS:")
}

/// Pages that this process has touched for the first time since it began.
pub fn page_faults() -> u64 {
    // Field 10; the name in field 2 may hold spaces, and ends with the last parenthesis.
    let stat = read("/proc/self/stat");
    let after_name = stat.rsplit_once(')').expect("the process has a name").1;
    after_name.split_whitespace().nth(7).and_then(|field| field.parse().ok()).expect("minflt is a number")
}

/// Seconds that all processors have been busy since the machine began.
pub fn busy_seconds() -> f64 {
    let stat = read("/proc/stat");
    let total = stat.lines().next().expect("the first line is the sum over processors");
    // user, nice, system; idle and waiting are left out, so are interrupts; 100 ticks a second on every Linux of interest.
    total.split_whitespace().skip(1).take(3).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / 100.0
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
    fn touching_memory_raises_faults_and_peak() {
        let (faults, peak) = (page_faults(), peak_memory());
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(page_faults() > faults);
        assert!(peak_memory() >= peak + (32 << 20) || peak >= memory() + (32 << 20));
        drop(block);
    }

    #[test]
    fn the_machine_has_been_busy() {
        assert!(busy_seconds() > 0.0);
    }
}
