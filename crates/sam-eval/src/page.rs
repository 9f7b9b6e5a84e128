//! A page that needs nothing but itself, and the same in Markdown: tables, charts, pictures and texts under headings.
//!
//! What is shown is a pure function of what is given, so a page of the same numbers is the same file. Names come from files:
//! nothing in them may become markup.

use crate::chart::escape;
use crate::error::EvalError;

const STYLE: &str = include_str!("report.css");

/// All that is shown.
#[derive(Clone, Debug)]
pub struct Page {
    /// The heading.
    pub title: String,
    /// In order of reading.
    pub sections: Vec<Section>,
}

/// Something under a heading.
#[derive(Clone, Debug)]
pub enum Section {
    /// Rows of cells.
    Table(Table),
    /// Charts side by side, as [`crate::chart`] draws them; Markdown leaves them out.
    Charts {
        /// The heading.
        title: String,
        /// SVG, ready to be set.
        charts: Vec<String>,
    },
    /// Pictures side by side; Markdown leaves them out.
    Gallery(Gallery),
    /// Large pictures, one below the other; Markdown leaves them out.
    Pictures(Gallery),
    /// A text as it is, folded away.
    Text {
        /// What one sees of it.
        title: String,
        /// Its lines.
        text: String,
    },
}

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    /// The heading.
    pub title: String,
    /// A sentence under the heading; may be empty.
    pub note: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// The first cell names the row.
    pub rows: Vec<Vec<String>>,
}

/// Pictures under a heading.
#[derive(Clone, Debug)]
pub struct Gallery {
    /// Such as "Worst at click 1".
    pub title: String,
    /// In order.
    pub items: Vec<GalleryItem>,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct GalleryItem {
    /// Below it.
    pub caption: String,
    /// "data:image/png;base64,..": the page carries it.
    pub data_uri: String,
}

impl Page {
    /// One file with everything in it.
    ///
    /// # Errors
    ///
    /// When a picture is not inline.
    pub fn html(&self) -> Result<String, EvalError> {
        self.check()?;
        let sections: Vec<String> = self.sections.iter().map(section_html).collect();
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head>\n\
             <body><main><h1>{title}</h1>\n{}</main></body></html>\n",
            sections.concat(),
            title = escape(&self.title)
        ))
    }

    /// Tables and texts, as GitHub shows them.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", one_line(&self.title));
        for section in &self.sections {
            match section {
                Section::Table(table) => push_table(&mut text, table),
                Section::Text { title, text: inner } => push_text(&mut text, title, inner),
                Section::Charts { .. } | Section::Gallery(_) | Section::Pictures(_) => {}
            }
        }
        text
    }

    fn check(&self) -> Result<(), EvalError> {
        let items = self.sections.iter().flat_map(|section| match section {
            Section::Gallery(gallery) | Section::Pictures(gallery) => gallery.items.as_slice(),
            Section::Table(_) | Section::Charts { .. } | Section::Text { .. } => &[],
        });
        match items.map(|item| &item.data_uri).find(|uri| !is_inline_picture(uri)) {
            Some(uri) => Err(EvalError::Option {
                key: "data_uri",
                expected: "an inline picture (data:image/png;base64,..)".to_owned(),
                got: uri.chars().take(40).collect(),
            }),
            None => Ok(()),
        }
    }
}

fn is_inline_picture(uri: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let content =
        ["png", "jpeg", "webp"].iter().find_map(|kind| uri.strip_prefix(&format!("data:image/{kind};base64,")));
    content.is_some_and(|content| !content.is_empty() && content.bytes().all(is_base64))
}

fn section_html(section: &Section) -> String {
    match section {
        Section::Table(table) => table_html(table),
        Section::Charts { title, charts } => {
            format!("<section><h2>{}</h2><div class=\"charts\">{}</div></section>\n", escape(title), charts.concat())
        }
        Section::Gallery(gallery) => pictures_html(gallery, "gallery"),
        Section::Pictures(gallery) => pictures_html(gallery, "pictures"),
        Section::Text { title, text } => format!(
            "<section><details><summary>{}</summary><pre>{}</pre></details></section>\n",
            escape(title),
            text.lines().map(escape).collect::<Vec<_>>().join("\n")
        ),
    }
}

