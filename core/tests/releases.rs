//! An operator and an edge of different releases, by the files and answers of each release in `fixtures`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use xmpp_federation_core::edge_status::{EdgeStatus, LinkState, StateWord};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(release: &str, file: &str) -> String {
    let path = fixtures().join(release).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; copy the folder of the release before, and add what is new",
            path.display()
        )
    })
}

#[test]
fn the_status_of_a_later_edge_is_read_and_its_words_are_kept() {
    let status: EdgeStatus = serde_json::from_str(&fixture("later", "status.json")).unwrap();
    let words: Vec<_> = status.links.iter().map(|link| link.state.to_string()).collect();
    assert_eq!(words, ["Up", "Hibernating"]);
    assert_eq!(status.links[0].state, LinkState::Up);
    assert_eq!(status.links[1].state, StateWord::Later("Hibernating".to_owned()));
    assert_eq!(status.links[1].reason.as_deref(), Some("the node sleeps"));
    assert_eq!(status.refused.peers["posture"], 3);
}
