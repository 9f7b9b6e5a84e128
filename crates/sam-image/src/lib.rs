//! Pixels on the CPU: decoding, the one preprocessing of SAM, masks. No tensor library, no data set, no model.
//!
//! - Images: [`decode_rgb`] reads a file, [`resize_longest_side`] brings it to the model's size, [`ModelFrame`] carries
//!   points and boxes there and back, [`upscale_mask`] brings masks back, [`overlay()`] draws what a person wants to see.
//! - Masks: [`Mask`] is the bitmap, [`Rle`] the COCO run-length form in which masks are stored and compared,
//!   [`polygon`] fills outlines and [`outline`] draws them, [`components`], [`distance`] and [`boundary`] measure shape.
//!
//! Numbers agree with the Python packages that the field's data sets and papers were made with: the mask half with
//! pycocotools bit for bit, the resize with Pillow to one grey level. Each module says where it differs.

mod error;

pub mod boundary;
pub mod components;
pub mod contact_sheet;
pub mod decode;
pub mod distance;
pub mod frame;
pub mod iou;
pub mod mask;
pub mod outline;
pub mod overlay;
pub mod polygon;
pub mod resize;
pub mod rle;
mod rle_text;
pub mod upscale;

pub use boundary::{boundary_iou, boundary_thickness_px, mask_boundary};
pub use components::{Components, Connectivity, fill_small_holes, remove_small_islands};
pub use contact_sheet::{contact_sheet, paste};
pub use decode::{decode_rgb, decode_rgb_bytes, read_size_hw};
pub use distance::{Border, DistanceMap};
pub use error::ImageError;
pub use frame::ModelFrame;
pub use image::RgbImage;
pub use iou::{bbox_iou_matrix, mask_iou, rle_intersection_px, rle_iou, rle_iou_matrix};
pub use mask::Mask;
pub use outline::{Outline, outlines, outlines_to_rle};
pub use overlay::{Overlay, PointLabel, mask_colour_rgb, overlay, save_mask_png, save_rgb_png};
pub use polygon::{bbox_to_rle, polygon_to_rle, polygons_to_rle, rings_to_rle};
pub use resize::{Resampling, resize_longest_side, resize_rgb, resize_rgb_with};
pub use rle::Rle;
pub use upscale::{upscale_logits, upscale_mask};
