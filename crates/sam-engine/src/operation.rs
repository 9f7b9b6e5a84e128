//! Operations: the only way in which annotations change.
//!
//! An operation has an id of its client's making, so one whose answer was lost is sent again and answered as before. Adds from
//! several tabs commute. A replacement or removal of a mask that has changed since the client saw it is a conflict, which is
//! answered with the current mask.

use serde::{Deserialize, Serialize};

use crate::annotation::{ImageState, MaskRecord, MaskSource, PromptRecord, RejectedProposal, Segmentation};
use crate::images::ImageId;

/// An id that a client makes: 8 to 64 letters, digits and hyphens, such as a UUID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

impl Identifier {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Identifier {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_id = (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if is_id { Ok(Self(text)) } else { Err("an id must be 8 to 64 letters, digits and hyphens".to_owned()) }
    }
}

impl From<Identifier> for String {
    fn from(id: Identifier) -> Self {
        id.0
    }
}

/// A change of one image's annotations.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its id.
    pub op: Identifier,
    /// The image.
    pub image: ImageId,
    /// The image's revision that the client has seen.
    pub base: u64,
    /// What changes.
    pub change: Change,
}

/// What an operation changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A new mask, or a removed one again.
    Add {
        /// The mask.
        mask: NewMask,
    },
    /// Another mask or class in its place.
    Replace {
        /// The mask.
        mask: NewMask,
    },
    /// The mask is removed.
    Delete {
        /// The mask.
        uuid: Identifier,
    },
    /// The image is open, done, skipped or to do.
    State {
        /// The new state.
        state: ImageState,
    },
    /// Another note on the image.
    Note {
        /// Empty: none.
        text: String,
    },
    /// A proposal must not come again.
    Reject {
        /// The proposal.
        mask: RejectedProposal,
    },
    /// A rejected proposal may come again.
    Unreject {
        /// The proposal.
        uuid: Identifier,
    },
}

impl Change {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Replace { .. } => "replace",
            Self::Delete { .. } => "delete",
            Self::State { .. } => "state",
            Self::Note { .. } => "note",
            Self::Reject { .. } => "reject",
            Self::Unreject { .. } => "unreject",
        }
    }

    pub(crate) fn uuid(&self) -> Option<&Identifier> {
        match self {
            Self::Add { mask } | Self::Replace { mask } => Some(&mask.uuid),
            Self::Reject { mask } => Some(&mask.uuid),
            Self::Delete { uuid } | Self::Unreject { uuid } => Some(uuid),
            Self::State { .. } | Self::Note { .. } => None,
        }
    }
}

/// A mask as a client sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMask {
    /// Its id.
    pub uuid: Identifier,
    /// The mask.
    pub segmentation: Segmentation,
    /// Who made it.
    pub source: MaskSource,
    /// One of the project's classes.
    #[serde(default)]
    pub class: Option<String>,
    /// What was typed and clicked.
    #[serde(default)]
    pub prompts: PromptRecord,
    /// From the first prompt to the commit, without long pauses.
    #[serde(default)]
    pub seconds: f64,
    /// What the model said.
    #[serde(default)]
    pub predicted_iou: Option<f64>,
    /// Fingerprint of the checkpoint, as the prediction had it.
    #[serde(default)]
    pub model: Option<String>,
}

/// An operation that has been carried out, as it is answered and remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The operation.
    pub op: Identifier,
    /// The image's revision after it.
    pub revision: u64,
    /// The image's state after it.
    pub state: ImageState,
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// It is on disk.
    Applied(Applied),
    /// Somebody else was first; nothing has changed.
    Conflict {
        /// The image's revision.
        revision: u64,
        /// The mask as it is now, unless it is gone.
        current: Option<Box<MaskRecord>>,
    },
}
