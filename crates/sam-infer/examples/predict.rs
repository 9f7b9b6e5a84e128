//! One click to one mask: loads a checkpoint, embeds an image, and saves the mask with the highest predicted IoU.
//!
//! ```text
//! cargo run --release --example predict -- sam_vit_b_01ec64.pth photo.jpg 320 240 mask.png
//! ```

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use sam_image::{decode_rgb, save_mask_png};
use sam_infer::{DeviceName, MaskOutput, Predictor, Prompt};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, image, x, y, mask] = &arguments[..] else {
        eprintln!("usage: predict CHECKPOINT IMAGE X Y MASK.png");
        return ExitCode::from(2);
    };
    match segment(checkpoint.as_ref(), image.as_ref(), [x, y], mask.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn segment(checkpoint: &Path, image: &Path, [x, y]: [&str; 2], mask: &Path) -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Cpu.open()?;
    let (predictor, _report) = Predictor::from_checkpoint(checkpoint, &device)?;

    // The encoder takes most of the time; its output serves any number of prompts.
    let embedding = predictor.embed(&decode_rgb(image)?);

    let click = Prompt { points_xy_px: vec![([x.parse()?, y.parse()?], true)], ..Prompt::default() };
    let prediction = predictor.predict(&embedding, &click, MaskOutput::Multi)?;
    let best = prediction.best();
    save_mask_png(&prediction.masks()[best], mask)?;
    eprintln!("{}: predicted IoU {:.3}", mask.display(), prediction.iou_predictions[best]);
    Ok(())
}
