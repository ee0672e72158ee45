//! Words of sentences.

/// `a`, `a and b`, `a, b and c`.
pub fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    let Some(last) = names.pop() else {
        return "no node".to_owned();
    };
    if names.is_empty() {
        last.to_owned()
    } else {
        format!("{} and {last}", names.join(", "))
    }
}
