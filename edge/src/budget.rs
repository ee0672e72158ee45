//! What the edge may hold: bounds derived from the memory that the process may use, so that all of
//! them together leave room for code, the allocator and the kernel's socket buffers.
//!
//! Each bound is a part of the limit in thousandths; the parts add up to [`ALL`]. A bound that the
//! configuration gives stands in place of the derived one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use xmpp_federation_core::edge_config::Limits;
use xmpp_federation_core::edge_status::MemoryBounds;

/// Thousandths of the limit that all bounds together may use.
pub const ALL: u64 = 600;

const OUTBOUND_WAITING: u64 = 250;
const CONNECTIONS: u64 = 100;
const INCOMPLETE: u64 = 50;
const SENT: u64 = 40;
const LINKS: u64 = 80;
const ROUTES: u64 = 40;
const VERIFICATIONS: u64 = 20;
const CACHES: u64 = 20;

/// Bytes that an inbound connection needs beyond what it has begun: task, TLS session, queues.
const CONNECTION: u64 = 24 * 1024;
/// Bytes of a remote domain with a stream or an attempt to open one, with the little that it may
/// always send, but without its other stanzas.
const ROUTE: u64 = 24 * 1024;
/// Bytes of what is remembered of one remote domain: four facts, its addresses, that it could not be
/// asked, its failures and log lines.
const REMEMBERED: u64 = 4 * 1024;
/// Part of the caches that the DNS answers about partners, and those about strangers, each have.
const DNS: u64 = 8;
/// Bytes of a key under way: its names and its part of the stream that asks.
const VERIFICATION: u64 = 40 * 1024;

/// However much memory there is.
const MOST_CONNECTIONS: u64 = 10_000;
const MOST_ROUTES: u64 = 16_384;
const MOST_VERIFICATIONS: u64 = 1024;
/// Two clusters whose queues, windows and answers are full.
const MOST_LINKS: u64 = 128 * 1024 * 1024;
const MOST_REMEMBERED: u64 = 4096;
const MOST_DNS: u64 = 2 * 1024 * 1024;
/// However little there is: below this the edge would be of no use.
const FEWEST: u64 = 16;

/// The bounds in force, in bytes unless they count something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What the process may use.
    pub limit: MemoryLimit,
    /// Stanzas waiting for all remote domains together.
    pub outbound_waiting: usize,
    /// Inbound connections at once.
    pub connections: usize,
    /// Elements and TLS records that peers have begun and not ended, of all inbound connections.
    pub incomplete: usize,
    /// Stanzas that were sent to remote domains and may not have been read there.
    pub sent: usize,
    /// Stanzas waiting for all routers, and answers to them.
    pub links: usize,
    /// Remote domains with something waiting or a stream open.
    pub routes: usize,
    /// Keys being verified at once.
    pub verifications: usize,
    /// Remote domains of which something is remembered.
    pub remembered: usize,
    /// DNS answers about partners, and as much about strangers.
    pub dns: usize,
}

impl Budget {
    /// The bounds under this limit and configuration.
    pub fn new(limit: MemoryLimit, limits: &Limits) -> Self {
        let part = |thousandths: u64| limit.bytes / 1000 * thousandths;
        let count = |thousandths: u64, each: u64, most: u64| to_usize((part(thousandths) / each).clamp(FEWEST, most));
        Self {
            outbound_waiting: to_usize(part(OUTBOUND_WAITING)),
            connections: limits
                .max_connections
                .unwrap_or_else(|| count(CONNECTIONS, CONNECTION, MOST_CONNECTIONS)),
            incomplete: to_usize(part(INCOMPLETE)),
            sent: to_usize(part(SENT)),
            links: to_usize(part(LINKS).min(MOST_LINKS)),
            routes: count(ROUTES, ROUTE, MOST_ROUTES),
            verifications: limits
                .max_verifications
                .unwrap_or_else(|| count(VERIFICATIONS, VERIFICATION, MOST_VERIFICATIONS)),
            remembered: count(CACHES - 2 * CACHES / DNS, REMEMBERED, MOST_REMEMBERED),
            dns: to_usize((part(CACHES) / DNS).min(MOST_DNS)),
            limit,
        }
    }

