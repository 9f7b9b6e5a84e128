//! Pixels on the CPU: decoding, SAM's preprocessing, masks. No tensor library, no data set, no model.
//!
//! - Images: [`decode_rgb`] reads a file, [`resize_longest_side`] resizes it to the model's input size, [`ModelFrame`] maps
//!   points and boxes between the two, [`upscale_mask`] maps masks back, [`overlay()`] draws prompts and masks.
//! - Masks: [`Mask`] is the bitmap, [`Rle`] the COCO run-length form in which masks are stored and compared.
//!   [`polygons_to_rle`] rasterises polygons and [`outlines`] traces them; [`Components`], [`DistanceMap`] and
//!   [`mask_boundary`] measure shapes.
//!
//! Results agree with the Python packages behind the field's data sets and papers: masks with pycocotools bit for bit, the
//! resize with Pillow to one grey level. Each module documents its differences.
//!
//! ```
//! use sam_image::{Rle, polygon_to_rle, rle_iou};
//!
//! // A polygon as COCO writes it, rasterised by COCO's rule.
//! let square = polygon_to_rle([6, 8], &[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0])?;
//! assert_eq!((square.area_px(), square.bbox_xywh_px()), (16, [1, 1, 4, 4]));
//!
//! // Bitmap and text both round-trip.
//! let mask = square.to_mask();
//! assert!(mask.get(1, 1) && !mask.get(0, 0));
//! assert_eq!(Rle::from_mask(&mask), square);
//! assert_eq!(Rle::from_coco_string([6, 8], square.to_coco_string().as_bytes())?, square);
//!
//! let left_half = polygon_to_rle([6, 8], &[1.0, 1.0, 3.0, 1.0, 3.0, 5.0, 1.0, 5.0])?;
//! assert_eq!(rle_iou(&square, &left_half)?, 0.5);
//! # Ok::<(), sam_image::ImageError>(())
//! ```

mod boundary;
mod components;
mod contact_sheet;
mod decode;
mod distance;
mod error;
mod fingerprint;
mod frame;
mod iou;
mod label_overlay;
mod mask;
mod outline;
mod overlay;
mod polygon;
mod regions;
mod resize;
mod rle;
mod rle_text;
mod upscale;
mod upscale_runs;

pub use boundary::{DILATION_RATIO, boundary_iou, boundary_thickness_px, mask_boundary};
pub use components::{Components, Connectivity, fill_small_holes, remove_small_islands};
pub use contact_sheet::{contact_sheet, paste};
pub use decode::{DEFAULT_MAX_PIXELS, MAX_PIXELS, check_size, decode_rgb, decode_rgb_bytes, decode_rgb_within};
pub use distance::{Border, DistanceMap};
pub use error::ImageError;
pub use fingerprint::image_fingerprint;
pub use frame::ModelFrame;
pub use image::RgbImage;
pub use iou::{bbox_iou_matrix, mask_iou, rle_intersection_px, rle_iou, rle_iou_matrix};
pub use label_overlay::LabelImage;
pub use mask::Mask;
pub use outline::{Outline, outlines, outlines_to_rle};
pub use overlay::{Overlay, PointLabel, mask_colour_rgb, overlay, save_grey_png, save_mask_png, save_rgb_png};
pub use polygon::{bbox_to_rle, polygon_to_rle, polygons_to_rle};
pub use regions::{Cleaned, clean_small_regions};
pub use resize::{Resampling, crop_rgb, resize_longest_side, resize_rgb, resize_rgb_with};
pub use rle::Rle;
pub use upscale::{upscale_logits, upscale_mask};
pub use upscale_runs::{MaskUpscaler, StabilityLevels, UpscaledMask};
