//! The table: a row for each figure, a column for each server, and the goal beside them.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One figure of one server, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Several measurements of the same.
    Values(Vec<f64>),
    /// Not measured: the reason in a few words.
    None(String),
}

impl Figure {
    /// The median.
    pub fn median(&self) -> Option<f64> {
        let Self::Values(values) = self else {
            return None;
        };
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it shows.
    pub name: String,
    /// Unit.
    pub unit: &'static str,
    /// The goal for the edge, or nothing.
    pub goal: Cow<'static, str>,
    /// A figure for each server, in the order of the columns.
    pub figures: Vec<Figure>,
}

/// Whether a figure that there should be is missing.
pub fn incomplete(rows: &[Row]) -> bool {
    let mut figures = rows.iter().flat_map(|row| &row.figures);
    figures.any(|figure| match figure {
        Figure::Values(values) => values.is_empty(),
        // Without a reason it is not meant to be there.
        Figure::None(reason) => !reason.is_empty(),
    })
}

/// The table as text, aligned, with bars as in Markdown.
pub fn table(columns: &[String], rows: &[Row]) -> String {
    let mut cells: Vec<Vec<String>> = vec![
        ["figure", "unit", "goal"]
            .map(str::to_owned)
            .into_iter()
            .chain(columns.iter().cloned())
            .collect(),
    ];
    let mut notes = Vec::new();
    for row in rows {
        let mut line = vec![row.name.clone(), row.unit.to_owned(), row.goal.to_string()];
        for (figure, column) in row.figures.iter().zip(columns) {
            line.push(match (figure, figure.median()) {
                (_, Some(median)) => number(median),
                (Figure::None(reason), None) => {
                    let note = format!("no figure for {column}: {reason}");
                    if !reason.is_empty() && !notes.contains(&note) {
                        notes.push(note);
                    }
                    "–".to_owned()
                }
                (Figure::Values(_), None) => "–".to_owned(),
            });
        }
        cells.push(line);
    }
    let widths: Vec<usize> = (0..columns.len() + 3)
        .map(|i| {
            let width = |line: &Vec<String>| line.get(i).map_or(0, |cell| cell.chars().count());
            cells.iter().map(width).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for (n, line) in cells.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            // Writing into a String does not fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if n == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

/// The same for programs: an object for each figure, with a value or the reason why there is none by column.
pub fn json(columns: &[String], rows: &[Row]) -> Value {
    let of = |row: &Row| {
        let values = row.figures.iter().zip(columns).map(|(figure, column)| {
            let value = match figure {
                Figure::None(reason) => json!(reason),
                Figure::Values(_) => json!(figure.median()),
            };
            (column.clone(), value)
        });
        json!({"figure": row.name, "unit": row.unit, "goal": row.goal, "values": values.collect::<serde_json::Map<_, _>>()})
    };
    rows.iter().map(of).collect()
}

/// Three digits that count.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_medians_and_a_note_says_why_one_is_missing() {
        let row = Row {
            name: "flow".to_owned(),
            unit: "k/s",
            goal: "≥ 5".into(),
            figures: vec![Figure::Values(vec![3.0, 1.0, 2.0]), Figure::None("it ended".to_owned())],
        };
        assert!(incomplete(std::slice::from_ref(&row)));
        let columns = ["a".to_owned(), "b".to_owned()];
        let rows = json(&columns, std::slice::from_ref(&row));
        assert_eq!(rows[0]["values"], json!({"a": 2.0, "b": "it ended"}));
        let text = table(&columns, &[row]);
        assert!(text.contains("| flow   | k/s  | ≥ 5  | 2.00 | – |"), "{text}");
        assert!(text.contains("no figure for b: it ended"), "{text}");
    }
}
