//! Names are data: what a file or a class is called must not move the cursor, recolour a terminal or reverse a line.

use std::borrow::Cow;

/// A text without characters that act instead of being shown, written as their escapes (`\u{1b}`): control characters other
/// than a line feed and a tab, and those that embed, override or isolate a direction of writing.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().fold(String::with_capacity(text.len() + 8), |mut escaped, letter| {
        if acts(letter) {
            escaped.extend(letter.escape_unicode());
        } else {
            escaped.push(letter);
        }
        escaped
    });
    Cow::Owned(escaped)
}

fn acts(letter: char) -> bool {
    // Marks of direction, embeddings and overrides, line separators, isolates (Unicode's UTS 39, and CVE-2021-42574).
    let is_direction =
        matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_direction || letter.is_control() && !matches!(letter, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown_as_its_escape() {
        for (text, shown) in [
            ("plain, caf\u{e9}, \u{732b}\n\t", "plain, caf\u{e9}, \u{732b}\n\t"),
            ("\u{1b}[2Jgone\u{7}", "\\u{1b}[2Jgone\\u{7}"),
            ("a\rb\u{9b}31m\u{7f}", "a\\u{d}b\\u{9b}31m\\u{7f}"),
            ("\u{202e}gnp.exe\u{2066}\u{200f}", "\\u{202e}gnp.exe\\u{2066}\\u{200f}"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }
}
