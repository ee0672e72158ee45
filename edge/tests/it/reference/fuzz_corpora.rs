//! Every kept input of the fuzz targets (`fuzz/corpus`), played on what the targets do with it.

use std::path::Path;

#[path = "../../../../fuzz/src/bodies/mod.rs"]
mod bodies;

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

#[test]
fn the_kept_inputs_find_nothing() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let folders = std::fs::read_dir(&corpora).unwrap();
    let names: Vec<_> = folders.map(|folder| folder.unwrap().file_name()).collect();
    for name in names {
        let known = bodies::TARGETS.iter().any(|(target, _)| *target == name);
        assert!(known, "there is no target {}", name.display());
    }
    for (target, run) in bodies::TARGETS {
        let mut inputs: Vec<_> = std::fs::read_dir(corpora.join(target))
            .unwrap_or_else(|error| panic!("{target} has no inputs: {error}"))
            .map(|input| input.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{target} has no inputs");
        for input in inputs {
            // The last line before a panic names it.
            println!("{target}: {}", input.display());
            run(&std::fs::read(&input).unwrap());
        }
    }
}
