//! The tokens of a CLIP's text tower: OpenAI's, or those of the files beside the weights.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::weights::{WeightsError, json_beside};

/// The merges of `bpe_simple_vocab_16e6.txt.gz`, a pair a line (see `merges/LICENSE`).
const OPENAI_MERGES: &[u8] = include_bytes!("merges/openai.txt.gz");

/// Bytes of [`OPENAI_MERGES`], unpacked.
const OPENAI_MERGES_BYTES: u64 = 1 << 20;

/// Ends the last symbol of a word.
pub(super) const END_OF_WORD: &str = "</w>";

/// The first token of every text, and the last.
pub(super) const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// Symbols and the merges that make longer ones of two.
pub(super) struct Vocabulary {
    pub(super) ids: HashMap<String, u32>,
    /// Best first.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// OpenAI's 49,408 tokens: bytes, bytes at the end of a word, merges, start, end.
    pub(super) fn openai() -> Self {
        let mut text = String::new();
        flate2::read::GzDecoder::new(OPENAI_MERGES)
            .take(OPENAI_MERGES_BYTES)
            .read_to_string(&mut text)
            .expect("the merges are part of this program");
        let merges = pairs(text.lines());
        let merges = merges.unwrap_or_else(|line| unreachable!("every line is a pair, `{line}` not"));
        let bytes = bytes_in_order().map(|byte| byte_symbol(byte).to_string());
        let last = bytes_in_order().map(|byte| format!("{}{END_OF_WORD}", byte_symbol(byte)));
        let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let symbols = bytes.chain(last).chain(merged).chain(SPECIAL.map(str::to_owned));
        Self { ids: symbols.zip(0..).collect(), merges }
    }

    /// The vocabulary beside a weights file, with the name of the file that has it; `None` when there is none.
    pub(super) fn beside(weights: &Path) -> Result<Option<(Self, &'static str)>, WeightsError> {
        let damaged = |name: &str, problem: String| WeightsError::NotACheckpoint {
            path: weights.with_file_name(name),
            reason: format!("not the vocabulary of a CLIP: {problem}"),
        };
        let name = "tokenizer.json";
        if let Some(tokenizer) = json_beside(weights, name)? {
            let vocabulary = Self::from_tokenizer(&tokenizer).map_err(|problem| damaged(name, problem))?;
            return Ok(Some((vocabulary, name)));
        }
        let Some(ids) = json_beside(weights, "vocab.json")? else { return Ok(None) };
        let ids = numbered(&ids).map_err(|problem| damaged("vocab.json", problem))?;
        let path = weights.with_file_name("merges.txt");
        let text = sam_files::read_text(&path, sam_files::MAX_TEXT_BYTES)
            .map_err(|source| WeightsError::Io { path: path.clone(), source })?;
        let lines = text.lines().enumerate().filter(|(at, line)| !(*at == 0 && line.starts_with("#version")));
        let merges = pairs(lines.map(|(_, line)| line).filter(|line| !line.is_empty()))
            .map_err(|line| damaged("merges.txt", format!("a line must be two symbols, got `{line}`")))?;
        Ok(Some((Self { ids, merges }, "vocab.json")))
    }

    /// `tokenizer.json` of the package tokenizers.
    fn from_tokenizer(tokenizer: &Value) -> Result<Self, String> {
        let model = &tokenizer["model"];
        // Older files do not name the kind.
        let kind = model["type"].as_str().unwrap_or("BPE");
        if kind != "BPE" || model["end_of_word_suffix"].as_str() != Some(END_OF_WORD) {
            return Err(format!("model must be a BPE whose words end with `{END_OF_WORD}`, got a {kind}"));
        }
        let mut ids = numbered(&model["vocab"])?;
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(content), Some(id)) = (added["content"].as_str(), added["id"].as_u64()) {
                ids.insert(content.to_owned(), u32::try_from(id).map_err(|_| format!("token {id} is too large"))?);
            }
        }
        let merges = model["merges"].as_array().ok_or("model.merges must be a list")?;
        let pair = |merge: &Value| match merge {
            Value::String(line) => line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
            Value::Array(parts) => match &parts[..] {
                [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
                _ => None,
            },
            _ => None,
        };
        let merges = merges.iter().map(|merge| pair(merge).ok_or(format!("a merge must be two symbols, got {merge}")));
        Ok(Self { ids, merges: merges.collect::<Result<_, _>>()? })
    }
}

/// An object of symbols and their numbers.
fn numbered(ids: &Value) -> Result<HashMap<String, u32>, String> {
    let ids = ids.as_object().ok_or("expected an object of symbols and their numbers")?;
    let number = |(symbol, id): (&String, &Value)| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        Ok((symbol.clone(), id.ok_or_else(|| format!("the number of `{symbol}` must be a whole one"))?))
    };
    ids.iter().map(number).collect()
}

/// The two symbols of each line; the line that has not two, otherwise.
fn pairs<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>, &'a str> {
    let pair = |line: &'a str| match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
        _ => Err(line),
    };
    lines.map(pair).collect()
}

/// Bytes with a printable character, which stand for themselves.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The bytes in the order of their numbers: printable ones first (`bytes_to_unicode` of the reference).
fn bytes_in_order() -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(|&byte| is_printable(byte)).chain((0..=u8::MAX).filter(|&byte| !is_printable(byte)))
}

/// The printable character that stands for a byte.
pub(super) fn byte_symbol(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printable(byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
