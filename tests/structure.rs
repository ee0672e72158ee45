//! Top-level modules of a crate do not import each other in a circle. Code of tests does not count.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The operator's largest part counts as a crate does.
const CONTROLLER: &str = "src/controller";

/// Modules that import each other in a circle, by the folder that they are in. The list may only become shorter.
const CIRCLES: &[(&str, &str)] = &[
    // One state machine over several files: a node's router, its users, and the cluster that both are in.
    ("testkit/simulator/src", "cluster router users"),
    // One state machine over three files.
    ("xml/src", "prolog scanner tag"),
];

#[test]
fn modules_import_each_other_in_no_other_circle_than_the_listed_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = || sources(root).into_iter().chain([CONTROLLER.to_owned()]);
    let mut problems = Vec::new();
    for (folder, _) in CIRCLES {
        if !folders().any(|known| known == *folder) {
            problems.push(format!("{folder} does not exist: take it off the list"));
        }
    }
    for folder in folders() {
        let graph = match folder.strip_prefix("src/") {
            Some(part) => Graph::read(&root.join("src"), &[part.to_owned()]),
            None => Graph::read(&root.join(&folder), &[]),
        };
        let listed: BTreeSet<&str> = CIRCLES
            .iter()
            .filter(|(listed, _)| *listed == folder)
            .flat_map(|(_, modules)| modules.split_whitespace())
            .collect();
        let found = graph.in_circles();
        for module in &found {
            if !listed.contains(module.as_str()) {
                let imports = graph.imports_within(module, &found);
                problems.push(format!("{folder}: {module} is in a circle: it imports {imports}"));
            }
        }
        for module in listed {
            if !found.contains(module) {
                problems.push(format!("{folder}: {module} is in no circle: take it off the list"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn paths_of_every_form_count_and_those_of_tests_do_not() {
    let imports = |text: &str| {
        let mut file = File::default();
        file.read(&["a".to_owned(), "b".to_owned()], &tokens(text));
        file.paths.into_iter().map(|path| path.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(imports("use crate::{c, d::{e, f as g}};"), ["c", "d::e", "d::f"]);
    assert_eq!(
        imports("use super::super::c::D; use super::e; use self::f;"),
        ["a::b::f", "a::e", "c::D"]
    );
    assert_eq!(imports("fn f<'a>(x: &'a crate::c::D) -> char { '{' }"), ["c::D"]);
    assert_eq!(imports("mod inner { use super::super::c; }"), ["a::c"]);
    assert_eq!(
        imports("// crate::c\n/* crate::d */ const A: &str = r#\"crate::e \" crate::f\"#;"),
        [""; 0]
    );
    assert_eq!(imports("#[cfg(test)] mod tests { use crate::c; } use crate::d;"), ["d"]);
    assert_eq!(
        imports("#[cfg(test)] #[allow(x)] use crate::{c, e}; use crate::d;"),
        ["d"]
    );
    assert_eq!(imports("#[cfg(not(test))] use crate::c;"), ["c"]);
}

/// The folders with the code of the workspace's crates.
fn sources(root: &Path) -> Vec<String> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    let members = members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| format!("{member}/src"));
    std::iter::once("src".to_owned()).chain(members).collect()
}

/// Which module imports which, by the names of those right below one module.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read(src: &Path, parent: &[String]) -> Self {
        let mut files = Vec::new();
        collect(src, &mut Vec::new(), &mut files);
        let mut read = BTreeMap::new();
        for (module, text) in files {
            read.entry(module.clone())
                .or_insert_with(File::default)
                .read(&module, &tokens(&text));
        }
        let of_tests: BTreeSet<Vec<String>> = read.values().flat_map(|file| file.test_modules.clone()).collect();
        let child = |path: &[String]| path.strip_prefix(parent)?.first().cloned();
        let modules: BTreeSet<String> = read.keys().filter_map(|module| child(module)).collect();
        // What the parent names anew stands for the module it comes from.
        let named_anew: BTreeMap<String, String> = read
            .get(parent)
            .into_iter()
            .flat_map(|file| &file.names)
            .filter_map(|(name, path)| Some((name.clone(), path.iter().find(|word| *word != "crate")?.clone())))
            .collect();
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, file) in read {
            let Some(own) = child(&module) else { continue };
            if (1..=module.len()).any(|length| of_tests.contains(&module[..length])) {
                continue;
            }
            let imports = graph.entry(own.clone()).or_default();
            for name in file.paths.iter().filter_map(|path| child(path)) {
                let module = named_anew.get(&name).cloned().unwrap_or(name);
                if module != own && modules.contains(&module) {
                    imports.insert(module);
                }
            }
        }
        Self(graph)
    }

    fn in_circles(&self) -> BTreeSet<String> {
        let circular = |module: &&String| self.reached_from(module).contains(*module);
        self.0.keys().filter(circular).cloned().collect()
    }

    fn reached_from<'a>(&'a self, module: &'a str) -> BTreeSet<&'a String> {
        let mut reached = BTreeSet::new();
        let mut open = vec![module];
        while let Some(next) = open.pop() {
            let new = self.0.get(next).into_iter().flatten();
            open.extend(new.filter(|module| reached.insert(*module)).map(String::as_str));
        }
        reached
    }

    fn imports_within(&self, module: &str, modules: &BTreeSet<String>) -> String {
        let imports: Vec<&str> = self.0[module].intersection(modules).map(String::as_str).collect();
        imports.join(", ")
    }
}

/// All files with their modules; programs beside the crate's own (`bin`) are left out.
fn collect(folder: &Path, module: &mut Vec<String>, files: &mut Vec<(Vec<String>, String)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if name != "bin" {
                module.push(name);
                collect(&path, module, files);
                module.pop();
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            let own = (name != "mod" && name != "lib").then_some(name);
            let module = module.iter().cloned().chain(own).collect();
            files.push((module, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What a file says of modules.
#[derive(Default)]
struct File {
    /// Paths from the crate's root.
    paths: BTreeSet<Vec<String>>,
    /// Names of the imports, with what they stand for as it is written.
    names: Vec<(String, Vec<String>)>,
    /// Modules of tests that are files.
    test_modules: Vec<Vec<String>>,
}

impl File {
    fn read(&mut self, module: &[String], tokens: &[String]) {
        let mut module = module.to_vec();
        // Inline modules and the depth of their braces.
        let mut inline = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1).map_or("", String::as_str);
            match token.as_str() {
                "#" if next == "[" => {
                    let end = closing(tokens, at + 1);
                    let attribute = &tokens[at + 2..end];
                    let has = |word: &str| attribute.iter().any(|token| token == word);
                    at = end + 1;
                    if attribute.first().is_some_and(|word| word == "cfg") && has("test") && !has("not") {
                        at = self.skip_item(&module, tokens, at);
                    }
                    continue;
                }
                "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => {
                    inline.push(depth);
                    module.push(next.to_owned());
                }
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if inline.last() == Some(&depth) {
                        inline.pop();
                        module.pop();
                    }
                }
                "use" => {
                    at = self.tree(&module, &[], tokens, at + 1);
                    continue;
                }
                "crate" | "super" | "self" if next == "::" => {
                    at = self.tree(&module, &[], tokens, at);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// One path or tree of paths; returns where it ends.
    fn tree(&mut self, module: &[String], prefix: &[String], tokens: &[String], mut at: usize) -> usize {
        let mut path = prefix.to_vec();
        loop {
            let token = tokens.get(at).map_or("", String::as_str);
            if token == "{" {
                let end = closing(tokens, at);
                at += 1;
                while at < end {
                    at = self.tree(module, &path, tokens, at);
                    at += usize::from(tokens[at] == ",");
                }
                return end + 1;
            }
            if !is_word(token) {
                // A glob or generic arguments.
                self.note(module, &path, "");
                return at + 1;
            }
            path.push(token.to_owned());
            at += 1;
            match tokens.get(at).map_or("", String::as_str) {
                "::" => at += 1,
                "as" => {
                    self.note(module, &path, &tokens[at + 1]);
                    return at + 2;
                }
                _ => {
                    self.note(module, &path, token);
                    return at;
                }
            }
        }
    }

    fn note(&mut self, module: &[String], path: &[String], name: &str) {
        self.names.push((name.to_owned(), path.to_vec()));
        let mut base = module.to_vec();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("super" | "self") => {}
            _ => return,
        }
        while let Some((first, others)) = rest.split_first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            rest = others;
        }
        base.extend(rest.iter().cloned());
        self.paths.insert(base);
    }

    /// Passes over an item of tests.
    fn skip_item(&mut self, module: &[String], tokens: &[String], mut at: usize) -> usize {
        let mut is_use = false;
        while let Some(token) = tokens.get(at) {
            match token.as_str() {
                "use" => is_use = true,
                "mod" => {
                    let mut path = module.to_vec();
                    path.extend(tokens.get(at + 1).cloned());
                    self.test_modules.push(path);
                }
                ";" => return at + 1,
                "{" if !is_use => return closing(tokens, at) + 1,
                "{" | "(" | "[" => at = closing(tokens, at),
                _ => {}
            }
            at += 1;
        }
        at
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Where the bracket at `open` is closed.
fn closing(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket is open at the end of the file");
}

/// Words, `::` and single signs; without comments, and with literals as empty words.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").unwrap() + 2
        } else if let Some(raw) = raw_string(rest) {
            raw
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else if is_word(rest) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let end = end.unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(rest[..length].to_owned());
            }
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let start = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let body = start.trim_start_matches('#');
    let hashes = start.len() - body.len();
    let body = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let closed = body.find(&end)? + end.len();
    Some(text.len() - body.len() + closed)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character; of a lifetime only its sign.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
