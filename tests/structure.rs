//! Top-level modules of a crate do not import each other in a circle. Code of tests does not count.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

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
        file.read(&["a".to_owned(), "b".to_owned()], text);
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
                .read(&module, &text);
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
    fn read(&mut self, module: &[String], text: &str) {
        self.stream(module, text.parse().unwrap());
    }

    fn stream(&mut self, module: &[String], tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match (token, tokens.get(at + 1), tokens.get(at + 2)) {
                (TokenTree::Punct(sign), Some(TokenTree::Group(attribute)), _) if sign.as_char() == '#' => {
                    let text = attribute.stream().to_string();
                    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
                    at += 2;
                    if words[0] == "cfg" && words.contains(&"test") && !words.contains(&"not") {
                        at = self.skip_item(module, &tokens, at);
                    }
                    continue;
                }
                (TokenTree::Ident(word), Some(TokenTree::Ident(name)), Some(TokenTree::Group(body)))
                    if word == "mod" =>
                {
                    let inner: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
                    self.stream(&inner, body.stream());
                    at += 3;
                    continue;
                }
                (TokenTree::Ident(word), ..) if word == "use" => {
                    at = self.tree(module, &[], &tokens, at + 1);
                    continue;
                }
                (TokenTree::Ident(word), ..)
                    if ["crate", "super", "self"].iter().any(|root| word == root) && goes_on(&tokens, at + 1) =>
                {
                    at = self.tree(module, &[], &tokens, at);
                    continue;
                }
                (TokenTree::Group(group), ..) => self.stream(module, group.stream()),
                _ => {}
            }
            at += 1;
        }
    }

    /// One path or tree of paths; returns where it ends.
    fn tree(&mut self, module: &[String], prefix: &[String], tokens: &[TokenTree], mut at: usize) -> usize {
        let mut path = prefix.to_vec();
        loop {
            match tokens.get(at) {
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut next = 0;
                    while next < inside.len() {
                        next = self.tree(module, &path, &inside, next);
                        next += usize::from(is_sign(inside.get(next), ','));
                    }
                    return at + 1;
                }
                Some(TokenTree::Ident(word)) => path.push(word.to_string()),
                _ => {
                    // A glob or generic arguments.
                    self.note(module, &path, "");
                    return at + 1;
                }
            }
            at += 1;
            if goes_on(tokens, at) {
                at += 2;
                continue;
            }
            if let (Some(TokenTree::Ident(word)), Some(name)) = (tokens.get(at), tokens.get(at + 1))
                && word == "as"
            {
                self.note(module, &path, &name.to_string());
                return at + 2;
            }
            let name = path.last().cloned().unwrap_or_default();
            self.note(module, &path, &name);
            return at;
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
    fn skip_item(&mut self, module: &[String], tokens: &[TokenTree], mut at: usize) -> usize {
        let mut is_use = false;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Ident(word) if word == "use" => is_use = true,
                TokenTree::Ident(word) if word == "mod" => {
                    let name = tokens.get(at).map(ToString::to_string);
                    self.test_modules.push(module.iter().cloned().chain(name).collect());
                }
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !is_use => return at,
                token if is_sign(Some(token), ';') => return at,
                _ => {}
            }
        }
        at
    }
}

fn is_sign(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

/// Whether `::` stands there.
fn goes_on(tokens: &[TokenTree], at: usize) -> bool {
    is_sign(tokens.get(at), ':') && is_sign(tokens.get(at + 1), ':')
}
