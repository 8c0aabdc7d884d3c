//! How much memory a daemon takes.

/// The resident memory of one process, watched for its peak.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pid: u32,
    before: u64,
}

impl Memory {
    /// From now on: the peak that the kernel keeps is set back to what is resident now.
    ///
    /// # Panics
    /// There is no such process, or it is another user's.
    pub fn watch(pid: u32) -> Self {
        // 5 is "the peak of resident memory" (proc_pid_clear_refs(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our daemon's peak can be set back");
        Self {
            pid,
            before: line(pid, "VmRSS:"),
        }
    }

    /// By how many KiB the peak since then exceeds what was resident at the beginning.
    pub fn growth_kib(&self) -> u64 {
        line(self.pid, "VmHWM:").saturating_sub(self.before)
    }

    /// KiB at the beginning.
    pub fn before_kib(&self) -> u64 {
        self.before
    }
}

fn line(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .expect("the kernel says how much");
    let number = line.split_whitespace().next().and_then(|text| text.parse().ok());
    number.expect("a number of KiB")
}
