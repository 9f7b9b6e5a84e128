//! Texts to tokens: byte-pair encoding (`clip/simple_tokenizer.py`).

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use regex::Regex;
use sam_files::Fingerprint;

use super::clean::clean;
use super::vocabulary::{END_OF_WORD, SPECIAL, Vocabulary, byte_symbol};
use crate::weights::WeightsError;

/// Words: special tokens, English contractions, runs of letters, single digits, runs of anything else.
const WORD: &str = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";

/// Bytes of a word that are merged together. Longer ones only occur in texts with far too many tokens, whose number is then
/// that of their parts; the time of merging grows with the square of the length.
const LONGEST_WORD_BYTES: usize = 1 << 14;

/// Characters of a text that an error quotes.
const QUOTED: usize = 60;

/// A text that has no vector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Nothing but spaces.
    #[error("a text must say what to look for, got an empty one")]
    Empty,
    /// More tokens than the text tower takes.
    #[error("the text `{text}` has {tokens} tokens, start and end included; at most {limit}: say it in fewer words")]
    TooLong {
        /// Its beginning.
        text: String,
        /// Its tokens, start and end included.
        tokens: usize,
        /// The most that are possible.
        limit: usize,
    },
}

/// Texts to the tokens of a CLIP.
pub struct Tokenizer {
    bytes: [u32; 256],
    /// Bytes at the end of a word.
    last_bytes: [u32; 256],
    /// Of two tokens: the rank of their merge, and the token that it makes.
    merges: HashMap<(u32, u32), (u32, u32)>,
    start: u32,
    end: u32,
    context: usize,
    word: Regex,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} merges, {} tokens at most)", self.merges.len(), self.context)
    }
}

impl Tokenizer {
    /// OpenAI's vocabulary, and texts of at most 77 tokens.
    pub fn openai() -> Self {
        let tokenizer = Self::new(&Vocabulary::openai(), 77);
        tokenizer.unwrap_or_else(|problem| unreachable!("the vocabulary is part of this program: {problem}"))
    }

    /// The tokenizer of a weights file whose text tower has these numbers of tokens and positions, and an assumption about
    /// it, if one was made.
    pub(super) fn beside(
        weights: &Path,
        vocabulary: usize,
        context: usize,
    ) -> Result<(Self, Option<String>), WeightsError> {
        let (found, name) = match Vocabulary::beside(weights)? {
            Some((found, name)) => (found, Some(name)),
            None => (Vocabulary::openai(), None),
        };
        let tokens = found.ids.values().max().map_or(0, |&largest| largest as usize + 1);
        // A padded table has rows that no token takes.
        let fits = if name.is_some() { tokens <= vocabulary } else { tokens == vocabulary };
        if !fits {
            let of = name.map_or_else(
                || {
                    "beside it is neither tokenizer.json nor vocab.json with merges.txt, and OpenAI's vocabulary"
                        .to_owned()
                },
                |name| format!("the {name} beside it"),
            );
            return Err(WeightsError::Unsupported(format!(
                "{}: its text tower has {vocabulary} tokens; {of} has {tokens}",
                weights.display()
            )));
        }
        let tokenizer = Self::new(&found, context).map_err(|problem| WeightsError::NotACheckpoint {
            path: weights.with_file_name(name.unwrap_or_default()),
            reason: format!("not the vocabulary of a CLIP: {problem}"),
        })?;
        let assumed = "OpenAI's vocabulary, as there is neither tokenizer.json nor vocab.json beside the weights";
        Ok((tokenizer, name.is_none().then(|| assumed.to_owned())))
    }