    /// Each bound by name, in bytes.
    fn parts(&self) -> [(&'static str, u64); 8] {
        let bytes = |count: usize, each: u64| (count as u64).saturating_mul(each);
        [
            ("outboundWaiting", self.outbound_waiting as u64),
            ("connections", bytes(self.connections, CONNECTION)),
            ("incomplete", self.incomplete as u64),
            ("sent", self.sent as u64),
            ("links", self.links as u64),
            ("routes", bytes(self.routes, ROUTE)),
            ("verifications", bytes(self.verifications, VERIFICATION)),
            ("caches", bytes(self.remembered, REMEMBERED) + 2 * self.dns as u64),
        ]
    }

    /// What all bounds add up to, in bytes.
    pub fn sum(&self) -> u64 {
        let bytes = self.parts().into_iter().map(|(_, bytes)| bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// What deserves a warning: configured bounds that the memory does not carry.
    pub fn warning(&self) -> Option<String> {
        let most = self.limit.bytes / 1000 * ALL;
        (self.sum() > most).then(|| {
            format!(
                "the bounds need {} MiB, more than {} MiB ({} % of the memory limit, {}); lower limits.maxConnections or limits.maxVerifications, or raise the memory limit",
                mib(self.sum()),
                mib(most),
                ALL / 10,
                self.limit
            )
        })
    }

    /// For `/status`.
    pub fn status(&self) -> MemoryBounds {
        let named = self.parts().into_iter();
        MemoryBounds {
            limit_bytes: self.limit.bytes,
            limit_from: self.limit.source.clone(),
            sum_bytes: self.sum(),
            parts: named.map(|(name, bytes)| (name.to_owned(), bytes)).collect(),
            connections: self.connections as u64,
            routes: self.routes as u64,
            verifications: self.verifications as u64,
        }
    }
}

/// Of `most` bytes, those that one may have while all others together have `others`: twice what is
/// free then. The more of them have much, the less each of them gets, and the next one always gets
/// some (dynamic thresholds; Choudhury and Hahne, 1998).
pub fn fair(most: usize, others: usize) -> usize {
    most.saturating_sub(others) / 3 * 2
}

/// Bytes that many hold together.
#[derive(Debug, Default)]
pub struct Pool(AtomicUsize);

impl Pool {
    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one of many holds; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Pool>,
    bytes: usize,
}

impl Share {
    /// Holds nothing yet.
    pub fn new(of: Arc<Pool>) -> Self {
        Self { of, bytes: 0 }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that all others hold.
    pub fn others(&self) -> usize {
        self.of.held().saturating_sub(self.bytes)
    }

    /// It holds this much from now on.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.of.0.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.of.0.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

/// The memory that the process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// In bytes.
    pub bytes: u64,
    /// The file that says so.
    pub source: String,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB by {}", mib(self.bytes), self.source)
    }
}

/// Taken where the system tells nothing at all.
const UNKNOWN: u64 = 512 * 1024 * 1024;

impl MemoryLimit {
    /// The lowest limit of the process's control groups, or else the machine's memory.
    pub fn of_this_process() -> Self {
        Self::below(Path::new("/"))
    }

    /// The same with the system's files below another root.
    fn below(root: &Path) -> Self {
        let machine = machine_memory(root);
        let groups = groups(root).into_iter().filter_map(|file| {
            let text = std::fs::read_to_string(root.join(&file)).ok()?;
            // Version 2 writes "max" for no limit, version 1 a number beyond any machine.
            let bytes = text.trim().parse().ok().filter(|bytes| *bytes > 0)?;
            let source = Path::new("/").join(file).display().to_string();
            Some(Self { bytes, source })
        });
        let all = groups.chain(machine);
        all.min_by_key(|limit| limit.bytes).unwrap_or(Self {
            bytes: UNKNOWN,
            source: "assumption (no cgroup limit, and /proc/meminfo cannot be read)".to_owned(),
        })
    }
}

fn machine_memory(root: &Path) -> Option<MemoryLimit> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = rest.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(MemoryLimit {
        bytes: kilobytes * 1024,
        source: "/proc/meminfo".to_owned(),
    })
}

/// The files that may hold a limit, relative to the root: those of the process's groups and of all
/// groups around them, in both versions.
fn groups(root: &Path) -> Vec<PathBuf> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let (own, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut files = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        // Lines are `number:controllers:path`; version 2 has no controllers.
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let ours = if mount.unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|one| one == "memory")
            };
            ours.then_some(path)
        });
        let Some(path) = path else { continue };
        let name = if mount.unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        // In a container the path may be the host's, of which the mount shows a part or nothing:
        // the mount's own root is the container's group then.
        let inside = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(""));
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        let known = !path.split('/').any(|part| part == "..");
        let inside = if known { inside } else { Path::new("") };
        let point = Path::new(mount.point);
        let point = point.strip_prefix("/").unwrap_or(point);
        files.extend(inside.ancestors().map(|group| point.join(group).join(name)));
    }
    files
}

