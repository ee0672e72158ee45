//! The page of hostile input names tests that exist.

use std::path::Path;

const PAGE: &str = include_str!("../../../../docs/reference/hostile-input.md");

#[test]
fn every_row_of_the_page_of_hostile_input_names_tests_that_exist() {
    let edge = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    let mut rows = 0;
    for row in PAGE.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = row.trim_matches(['|', ' ']).rsplit(" | ");
        let (tests, outcome) = (cells.next().unwrap(), cells.next().unwrap());
        if tests == "Tests" {
            continue;
        }
        rows += 1;
        for test in tests.split(", ") {
            let name = test.trim_matches('`');
            let (file, function) = name.split_once("::").unwrap_or((name, ""));
            let file = match file.split('/').next() {
                Some("src" | "tests") => edge.join(file),
                Some("xml") => edge.join("..").join(file),
                _ => edge.join("tests/it").join(file),
            };
            let text = std::fs::read_to_string(file.with_extension("rs")).unwrap_or_default();
            if !text.contains(&format!("fn {function}(")) {
                missing.push(format!("{name} ({outcome})"));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    assert!(rows > 70, "{rows} rows");
}
