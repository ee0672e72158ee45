//! A configuration with real files in a folder of its own, for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "edge-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A self-signed certificate and its key, PEM.
pub(crate) fn certificate(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// The text of a configuration whose files are in this folder.
pub(crate) fn yaml(folder: &Path) -> String {
    let here = folder.display();
    format!(
        "\
domains:
- coluc.com
dialback:
  sign: {here}/dialback
tls:
  certificates:
  - certificateFile: {here}/tls.crt
    privateKeyFile: {here}/tls.key
privacy:
  mode: AllowList
  domains: [vngtp.lab]
routers:
- name: main
  componentIds: [cm-2_s2scp-1.eft-xwye-a-coluc-com]
  secretFile: {here}/router
  endpoints: []
"
    )
}

/// Writes a good configuration; its file is `edge.yaml`.
pub(crate) fn good() -> Folder {
    let folder = Folder::new();
    let (chain, key) = certificate(&["coluc.com"]);
    folder.write("tls.crt", &chain);
    folder.write("tls.key", &key);
    folder.write("dialback", "0123456789abcdef0123456789abcdef\n");
    folder.write("router", "router-secret\n");
    folder.write("edge.yaml", &yaml(folder.path()));
    folder
}
