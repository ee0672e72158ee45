//! Finds Debian's static libexpat.

use std::path::Path;

const DIRECTORY: &str = "/usr/lib/x86_64-linux-gnu";

fn main() {
    println!("cargo:rerun-if-changed={DIRECTORY}/libexpat.a");
    if !Path::new(DIRECTORY).join("libexpat.a").exists() {
        println!("cargo:warning={DIRECTORY}/libexpat.a is missing: install libexpat1-dev, or run testkit/setup.sh");
    }
    println!("cargo:rustc-link-search=native={DIRECTORY}");
    println!("cargo:rustc-link-lib=static=expat");
}
