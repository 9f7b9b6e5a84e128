//! `report.md`: the tables as GitHub shows them.

use crate::report::Report;
use crate::report_tables::tables;

pub(crate) fn render(report: &Report<'_>) -> String {
    let mut text = format!("# {}\n", one_line(report.title));
    for table in tables(report) {
        text.push_str(&format!("\n## {}\n\n", one_line(&table.title)));
        if !table.note.is_empty() {
            text.push_str(&format!("{}\n\n", one_line(&table.note)));
        }
        text.push_str(&row(&table.header));
        let rules: Vec<String> =
            (0..table.header.len()).map(|at| if at == 0 { "---" } else { "--:" }.to_owned()).collect();
        text.push_str(&format!("| {} |\n", rules.join(" | ")));
        table.rows.iter().for_each(|cells| text.push_str(&row(cells)));
    }
    text
}

fn row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Names come from files: nothing in them may end a cell, or be taken for markup.
fn one_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => safe.push(' '),
            '|' | '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' if letter != '_' || safe.is_empty() => {
                safe.push('\\');
                safe.push(letter);
            }
            _ => safe.push(letter),
        }
    }
    safe
}