fn table_html(table: &Table) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        let cell = |cell: &String| format!("<{tag}>{}</{tag}>", escape(cell));
        format!("<tr{}>{}</tr>\n", row_class(cells), cells.iter().map(cell).collect::<String>())
    };
    let note = if table.note.is_empty() { String::new() } else { format!("<p>{}</p>", escape(&table.note)) };
    format!(
        "<section><h2>{}</h2>{note}<div class=\"wide\"><table><thead>{}</thead><tbody>{}</tbody></table></div></section>\n",
        escape(&table.title),
        cells("th", &table.header),
        table.rows.iter().map(|row| cells("td", row)).collect::<String>()
    )
}

/// A missed bound is to be seen.
fn row_class(cells: &[String]) -> &'static str {
    match cells.get(1).map(String::as_str) {
        Some("MISSED") => " class=\"missed\"",
        _ => "",
    }
}

fn pictures_html(gallery: &Gallery, class: &str) -> String {
    let item = |item: &GalleryItem| {
        let caption = escape(&item.caption);
        format!(
            "<figure><img src=\"{}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>\n",
            item.data_uri
        )
    };
    let items: String = gallery.items.iter().map(item).collect();
    format!("<section><h2>{}</h2><div class=\"{class}\">{items}</div></section>\n", escape(&gallery.title))
}

fn push_table(text: &mut String, table: &Table) {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    text.push_str(&format!("\n## {}\n\n", one_line(&table.title)));
    if !table.note.is_empty() {
        text.push_str(&format!("{}\n\n", one_line(&table.note)));
    }
    text.push_str(&row(&table.header));
    let rules: Vec<String> = (0..table.header.len()).map(|at| if at == 0 { "---" } else { "--:" }.to_owned()).collect();
    text.push_str(&format!("| {} |\n", rules.join(" | ")));
    table.rows.iter().for_each(|cells| text.push_str(&row(cells)));
}

/// As code, behind a fence that no line of it can close.
fn push_text(text: &mut String, title: &str, inner: &str) {
    let ticks = |line: &str| line.trim_start().chars().take_while(|&letter| letter == '`').count();
    let longest = inner.lines().map(ticks).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    text.push_str(&format!("\n## {}\n\n{fence}\n{}\n{fence}\n", one_line(title), inner.trim_end()));
}

/// Nothing in a name may end a cell, or be taken for markup.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        let table = Table {
            title: "Numbers".to_owned(),
            note: String::new(),
            header: vec!["name".to_owned(), "value".to_owned()],
            rows: vec![vec![text.to_owned(), "1".to_owned()]],
        };
        let sections = vec![Section::Table(table), Section::Text { title: "Plan".to_owned(), text: text.to_owned() }];
        Page { title: text.to_owned(), sections }
    }

    #[test]
    fn nothing_in_a_name_becomes_markup() {
        let html = page("a <script>\"x\"</script> | b").html().expect("fine");
        assert!(!html.contains("<script") && html.matches("&lt;script&gt;").count() == 4, "{html}");
        let markdown = page("a | b\n```\nc").markdown();
        assert!(markdown.contains("| a \\| b \\`\\`\\` c | 1 |"), "{markdown}");
        // The text is fenced by more than it holds.
        assert!(markdown.contains("````\na | b\n```\nc\n````\n"), "{markdown}");
        let lines = page("one\ntwo").html().expect("fine");
        assert!(lines.contains("<pre>one\ntwo</pre>"), "lines stay lines: {lines}");
    }

    #[test]
    fn pictures_must_be_inside() {
        let item = GalleryItem { caption: "c".to_owned(), data_uri: "https://example.org/a.png".to_owned() };
        let pictures = Gallery { title: "P".to_owned(), items: vec![item] };
        let page = Page { title: "t".to_owned(), sections: vec![Section::Pictures(pictures)] };
        let error = page.html().expect_err("not inside").to_string();
        assert!(error.contains("an inline picture") && error.contains("example.org"), "{error}");
    }
}
