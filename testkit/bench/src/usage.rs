//! What a process uses of the machine.

use std::fs;

use testkit_base::Error;

/// A process by its id.
#[derive(Debug, Clone, Copy)]
pub struct Usage(pub u32);

impl Usage {
    /// Processor time used so far, user and system, in seconds.
    pub fn processor_time(self) -> Result<f64, Error> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // Behind the name, which ends with the last parenthesis, follow fields 3 and on.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| -> Result<f64, Error> {
            let text = fields.get(field - 3).ok_or("/proc/PID/stat is short")?;
            Ok(text.parse::<f64>()?)
        };
        // USER_HZ is 100 on every Linux.
        Ok((ticks(14)? + ticks(15)?) / 100.0)
    }

    /// Resident memory in kB.
    pub fn memory(self) -> Result<u64, Error> {
        self.status("VmRSS:")
    }

    /// The most resident memory it ever had, in kB.
    pub fn highest_memory(self) -> Result<u64, Error> {
        self.status("VmHWM:")
    }

    fn status(self, field: &str) -> Result<u64, Error> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let text = line.ok_or_else(|| format!("/proc/PID/status has no {field}"))?;
        let kilobytes = text.split_whitespace().next().unwrap_or_default();
        Ok(kilobytes.parse()?)
    }
}
