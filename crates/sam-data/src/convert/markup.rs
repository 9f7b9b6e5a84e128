//! What the XML files of labelling programs have in common: escaped text, and colours of classes.

use std::borrow::Cow;
use std::fmt::Write;

/// Colours that are told apart on photographs, used in turn.
const COLOURS: [&str; 12] = [
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990",
    "#dcbeff", "#ffe119",
];

/// The colour of a class.
pub(super) fn colour(class: usize) -> &'static str {
    COLOURS[class % COLOURS.len()]
}

/// A text as content or attribute of XML. Characters that XML cannot hold at all become U+FFFD.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let is_plain =
        |letter: char| !matches!(letter, '&' | '<' | '>' | '"' | '\'' | '\u{fffe}' | '\u{ffff}') && letter >= ' ';
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            // White space of attributes is replaced by spaces when it is read, unless it is a reference.
            '&' | '<' | '>' | '"' | '\'' | '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(letter));
            }
            letter if is_plain(letter) => out.push(letter),
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escaped("caf\u{e9} 1"), "caf\u{e9} 1");
        assert_eq!(escaped("<b a=\"1\">&'\n\u{1}"), "&#60;b a=&#34;1&#34;&#62;&#38;&#39;&#10;\u{fffd}");
    }
}
