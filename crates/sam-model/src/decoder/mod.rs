//! From embeddings to masks: the two-way transformer and the heads after it.

mod cost;
mod mask_decoder;
mod two_way_transformer;

pub(crate) use mask_decoder::MaskDecoderInputs;
pub use mask_decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskOutput};
pub(crate) use two_way_transformer::{DECODER_LAYER_NORM_EPS, DownsampledAttention};
