//! Files of a test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder that goes when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("edge-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// With what an edge for coluc.com needs, and its configuration in `edge.yaml`.
    pub fn of_edge(more: &str) -> Self {
        let folder = Self::new();
        let made = rcgen::generate_simple_self_signed(vec!["coluc.com".to_owned()]).unwrap();
        folder.write("tls.crt", &made.cert.pem());
        folder.write("tls.key", &made.signing_key.serialize_pem());
        folder.write("dialback", "0123456789abcdef0123456789abcdef");
        folder.write("router", "router-secret");
        folder.configure(more);
        folder
    }

    /// Writes `edge.yaml`: YAML at the top level, in which `HERE` is the folder, behind what every edge here has.
    pub fn configure(&self, more: &str) {
        let yaml = "\
domains: [coluc.com]
dialback: {sign: HERE/dialback}
tls:
  certificates: [{certificateFile: HERE/tls.crt, privateKeyFile: HERE/tls.key}]
drainDelay: 0s
";
        let yaml = format!("{yaml}{more}").replace("HERE", &self.0.display().to_string());
        self.write("edge.yaml", &yaml);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