    fn new(vocabulary: &Vocabulary, context: usize) -> Result<Self, String> {
        let id = |symbol: &str| {
            vocabulary.ids.get(symbol).copied().ok_or_else(|| format!("the symbol `{symbol}` has no id"))
        };
        let (mut bytes, mut last_bytes) = ([0; 256], [0; 256]);
        for byte in 0..=u8::MAX {
            let symbol = byte_symbol(byte);
            bytes[usize::from(byte)] = id(&symbol.to_string())?;
            last_bytes[usize::from(byte)] = id(&format!("{symbol}{END_OF_WORD}"))?;
        }
        let mut merges = HashMap::with_capacity(vocabulary.merges.len());
        for ((left, right), rank) in vocabulary.merges.iter().zip(0u32..) {
            // A pair that is listed twice has its first rank.
            merges.entry((id(left)?, id(right)?)).or_insert((rank, id(&format!("{left}{right}"))?));
        }
        let [start, end] = [id(SPECIAL[0])?, id(SPECIAL[1])?];
        let word = Regex::new(WORD).expect("a fixed pattern");
        Ok(Self { bytes, last_bytes, merges, start, end, context, word })
    }

    /// The tokens of a text, from the start token to the first end token; those that follow it in the reference change
    /// nothing.
    ///
    /// ```
    /// use sam_model::clip::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::openai().encode("A  wheel ")?, [49406, 320, 6744, 49407]);
    /// # Ok::<(), sam_model::clip::TokenizerError>(())
    /// ```
    ///
    /// # Errors
    /// When the text is empty, or has more tokens than the text tower takes.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let words = self.words(text);
        if words.is_empty() {
            return Err(TokenizerError::Empty);
        }
        let tokens = words.len() + 2;
        if tokens > self.context {
            let is_long = text.chars().count() > QUOTED;
            let text = sam_files::printable(&text.chars().take(QUOTED).collect::<String>()).into_owned();
            let text = if is_long { format!("{text}..") } else { text };
            return Err(TokenizerError::TooLong { text, tokens, limit: self.context });
        }
        let mut tokens = [&[self.start], &words[..], &[self.end]].concat();
        // A text may itself name the end token.
        let length = tokens.iter().position(|&token| token == self.end).map_or(tokens.len(), |end| end + 1);
        tokens.truncate(length);
        Ok(tokens)
    }

    /// The last token of every text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The largest number of tokens, start and end included.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The tokens of a text without start and end.
    fn words(&self, text: &str) -> Vec<u32> {
        let text = clean(text);
        let mut tokens = Vec::new();
        for word in self.word.find_iter(&text) {
            match word.as_str() {
                special if special == SPECIAL[0] => tokens.push(self.start),
                special if special == SPECIAL[1] => tokens.push(self.end),
                word => {
                    for part in word.as_bytes().chunks(LONGEST_WORD_BYTES) {
                        self.merge(part, &mut tokens);
                    }
                }
            }
        }
        tokens
    }

    /// Appends the tokens of a word: its bytes, of which neighbours are merged as long as there is a merge, the best first.
    fn merge(&self, word: &[u8], tokens: &mut Vec<u32>) {
        let mut symbols: Vec<u32> = word.iter().map(|&byte| self.bytes[usize::from(byte)]).collect();
        if let (Some(symbol), Some(&byte)) = (symbols.last_mut(), word.last()) {
            *symbol = self.last_bytes[usize::from(byte)];
        }
        let merge_of = |pair: &[u32]| self.merges.get(&(pair[0], pair[1])).copied();
        while let Some(best @ (_, merged)) = symbols.windows(2).filter_map(merge_of).min() {
            let mut place = 0;
            for at in 0..symbols.len() {
                // All equal pairs of a round are merged, from the left; a symbol is part of one of them.
                if place > 0 && merge_of(&[symbols[place - 1], symbols[at]]) == Some(best) {
                    symbols[place - 1] = merged;
                } else {
                    symbols[place] = symbols[at];
                    place += 1;
                }
            }
            symbols.truncate(place);
        }
        tokens.extend(symbols);
    }

    /// Adds the merges and the special tokens to a fingerprint.
    pub(super) fn add_to(&self, hash: &mut Fingerprint) {
        let mut merges: Vec<_> =
            self.merges.iter().map(|(&(left, right), &(rank, id))| (rank, left, right, id)).collect();
        merges.sort_unstable();
        for (_, left, right, id) in merges {
            hash.add_word(u64::from(left) << 32 | u64::from(right));
            hash.add_word(u64::from(id));
        }
        for id in self.bytes.into_iter().chain(self.last_bytes).chain([self.start, self.end]) {
            hash.add_word(u64::from(id));
        }
    }
}
