//! The fuzz targets of the edge.

pub mod bodies;

/// A runtime whose clock goes on when nothing else is to do: no input has to wait.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true);
    builder.build().expect("a runtime")
}
