//! The page: its files are in the program.

use super::response::Response;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Address, type and content of every file.
const FILES: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/page/style.css", STYLE, include_str!("../../page/style.css")),
    ("/page/app.js", SCRIPT, include_str!("../../page/app.js")),
    ("/page/server.js", SCRIPT, include_str!("../../page/server.js")),
    ("/page/runs.js", SCRIPT, include_str!("../../page/runs.js")),
    ("/page/view.js", SCRIPT, include_str!("../../page/view.js")),
    ("/page/draft.js", SCRIPT, include_str!("../../page/draft.js")),
    ("/page/masks.js", SCRIPT, include_str!("../../page/masks.js")),
    ("/page/lists.js", SCRIPT, include_str!("../../page/lists.js")),
    ("/page/pointer.js", SCRIPT, include_str!("../../page/pointer.js")),
];

/// The file at an address.
pub(super) fn file(path: &str) -> Option<Response> {
    let (_, content_type, text) = FILES.iter().find(|(address, _, _)| *address == path)?;
    Some(Response::new(content_type, text.as_bytes()))
}
