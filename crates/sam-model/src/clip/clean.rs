//! Texts as CLIP's tokenizer takes them (`clip/simple_tokenizer.py`: `basic_clean`, `whitespace_clean`, lower case).
//!
//! The reference cleans with the package ftfy, of which this has what occurs in prompts: straight quotes for curly ones, plain
//! characters for full-width ones, letters for ligatures, composed accents (NFC), no control characters. Not its repair of text
//! that was decoded wrongly. Of HTML's named characters it has those of XML and of Latin-1.

use unicode_normalization::UnicodeNormalization;

/// Names of the characters from U+00A0 to U+00FF (HTML 4, section 24.2.1).
const LATIN_1: &str = "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn sup2 sup3 \
    acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring AElig \
    Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave \
    Uacute Ucirc Uuml Yacute THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave \
    iacute icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml";

/// Longest name of a character, or number, between `&` and `;`.
const LONGEST_NAME: usize = 10;

/// The text that is split into words.
pub(super) fn clean(text: &str) -> String {
    // A text with markup keeps its characters until the markup's are replaced (ftfy's `unescape_html="auto"`).
    let text = if text.contains('<') { text.to_owned() } else { unescape(text) };
    let text: String = text.chars().flat_map(plain).collect::<String>().nfc().collect();
    let text = unescape(&unescape(&text));
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

/// A character in its plain form: none for control characters, several for ligatures.
fn plain(character: char) -> impl Iterator<Item = char> {
    let own = [character, '\0', '\0'];
    let short = |text: &str| {
        let mut letters = text.chars();
        std::array::from_fn(|_| letters.next().unwrap_or('\0'))
    };
    let letters: [char; 3] = match character {
        '\u{0}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => ['\0'; 3],
        '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => ['\0'; 3],
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => short("'"),
        '\u{201c}'..='\u{201f}' => short("\""),
        '\u{3000}' => short(" "),
        'ĳ' => short("ij"),
        'Ĳ' => short("IJ"),
        'ŉ' => short("'n"),
        'ﬀ' => short("ff"),
        'ﬁ' => short("fi"),
        'ﬂ' => short("fl"),
        'ﬃ' => short("ffi"),
        'ﬄ' => short("ffl"),
        'ﬅ' => short("ſt"),
        'ﬆ' => short("st"),
        // Full and half width; each has a plain form of at most three characters.
        '\u{ff01}'..='\u{ffef}' => short(&character.nfkc().collect::<String>()),
        // Croatian digraphs, in capitals, as a title and in small letters.
        'Ǳ'..='ǳ' | 'Ǆ'..='ǌ' => short(&character.nfkc().collect::<String>()),
        _ => own,
    };
    letters.into_iter().filter(|&letter| letter != '\0')
}

/// Replaces HTML's names and numbers of characters; those that are none stay as they are.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let end = rest.char_indices().take(LONGEST_NAME + 1).find(|(_, character)| *character == ';');
        match end.and_then(|(end, _)| Some((end, named(&rest[..end])?))) {
            Some((end, character)) => {
                plain.push(character);
                rest = &rest[end + 1..];
            }
            None => plain.push('&'),
        }
    }
    plain.push_str(rest);
    plain
}

fn named(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        // Of the code page of old Windows programs: its quotes and dashes.
        const WINDOWS_1252: [char; 32] = [
            '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
            '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
        ];
        return match code {
            0x80..=0x9f => Some(WINDOWS_1252[code as usize - 0x80]),
            _ => char::from_u32(code).or(Some(char::REPLACEMENT_CHARACTER)),
        };
    }
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "lsquo" => Some('‘'),
        "rsquo" => Some('’'),
        "ldquo" => Some('“'),
        "rdquo" => Some('”'),
        "ndash" => Some('–'),
        "mdash" => Some('—'),
        "hellip" => Some('…'),
        "euro" => Some('€'),
        _ => {
            let place = LATIN_1.split_whitespace().position(|latin| latin == name)?;
            char::from_u32(0xa0 + place as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_in_the_reference() {
        for (text, expected) in [
            ("  Two   SPACES\ttab\n", "two spaces tab"),
            ("a&amp;b &lt;x&gt; &amp;amp; &#39;&#x2019;&eacute;", "a&b <x> & ''é"),
            ("I’m “quoted” ‛so‟", "i'm \"quoted\" 'so\""),
            ("ＦＵＬＬ　width ﬁ ﬃ Ĳ ǅ ﾃ", "full width fi ffi ij dž テ"),
            ("nai\u{308}ve\u{0}\u{feff}", "naïve"),
            ("R&D & x&; &#; &unknown; &#99999999;", "r&d & x&; &#; &unknown; \u{fffd}"),
            ("&#146;", "'"),
            ("", ""),
        ] {
            assert_eq!(clean(text), expected, "{text}");
        }
        assert_eq!(LATIN_1.split_whitespace().count(), 96);
        assert_eq!((named("yuml"), named("nbsp"), named("szlig")), (Some('ÿ'), Some('\u{a0}'), Some('ß')));
    }
}
