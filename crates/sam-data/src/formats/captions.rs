//! Captions of objects, under the names that data sets give them.
//!
//! A caption is a text; several are a list of texts, or of RefCOCO's sentences, which are objects with `sent` (in lower case,
//! without punctuation) and `raw` (as it was typed). All captions of an object are kept in their order, each once: two that
//! differ in case only are one, as CLIP reads lower case.

use serde_json::Value;

/// Keys of an annotation that hold captions, in the order in which they are read.
pub(crate) const CAPTION_KEYS: [&str; 6] = ["caption", "captions", "sentences", "sentence", "sent", "raw"];

/// Keys of a sentence of RefCOCO that hold its text; the first one that is there is read.
const SENTENCE_KEYS: [&str; 4] = ["sent", "raw", "sentence", "caption"];

/// Adds the captions of one key's value. What is no text is left out; the error says what it was.
pub(crate) fn add_captions(key: &str, value: &Value, captions: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) => {
            add_caption(text, captions);
            Ok(())
        }
        Value::Array(values) => {
            let mut wrong = None;
            for value in values {
                match text_of(value) {
                    Some(text) => add_caption(text, captions),
                    None => wrong = wrong.or(Some(value)),
                }
            }
            wrong.map_or(Ok(()), |wrong| Err(expected(key, wrong)))
        }
        other => Err(expected(key, other)),
    }
}

/// Adds a caption, unless it is blank or there already.
pub(crate) fn add_caption(text: &str, captions: &mut Vec<String>) {
    let text = text.trim();
    let lower = text.to_lowercase();
    if !text.is_empty() && captions.iter().all(|known| known.to_lowercase() != lower) {
        captions.push(text.to_owned());
    }
}

/// The text of an item of a list; `None` for what is none.
fn text_of(item: &Value) -> Option<&str> {
    match item {
        Value::String(text) => Some(text),
        Value::Object(sentence) => SENTENCE_KEYS.iter().find_map(|key| sentence.get(*key))?.as_str(),
        _ => None,
    }
}

fn expected(key: &str, got: &Value) -> String {
    let got = match got {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list in it".to_owned(),
        other => other.to_string(),
    };
    format!("{key} must be a text, a list of texts or RefCOCO's sentences, got {got}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lists_and_sentences_are_captions() {
        let check = |json: &str, expected: &[&str]| {
            let mut captions = Vec::new();
            let value: Value = serde_json::from_str(json).expect("JSON");
            add_captions("sentences", &value, &mut captions).expect("captions");
            assert_eq!(captions, expected, "{json}");
        };
        check("null", &[]);
        check("\" \"", &[]);
        check("\" a red ring \"", &["a red ring"]);
        check("[\"a ring\", \"A ring\", \"\", \"a star\"]", &["a ring", "a star"]);
        check(
            r#"[{"tokens": ["left", "man"], "raw": "Left man.", "sent_id": 3, "sent": "left man"}, {"raw": "Man!"}]"#,
            &["left man", "Man!"],
        );
    }

    #[test]
    fn what_is_no_text_is_named_and_the_rest_kept() {
        let check = |json: &str, got: &str, kept: &[&str]| {
            let mut captions = Vec::new();
            let value: Value = serde_json::from_str(json).expect("JSON");
            let error = add_captions("captions", &value, &mut captions).expect_err("refused");
            assert!(error.starts_with("captions must be a text") && error.ends_with(got), "{error}");
            assert_eq!(captions, kept, "{json}");
        };
        check("17", "got 17", &[]);
        check("true", "got true", &[]);
        check("{\"en\": \"a ring\"}", "got an object", &[]);
        check("[\"a ring\", 4, \"a star\"]", "got 4", &["a ring", "a star"]);
        check("[[\"a ring\"]]", "got a list in it", &[]);
        check("[{\"sent\": 5}]", "got an object", &[]);
    }
}
