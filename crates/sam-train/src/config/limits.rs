//! The largest number of every key, and what a plan takes in memory: a mistyped zero is an error at once, not a machine that
//! swaps for an hour. The smallest number is with each key, where it is read.

use serde::Serialize;
use toml::Value;

use super::problems::{Place, Problem};
use super::reader::Reader;

/// Numbers of a key that are sensible, in a configuration or in the plan of a run, in alphabetical order. Numbers of other
/// keys are steps, or counts of what exists, and end at [`LARGEST`].
const LIMITS: [(&str, i64, i64); 68] = [
    ("accumulation", 1, 1 << 16),
    ("at_clicks", 1, 1000),
    ("batch_images", 1, 1 << 16),
    ("batch_objects", 1, 1 << 16),
    ("box_clicks", 0, 1000),
    ("channels", 0, u16::MAX as i64),
    ("clicks", 1, 1000),
    ("correction_clicks", 0, 100),
    ("crops_per_object", 1, 1000),
    ("cross_dim", 1, 1 << 14),
    ("decoder_depth", 1, 1 << 10),
    ("decoder_embed_dim", 1, 1 << 14),
    ("decoder_heads", 1, 1 << 10),
    ("decoder_mlp_dim", 1, 1 << 18),
    ("decoder_num_heads", 1, 1 << 10),
    ("depth", 1, 1 << 10),
    ("depths", 1, 1 << 10),
    ("embed_dim", 1, 1 << 14),
    ("embed_dims", 1, 1 << 14),
    ("every_steps", 1, LARGEST),
    ("export_image_size", 16, 4096),
    ("first_index", 0, 1 << 53),
    ("gallery", 0, 1000),
    ("global_attn_indexes", 0, 1 << 10),
    ("id", 0, u32::MAX as i64),
    ("image_size", 16, 4096),
    ("image_size_hw", 16, 4096),
    ("images_per_batch", 1, 1 << 16),
    ("images_per_step", 1, 1 << 16),
    ("iou_head_depth", 1, 100),
    ("iou_head_hidden_dim", 1, 1 << 14),
    ("mask_in_chans", 1, 1 << 12),
    ("mask_only_passes", 0, 100),
    ("max_dets", 1, 100_000),
    ("max_pixels", 1, sam_image::MAX_PIXELS as i64),
    ("mbconv_ratio", 1, 64),
    ("min_object_px", 1, 1 << 24),
    ("mlp_dim", 1, 1 << 20),
    // Of a TinyViT; that of a plain ViT may have a fraction.
    ("mlp_ratio", 1, 64),
    ("model_side_px", 1, 1 << 15),
    ("n_draws", 1, 1_000_000),
    ("n_scenes", 1, 10_000_000),
    ("n_shapes_max", 1, 100),
    ("n_shapes_min", 1, 100),
    ("neighbours", 1, 1_000_000),
    ("num_heads", 1, 1 << 10),
    ("num_multimask_outputs", 1, 100),
    ("objects_per_batch", 1, 1 << 16),
    ("objects_per_image", 1, 1 << 16),
    ("objects_per_step", 1, 1 << 20),
    ("out_chans", 1, 1 << 14),
    ("parallel", 1, 4096),
    ("patch_size", 1, 1 << 10),
    ("points_per_batch", 1, 1 << 16),
    ("points_per_side", 1, 256),
    ("prefetch", 1, 1024),
    ("previews", 0, 64),
    ("rank", 1, 1 << 12),
    ("refinements", 0, 1000),
    ("sample_seed", 0, i64::MAX),
    ("seed", 0, i64::MAX),
    ("side_px_max", 16, 4096),
    ("side_px_min", 16, 4096),
    ("steps", 1, LARGEST),
    ("threads", 0, 4096),
    ("window_size", 0, 1 << 10),
    ("window_sizes", 1, 64),
    ("workers", 0, 1024),
];

/// More than any run has steps or any data set images.
const LARGEST: i64 = 1_000_000_000;

/// The same for fractions, weights and rates; others end where 32-bit floats do.
const LARGEST_FLOATS: [(&str, f64); 4] =
    [("embedding_weight", 1e6), ("max_gib", 1e6), ("mlp_ratio", 64.0), ("scale_jitter", 100.0)];

/// Probabilities and fractions.
const FRACTIONS: [&str; 29] = [
    "area_share_min",
    "betas",
    "box_chance",
    "box_nms",
    "brightness",
    "click_from_object_chance",
    "contrast",
    "crop",
    "drop_path",
    "drop_path_rate",
    "decoder_dropout",
    "dropout",
    "ema_decay",
    "factor",
    "final_share",
    "focal_alpha",
    "horizontal_flip",
    "layer_decay",
    "mask_ratio",
    "max_image_share",
    "nested_chance",
    "saturation",
    "side_share",
    "teacher_share",
    "thin_chance",
    "tiny_chance",
    "tolerance",
    "vertical_flip",
    "visible_share_min",
];

/// Numbers with a fraction that may be negative.
const BELOW_0: [&str; 2] = ["focal_alpha", "level"];

/// Bytes of a batch of images on the device.
const BATCH_BYTES: f64 = 16.0 * GIB;
/// Bytes of all batches that are prepared ahead.
const PREPARED_BYTES: f64 = 32.0 * GIB;
/// Six times those of ViT-H; training takes 16 bytes for each.
const PARAMETERS: f64 = 4e9;
const GIB: f64 = (1u64 << 30) as f64;

