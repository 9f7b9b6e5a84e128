//! A self-contained HTML page of tables, charts, images and texts, and the same content as Markdown.
//!
//! The output is a pure function of the content, so the same numbers give the same file. Names come from files: nothing
//! in them may become markup.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use sam_files::printable;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

const STYLE: &str = include_str!("report.css");

/// The content of a page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The heading.
    pub title: String,
    /// In reading order.
    pub sections: Vec<Section>,
}

/// A section with a heading.
#[derive(Clone, Debug)]
pub enum Section {
    /// A table.
    Table(Table),
    /// Charts side by side, as rendered by [`crate::chart`]; omitted in Markdown.
    Charts {
        /// The heading.
        title: String,
        /// Rendered charts.
        charts: Vec<String>,
    },
    /// Images side by side; omitted in Markdown.
    Gallery(Gallery),
    /// Large images, one below the other; omitted in Markdown.
    Images(Gallery),
    /// Verbatim text, collapsed by default.
    Text {
        /// The visible summary.
        title: String,
        /// The lines.
        text: String,
    },
}

/// A table with a heading.
#[derive(Clone, Debug)]
pub struct Table {
    /// The heading.
    pub title: String,
    /// A note under the heading; may be empty.
    pub note: String,
    /// Column names.
    pub header: Vec<String>,
    /// Rows of cells; the first cell names the row.
    pub rows: Vec<Vec<String>>,
}

/// Images with a heading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gallery {
    /// The heading.
    pub title: String,
    /// In reading order.
    pub items: Vec<GalleryItem>,
}

/// An image with a caption.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GalleryItem {
    /// The text below the image.
    pub caption: String,
    /// The image as a data URI: `data:image/png;base64,..`.
    pub data_uri: String,
}

impl Page {
    /// The self-contained HTML file.
    ///
    /// # Errors
    ///
    /// When an image is not inline.
    pub fn html(&self) -> Result<String, EvalError> {
        self.check()?;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { main { h1 { (self.title) } @for section in &self.sections { (section_html(section)) } } }
            }
        };
        Ok(printable(&page.into_string()).into_owned())
    }

    /// Tables and texts as GitHub-flavoured Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", one_line(&self.title));
        for section in &self.sections {
            match section {
                Section::Table(table) => push_table(&mut text, table),
                Section::Text { title, text: inner } => push_text(&mut text, title, inner),
                Section::Charts { .. } | Section::Gallery(_) | Section::Images(_) => {}
            }
        }
        printable(&text).into_owned()
    }

    fn check(&self) -> Result<(), EvalError> {
        let items = self.sections.iter().flat_map(|section| match section {
            Section::Gallery(gallery) | Section::Images(gallery) => gallery.items.as_slice(),
            Section::Table(_) | Section::Charts { .. } | Section::Text { .. } => &[],
        });
        match items.map(|item| &item.data_uri).find(|uri| !is_inline_image(uri)) {
            Some(uri) => Err(EvalError::Option {
                key: "data_uri",
                expected: "an inline image (data:image/png;base64,..)".to_owned(),
                got: uri.chars().take(40).collect(),
            }),
            None => Ok(()),
        }
    }
}

fn is_inline_image(uri: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let content =
        ["png", "jpeg", "webp"].iter().find_map(|kind| uri.strip_prefix(&format!("data:image/{kind};base64,")));
    content.is_some_and(|content| !content.is_empty() && content.bytes().all(is_base64))
}

fn section_html(section: &Section) -> Markup {
    html! {
        section {
            @match section {
                Section::Table(table) => (table_html(table)),
                Section::Charts { title, charts } => {
                    h2 { (title) }
                    div.charts { @for chart in charts { (PreEscaped(chart)) } }
                }
                Section::Gallery(gallery) => (gallery_html(gallery, "gallery")),
                Section::Images(gallery) => (gallery_html(gallery, "images")),
                Section::Text { title, text } => details { summary { (title) } pre { (text) } },
            }
        }
    }
}

fn table_html(table: &Table) -> Markup {
    // A missed bound must stand out.
    let is_missed = |cells: &[String]| cells.get(1).is_some_and(|cell| cell == "MISSED");
    html! {
        h2 { (table.title) }
        @if !table.note.is_empty() { p { (table.note) } }
        div.wide {
            table {
                thead { tr { @for cell in &table.header { th { (cell) } } } }
                tbody {
                    @for row in &table.rows {
                        tr.missed[is_missed(row)] { @for cell in row { td { (cell) } } }
                    }
                }
            }
        }
    }
}

fn gallery_html(gallery: &Gallery, class: &str) -> Markup {
    html! {
        h2 { (gallery.title) }
        div class=(class) {
            @for item in &gallery.items {
                figure {
                    img src=(item.data_uri) alt=(item.caption);
                    figcaption { (item.caption) }
                }
            }
        }
    }
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

/// Writes a code block whose fence is longer than any in the text.
fn push_text(text: &mut String, title: &str, inner: &str) {
    let ticks = |line: &str| line.trim_start().chars().take_while(|&letter| letter == '`').count();
    let longest = inner.lines().map(ticks).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    text.push_str(&format!("\n## {}\n\n{fence}\n{}\n{fence}\n", one_line(title), inner.trim_end()));
}

/// Escapes what would end a table cell or become markup.
fn one_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let letters: Vec<char> = text.chars().collect();
    // Within a word an underscore is one, as in `miou_1`.
    let is_in_word = |at: usize| {
        let is_word =
            |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|letter| letter.is_alphanumeric());
        is_word(at.checked_sub(1)) && is_word(Some(at + 1))
    };
    for (at, &letter) in letters.iter().enumerate() {
        match letter {
            '\n' | '\r' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '_' if is_in_word(at) => safe.push(letter),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '!' | '#' | '$' => {
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
        // The fence is longer than the one in the text.
        assert!(markdown.contains("````\na | b\n```\nc\n````\n"), "{markdown}");
        let names = page("<img src=x onerror=a> __b__ [c](d) ![e](f) ~~g~~ &lt; h_i \u{1b}[2J\u{202e}").markdown();
        let cell = "&lt;img src=x onerror=a&gt; \\_\\_b\\_\\_ \\[c\\](d) \\!\\[e\\](f) \\~\\~g\\~\\~ &amp;lt; h_i";
        assert!(names.contains(cell), "{names}");
        for raw in [names, page("a\u{1b}[2J\u{202e}").html().expect("fine")] {
            assert!(!raw.contains(['\u{1b}', '\u{202e}']) && raw.contains("u{1b}") && raw.contains("u{202e}"), "{raw}");
        }
        let lines = page("one\ntwo").html().expect("fine");
        assert!(lines.contains("<pre>one\ntwo</pre>"), "lines stay lines: {lines}");
    }

    #[test]
    fn images_must_be_inline() {
        let item = GalleryItem { caption: "c".to_owned(), data_uri: "https://example.org/a.png".to_owned() };
        let images = Gallery { title: "P".to_owned(), items: vec![item] };
        let page = Page { title: "t".to_owned(), sections: vec![Section::Images(images)] };
        let error = page.html().expect_err("a link").to_string();
        assert!(error.contains("an inline image") && error.contains("example.org"), "{error}");
    }
}