/// A mounted hierarchy that limits memory.
struct Mount<'a> {
    /// Version 2.
    unified: bool,
    /// The group that is seen at the mount point.
    root: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// A line of `/proc/self/mountinfo`, see proc(5); `None` if it is of no such hierarchy.
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut kind = after.split(' ');
        let unified = match kind.next()? {
            "cgroup2" => true,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Self { unified, root, point })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::fixture::Folder;
    use rstest::rstest;

    const MIB: u64 = 1024 * 1024;

    fn limit(bytes: u64) -> MemoryLimit {
        MemoryLimit {
            bytes,
            source: "test".to_owned(),
        }
    }

    #[rstest]
    #[case::tiny(32)]
    #[case::small(64)]
    #[case::ordinary(512)]
    #[case::big(4096)]
    #[case::machine(262_144)]
    fn derived_bounds_add_up_to_no_more_than_their_part_of_the_memory(#[case] mebibytes: u64) {
        let budget = Budget::new(limit(mebibytes * MIB), &Limits::default());
        assert!(budget.sum() <= mebibytes * MIB / 10 * 6, "{budget:?}");
        assert_eq!(budget.warning(), None);
        assert!(budget.connections >= 16 && budget.routes >= 16 && budget.verifications >= 16);
        let waiting = u64::try_from(budget.outbound_waiting).unwrap();
        assert!(waiting.abs_diff(mebibytes * MIB / 4) < 1000);
    }

    #[test]
    fn a_configured_bound_stands_in_place_of_the_derived_one_and_too_much_is_warned_of() {
        let limits = Limits {
            max_connections: Some(20_000),
            max_verifications: Some(7),
            ..Limits::default()
        };
        let budget = Budget::new(limit(512 * MIB), &limits);
        assert_eq!((budget.connections, budget.verifications), (20_000, 7));
        let warning = budget.warning().unwrap();
        assert!(warning.contains("limits.maxConnections"), "{warning}");
        let parts = budget.status().parts;
        assert_eq!(parts.values().sum::<u64>(), budget.sum());
        assert_eq!(parts["connections"], 20_000 * CONNECTION);
    }

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    /// As Docker mounts it without a namespace: only the container's own group is seen.
    const V1_OWN: &str = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    const UNLIMITED: &str = "9223372036854771712\n";

    #[rstest]
    #[case::v2_container(
        V2, "0::/\n",
        &[("sys/fs/cgroup/memory.max", "536870912\n")],
        512, "/sys/fs/cgroup/memory.max"
    )]
    #[case::v2_own_group(
        V2, "0::/system.slice/edge.service\n",
        &[("sys/fs/cgroup/system.slice/edge.service/memory.max", "268435456\n"),
          ("sys/fs/cgroup/system.slice/memory.max", "max\n")],
        256, "/sys/fs/cgroup/system.slice/edge.service/memory.max"
    )]
    #[case::v2_lower_around(
        V2, "0::/a/b\n",
        &[("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "134217728\n")],
        128, "/sys/fs/cgroup/a/memory.max"
    )]
    #[case::v2_path_of_the_host(
        V2, "0::/kubepods/pod1/c1\n",
        &[("sys/fs/cgroup/memory.max", "536870912\n")],
        512, "/sys/fs/cgroup/memory.max"
    )]
    #[case::v2_outside_the_namespace(
        V2, "0::/../../c1\n",
        &[("sys/fs/cgroup/memory.max", "536870912\n"), ("sys/memory.max", "1\n")],
        512, "/sys/fs/cgroup/memory.max"
    )]
    #[case::v2_no_limit(
        V2, "0::/\n", &[("sys/fs/cgroup/memory.max", "max\n")], 8192, "/proc/meminfo"
    )]
    #[case::v2_without_files(V2, "0::/\n", &[], 8192, "/proc/meminfo")]
    #[case::v1(
        V1, "4:memory:/process/x\n2:cpu:/\n0::/\n",
        &[("sys/fs/cgroup/memory/process/x/memory.limit_in_bytes", "536870912\n"),
          ("sys/fs/cgroup/memory/process/memory.limit_in_bytes", UNLIMITED),
          ("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED)],
        512, "/sys/fs/cgroup/memory/process/x/memory.limit_in_bytes"
    )]
    #[case::v1_no_limit(
        V1, "4:memory:/\n",
        &[("sys/fs/cgroup/memory/memory.limit_in_bytes", UNLIMITED)],
        8192, "/proc/meminfo"
    )]
    #[case::v1_of_the_container(
        V1_OWN, "4:memory,hugetlb:/docker/abc\n",
        &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")],
        512, "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    )]
    #[case::v1_of_the_container_seen_from_a_namespace(
        V1_OWN, "4:memory:/\n",
        &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")],
        512, "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    )]
    #[case::more_than_the_machine_has(
        V2, "0::/\n", &[("sys/fs/cgroup/memory.max", "99999999999999\n")], 8192, "/proc/meminfo"
    )]
    #[case::nothing_mounted("", "", &[], 8192, "/proc/meminfo")]
    #[case::nonsense(
        "x\n - \n", "x\n:\n", &[("sys/fs/cgroup/memory.max", "lots\n")], 8192, "/proc/meminfo"
    )]
    fn the_lowest_limit_counts_in_both_versions(
        #[case] mounts: &str,
        #[case] own: &str,
        #[case] files: &[(&str, &str)],
        #[case] mebibytes: u64,
        #[case] source: &str,
    ) {
        let root = Folder::new();
        let write = |path: &str, text: &str| root.write(path, text);
        write("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
        write("proc/self/mountinfo", mounts);
        write("proc/self/cgroup", own);
        for (path, text) in files {
            write(path, text);
        }
        let found = MemoryLimit::below(root.path());
        assert_eq!((found.bytes / MIB, found.source.as_str()), (mebibytes, source));
    }

    #[test]
    fn a_system_that_tells_nothing_has_an_assumed_limit() {
        let limit = MemoryLimit::below(Folder::new().path());
        assert_eq!(limit.bytes, UNKNOWN);
        assert!(limit.to_string().contains("no cgroup limit"), "{limit}");
    }
}
