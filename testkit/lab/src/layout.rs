//! Names and paths of one lab. Everything a lab leaves on the machine is named after it.

use std::path::{Path, PathBuf};

use super::cluster::Node;
use testkit_base::Error;

/// Unix socket paths end at 107 bytes; the longest one below a lab folder (a partner's) needs 33 of them.
const MAX_DIR: usize = 74;

/// One lab's name and where its parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    name: String,
    dir: PathBuf,
}

impl Layout {
    /// Checks the name (at most 20 of `a-z`, `0-9`) and the folder (absolute, short enough for Unix sockets).
    pub fn new(name: &str, dir: Option<&Path>) -> Result<Self, Error> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if name.is_empty() || name.len() > 20 || !name.chars().all(fits) {
            return Err(
                format!("the lab name {name:?} is not usable: take up to 20 lower-case letters and digits").into(),
            );
        }
        let dir = match dir {
            Some(dir) => std::path::absolute(dir)?,
            None => usual_dir(&repository(), name),
        };
        let length = dir.as_os_str().len();
        if length > MAX_DIR {
            return Err(format!(
                "the lab folder {} has a path of {length} bytes, and Unix sockets below it need it to be at most \
                 {MAX_DIR}: choose a shorter one with --dir",
                dir.display()
            )
            .into());
        }
        Ok(Self {
            name: name.to_owned(),
            dir,
        })
    }

    /// The lab's name, without prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's folder: everything it writes, removed with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name of the root namespace, the cgroup and the run folder: `xf-NAME`.
    pub fn tag(&self) -> String {
        format!("xf-{}", self.name)
    }

    /// Name of a host's network namespace: `xf-NAME-HOST`. Lab names have no dash, so no lab owns another one's hosts.
    pub fn host_namespace(&self, host: &str) -> String {
        format!("xf-{}-{host}", self.name)
    }

    /// Whether a network namespace's name belongs to this lab.
    pub fn owns_namespace(&self, namespace: &str) -> bool {
        namespace
            .strip_prefix(&self.tag())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Short folder for sockets, on a temporary file system: `/run/xf-NAME`.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run").join(self.tag())
    }

    /// Says which folder the lab of this name lives in, so that two checkouts do not share one.
    pub fn owner_file(&self) -> PathBuf {
        self.run_dir().join("owner")
    }

    /// Says which checkout started the lab, for its `make clean-lab`.
    pub fn checkout_file(&self) -> PathBuf {
        self.run_dir().join("checkout")
    }

    /// Records of the lab's processes.
    pub fn processes_dir(&self) -> PathBuf {
        self.dir.join("processes")
    }

    /// Folder of all logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs_dir().join(format!("{process}.log"))
    }

    /// Certificates, keys and configurations of Kubernetes.
    pub fn kubernetes_dir(&self) -> PathBuf {
        self.dir.join("kubernetes")
    }

    /// kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubernetes_dir().join("admin.kubeconfig")
    }

    /// The API server's audit log, one event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// The folder a node's `/var/lib` and `/var/log` are in.
    pub fn node_dir(&self, node: &Node) -> PathBuf {
        self.dir.join(node.name)
    }

    /// A node's `/run`.
    pub fn node_run_dir(&self, node: &Node) -> PathBuf {
        self.run_dir().join(node.name)
    }

    /// containerd's socket of a node, as seen from the machine.
    pub fn containerd_socket(&self, node: &Node) -> PathBuf {
        self.node_run_dir(node).join("containerd/containerd.sock")
    }
}

/// `target/lab/NAME`, or a folder with a shorter path for a checkout that is very deep.
fn usual_dir(repository: &Path, name: &str) -> PathBuf {
    let dir = repository.join("target/lab").join(name);
    if dir.as_os_str().len() <= MAX_DIR {
        dir
    } else {
        Path::new("/var/tmp").join(format!("xf-{name}"))
    }
}

/// Path of the repository this testkit was built from.
pub fn repository() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = crate_dir.ancestors().nth(2).unwrap_or(crate_dir);
    here.canonicalize().unwrap_or_else(|_| here.to_path_buf())
}

/// A lab's name of this checkout's own, for tests: those of another checkout may run at the same time.
pub fn name_here(prefix: &str) -> String {
    let path = env!("CARGO_MANIFEST_DIR");
    let hash = path.bytes().fold(0xcbf2_9ce4_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    format!("{prefix}{hash:08x}")
}

/// Folder of the tools that set-up builds: `kube`, `helm`, `kubectl`, `pause`. `TESTKIT_TOOLS` overrides it.
pub fn tools_dir() -> PathBuf {
    std::env::var_os("TESTKIT_TOOLS").map_or_else(|| repository().join("target/lab-bin"), PathBuf::from)
}

/// Path of a tool, or a sentence telling how to build it.
pub fn tool(name: &str) -> Result<PathBuf, Error> {
    let path = tools_dir().join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing: run `make setup` first", path.display()).into())
    }
}

/// A binary of the workspace: where cargo puts them, beside this program or one folder up when a test asks.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let this = std::env::current_exe()?;
    let mut found = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    found.find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "the binary {name} is not beside {}: run `cargo build --workspace --bins` first",
            this.display()
        )
        .into()
    })
}

/// Folder of the images that `testkit lab images` builds. `TESTKIT_IMAGES` overrides it.
pub fn images_dir() -> PathBuf {
    std::env::var_os("TESTKIT_IMAGES").map_or_else(|| repository().join("target/images"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[rstest::rstest]
    #[case::empty("")]
    #[case::upper("Demo")]
    #[case::dot("a.b")]
    #[case::slash("../x")]
    #[case::dash("demo-2")]
    #[case::long("anameofmorethantwenty")]
    fn a_name_that_could_not_name_a_namespace_is_refused(#[case] name: &str) {
        assert!(Layout::new(name, None).is_err());
    }

    #[test]
    fn a_lab_does_not_own_namespaces_of_a_lab_with_a_longer_name() {
        let lab = Layout::new("demo", Some(Path::new("/x"))).unwrap();
        assert!(lab.owns_namespace("xf-demo"));
        assert!(lab.owns_namespace("xf-demo-dns"));
        assert!(!lab.owns_namespace("xf-demo2"));
        assert!(!lab.owns_namespace("xf-demo2-dns"));
    }

    #[test]
    fn a_deep_checkout_has_its_labs_elsewhere() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(60)));
        assert_eq!(usual_dir(&deep, "demo"), Path::new("/var/tmp/xf-demo"));
        assert_eq!(usual_dir(Path::new("/src"), "demo"), Path::new("/src/target/lab/demo"));
    }

    #[test]
    fn a_folder_too_deep_for_unix_sockets_is_refused_with_the_limit() {
        let deep = format!("/{}", "d".repeat(90));
        let error = Layout::new("demo", Some(Path::new(&deep))).unwrap_err().to_string();
        assert!(error.contains("at most 74"), "{error}");
    }
}
