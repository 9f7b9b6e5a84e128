//! Prompts, and the network that embeds them.

mod encoder;
mod prompts;
mod text;

pub(crate) use encoder::{MASK_PROMPT_PER_GRID, PromptEmbeddings};
pub use encoder::{PromptEncoder, PromptEncoderConfig};
pub use prompts::{MaskPrompts, ObjectPrompt, Prompts, SparsePrompts, TokenKind};
pub use text::{Modality, TextPrompt, TextPromptConfig, TextPrompts, TextVector};
