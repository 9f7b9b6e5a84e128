//! Files beside the graphs for programs that need more than these.

use std::path::Path;

use sam_model::SamConfig;
use sam_model::weights::PUBLISHED_IMAGE_SIZE;

use crate::error::OnnxError;
use crate::{DECODER, ENCODER, ExportOptions, ImageInput, Masks};

/// A program for which files are written beside the graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// `config.yaml` for X-AnyLabeling and AnyLabeling: "Load Custom Model".
    XAnyLabeling,
    /// A function of nuclio for CVAT: `function.yaml`, `main.py`, `model_handler.py`.
    Cvat,
}

/// The mask prompt that the annotators send is of this size, whatever the model.
const ANNOTATORS_MASK_SIDE: usize = 256;
/// The embedding that CVAT's page expects.
const CVAT_EMBEDDING: [usize; 2] = [256, 64];

const FUNCTION: &str = include_str!("nuclio/function.yaml");
const MAIN: &str = include_str!("nuclio/main.py");
const HANDLER: &str = include_str!("nuclio/model_handler.py");

impl Companion {
    /// Files of all companions.
    pub(crate) const FILES: [&str; 4] = ["config.yaml", "function.yaml", "main.py", "model_handler.py"];

    /// # Errors
    ///
    /// When the program cannot work with such graphs.
    pub(crate) fn check(self, config: &SamConfig, options: &ExportOptions) -> Result<(), OnnxError> {
        let (program, masks) = match self {
            Self::XAnyLabeling => ("X-AnyLabeling", Masks::Single),
            Self::Cvat => ("CVAT's page", Masks::Cropped),
        };
        let refuse = |what: String| Err(OnnxError::Unsupported(what));
        if options.masks != masks {
            let wanted = if masks == Masks::Single { "one mask in the size of the image" } else { "one mask, cropped" };
            return refuse(format!("{program} reads {wanted} from the decoder, which these options do not write"));
        }
        if self == Self::XAnyLabeling && options.input != ImageInput::Pixels {
            return refuse(format!("{program} gives the encoder pixels, and it takes a normalised image"));
        }
        let (side, mask_side) = (config.image_encoder.image_size(), config.low_res_side());
        if [side, mask_side] != [PUBLISHED_IMAGE_SIZE, ANNOTATORS_MASK_SIDE] {
            return refuse(format!(
                "{program} works with models of {PUBLISHED_IMAGE_SIZE} px with mask prompts of {ANNOTATORS_MASK_SIDE} px \
                 only; this one has {side} px and {mask_side} px"
            ));
        }
        let embedding = [config.image_encoder.out_chans(), config.image_encoder.grid_size()];
        if self == Self::Cvat && embedding != CVAT_EMBEDDING {
            return refuse(format!(
                "{program} expects embeddings of {} channels and {} cells a side; this model has {} and {}",
                CVAT_EMBEDDING[0], CVAT_EMBEDDING[1], embedding[0], embedding[1]
            ));
        }
        Ok(())
    }

    /// Writes the files; `name` is what the program calls the model.
    pub(crate) fn write(self, name: &str, folder: &Path) -> Result<(), OnnxError> {
        let write = |file: &str, text: String| {
            let path = folder.join(file);
            std::fs::write(&path, text).map_err(|source| OnnxError::io(&path, source))
        };
        match self {
            Self::XAnyLabeling => write("config.yaml", x_anylabeling(name)),
            Self::Cvat => {
                write("function.yaml", FUNCTION.replace("{display_name}", &quotable(name)))?;
                write("main.py", MAIN.to_owned())?;
                write("model_handler.py", HANDLER.to_owned())
            }
        }
    }
}

/// The keys that the model class `segment_anything` asks for.
fn x_anylabeling(name: &str) -> String {
    let identifier: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    format!(
        "type: segment_anything\nname: sam-train-{identifier}\nprovider: sam-train\ndisplay_name: \"{}\"\n\
         encoder_model_path: {ENCODER}\ndecoder_model_path: {DECODER}\n\
         input_size: {PUBLISHED_IMAGE_SIZE}\nmax_width: {PUBLISHED_IMAGE_SIZE}\nmax_height: 682\n",
        quotable(name)
    )
}

/// A name that can stand between double quotes in YAML.
fn quotable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() || c == '"' || c == '\\' { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless() {
        let config = x_anylabeling("my \"model\"\n: v2");
        assert!(config.contains("name: sam-train-my--model----v2\n"), "{config}");
        assert!(config.contains("display_name: \"my _model__: v2\"\n"), "{config}");
    }
}