/// The largest number that a key may have.
pub(super) fn largest(key: &str) -> i64 {
    limits(key).1
}

/// As [`largest`], for numbers with a fraction.
pub(super) fn largest_float(key: &str) -> f64 {
    if FRACTIONS.contains(&key) {
        return 1.0;
    }
    let found = LARGEST_FLOATS.iter().find(|(name, _)| *name == key);
    found.map_or(f64::from(f32::MAX), |&(_, largest)| largest)
}

/// "at most 100", "at most 3.4e38".
pub(super) fn at_most(largest: f64) -> String {
    if largest > LARGEST as f64 { format!("at most {largest:.1e}") } else { format!("at most {largest}") }
}

fn limits(key: &str) -> (i64, i64) {
    match LIMITS.binary_search_by(|(name, ..)| (*name).cmp(key)) {
        Ok(at) => (LIMITS[at].1, LIMITS[at].2),
        Err(_) => (0, LARGEST),
    }
}

/// The numbers of a saved plan that no configuration can have: a plan that was damaged or changed by hand.
pub(super) fn impossible_numbers(plan: &impl Serialize) -> Vec<Problem> {
    let mut problems = Vec::new();
    match Value::try_from(plan) {
        Ok(value) => walk("", "", &value, &mut problems),
        // Above 64 bits with a sign.
        Err(error) => problems.push(Problem { place: Place::File, key: String::new(), message: error.to_string() }),
    }
    problems
}

fn walk(path: &str, key: &str, value: &Value, problems: &mut Vec<Problem>) {
    let expected = match value {
        Value::Integer(number) => {
            let (smallest, largest) = limits(key);
            (!(smallest..=largest).contains(number)).then(|| format!("a whole number from {smallest} to {largest}"))
        }
        Value::Float(number) => {
            let largest = largest_float(key);
            let smallest = if BELOW_0.contains(&key) { -largest } else { 0.0 };
            (!(smallest..=largest).contains(number))
                .then(|| format!("a number from {smallest} and {}", at_most(largest)))
        }
        Value::Array(values) => return values.iter().for_each(|value| walk(path, key, value, problems)),
        Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, key, value, problems);
            }
            return;
        }
        _ => return,
    };
    if let Some(expected) = expected {
        let message = format!("{path} must be {expected}, got {value}; the plan of a run is not made to be edited");
        problems.push(Problem { place: Place::File, key: path.to_owned(), message });
    }
}

/// What batches of images take.
pub(super) struct Batches {
    pub(super) n_images: usize,
    pub(super) image_hw: [usize; 2],
    pub(super) prefetch: usize,
}

impl Batches {
    pub(super) fn check(&self, reader: &Reader<'_>) {
        let pixels = self.image_hw.iter().product::<usize>() as f64 * self.n_images as f64;
        let gib = |bytes: f64| format!("{:.1} GiB", bytes / GIB);
        // Three channels of 32 bits.
        let batch_bytes = 12.0 * pixels;
        let expected = format!(
            "small enough for batches of at most {} (images_per_step / accumulation x pixels x 12 bytes)",
            gib(BATCH_BYTES)
        );
        let keys = ["data.images_per_step", "model.image_size", "optimiser.accumulation"];
        reader.check(batch_bytes <= BATCH_BYTES, &keys, &expected, gib(batch_bytes));
        // Three channels of 8 bits.
        let prepared_bytes = 3.0 * pixels * (self.prefetch + 1) as f64;
        let expected = format!("small enough for prepared batches of at most {} together", gib(PREPARED_BYTES));
        let keys = ["data.prefetch", "data.images_per_step", "model.image_size"];
        reader.check(prepared_bytes <= PREPARED_BYTES, &keys, &expected, gib(prepared_bytes));
    }
}

/// The blocks of a transformer.
pub(super) struct Blocks {
    pub(super) depth: usize,
    pub(super) dim: usize,
    pub(super) mlp_dim: usize,
}

/// Checks the approximate number of parameters: the blocks and the position table decide it.
pub(super) fn check_parameters(reader: &Reader<'_>, blocks: &[Blocks], positions: [usize; 2]) {
    let [n_positions, dim] = positions.map(|number| number as f64);
    let of_blocks = blocks.iter().map(|blocks| {
        let [depth, dim, mlp_dim] = [blocks.depth, blocks.dim, blocks.mlp_dim].map(|number| number as f64);
        depth * dim * (4.0 * dim + 2.0 * mlp_dim)
    });
    let n_parameters = of_blocks.sum::<f64>() + n_positions * dim;
    let expected = format!("a network of at most {PARAMETERS:e} parameters");
    reader.check(n_parameters <= PARAMETERS, &["model.sizes"], &expected, format!("{n_parameters:.1e}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_sensible() {
        assert!(LIMITS.is_sorted_by(|a, b| a.0 < b.0), "keys are looked up by bisection");
        assert!(LIMITS.iter().all(|(_, smallest, largest)| smallest < largest));
        assert_eq!((largest("prefetch"), largest("steps"), largest("patience")), (1024, LARGEST, LARGEST));
    }
}
