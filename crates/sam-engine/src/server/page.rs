//! The page: its files are in the program.

use super::response::Response;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Every file below `/page/`, by name.
const FILES: &[(&str, &str)] = &[
    ("actions.js", include_str!("../../page/actions.js")),
    ("app.js", include_str!("../../page/app.js")),
    ("brush.js", include_str!("../../page/brush.js")),
    ("charts.js", include_str!("../../page/charts.js")),
    ("classes.js", include_str!("../../page/classes.js")),
    ("cursor.js", include_str!("../../page/cursor.js")),
    ("draft.js", include_str!("../../page/draft.js")),
    ("help.js", include_str!("../../page/help.js")),
    ("history.js", include_str!("../../page/history.js")),
    ("hover.js", include_str!("../../page/hover.js")),
    ("images.js", include_str!("../../page/images.js")),
    ("index.html", include_str!("../../page/index.html")),
    ("keys.js", include_str!("../../page/keys.js")),
    ("layer.js", include_str!("../../page/layer.js")),
    ("lists.js", include_str!("../../page/lists.js")),
    ("operations.js", include_str!("../../page/operations.js")),
    ("page.js", include_str!("../../page/page.js")),
    ("paint.js", include_str!("../../page/paint.js")),
    ("pointer.js", include_str!("../../page/pointer.js")),
    ("polygon.js", include_str!("../../page/polygon.js")),
    ("proposals.js", include_str!("../../page/proposals.js")),
    ("pulse.js", include_str!("../../page/pulse.js")),
    ("review.js", include_str!("../../page/review.js")),
    ("rounds.js", include_str!("../../page/rounds.js")),
    ("runs.js", include_str!("../../page/runs.js")),
    ("server.js", include_str!("../../page/server.js")),
    ("sprites.js", include_str!("../../page/sprites.js")),
    ("style.css", include_str!("../../page/style.css")),
    ("text.js", include_str!("../../page/text.js")),
    ("toolbar.js", include_str!("../../page/toolbar.js")),
    ("view.js", include_str!("../../page/view.js")),
];

/// The file at an address; the page itself is at `/`.
pub(super) fn file(path: &str) -> Option<Response> {
    let name = if path == "/" { "index.html" } else { path.strip_prefix("/page/")? };
    let (_, text) = FILES.iter().find(|(file, _)| *file == name)?;
    let content_type = match name.rsplit_once('.')?.1 {
        "html" => HTML,
        "css" => STYLE,
        _ => SCRIPT,
    };
    Some(Response::new(content_type, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_every_import_is_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, text) in FILES {
            for import in text.split("from \"").skip(1) {
                let path = import.split('"').next().expect("a text");
                assert!(file(path).is_some(), "{name} imports {path}");
            }
        }
    }
}
