//! Stored values of a GIF: masks of DRIVE, Carvana and other retina and car data sets are GIF files.
//!
//! A GIF has a palette and no grey levels. Where all colours of the palette are grey, the levels are the values, as in a grey
//! PNG (0 and 255 for a mask); otherwise the indices are, as in other label images with a palette. An animation is rejected,
//! because reading only its first frame would lose the rest unnoticed.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, MemoryLimit};

use crate::error::DataError;
use crate::formats::raster::{Meaning, Raster, Samples, wrong};

/// Largest frame: the format allows 65535 x 65535 pixels of one byte.
const MAX_FRAME_BYTES: NonZeroU64 = NonZeroU64::new(1 << 30).expect("not zero");

/// Reads the only frame of a GIF of at most `max_pixels`; `name` is for messages.
pub(crate) fn read_gif(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Raster, DataError> {
    let damaged = |error: gif::DecodingError| wrong(name, "readable", &error.to_string(), "export it again");
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(MAX_FRAME_BYTES));
    let mut decoder = options.read_info(bytes).map_err(damaged)?;
    let size_hw = [decoder.height(), decoder.width()].map(usize::from);
    let n_pixels = size_hw[0] * size_hw[1];
    if n_pixels == 0 {
        let got = format!("{} x {} (height x width)", size_hw[0], size_hw[1]);
        return Err(wrong(name, "at least 1 x 1 pixels large", &got, "export it again"));
    }
    sam_image::check_size(size_hw, name, max_pixels)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let no_frame = || wrong(name, "an image", "a GIF without one", "export it again");
    let frame = decoder.read_next_frame().map_err(damaged)?.ok_or_else(no_frame)?.clone();
    if decoder.next_frame_info().map_err(damaged)?.is_some() {
        return Err(wrong(name, "a single image", "an animation", "save each frame as its own file"));
    }
    let palette = frame.palette.clone().or(global).unwrap_or_default();
    let colours: Vec<[u8; 3]> = palette.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect();
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    if left + width > size_hw[1] || top + height > size_hw[0] || frame.buffer.len() < width * height {
        return Err(wrong(name, "a frame inside of its image", "one that leaves it", "export it again"));
    }
    // What the frame leaves out is background.
    let mut samples = vec![0u8; n_pixels];
    for (row, values) in frame.buffer.chunks_exact(width).take(height).enumerate() {
        samples[(top + row) * size_hw[1] + left..][..width].copy_from_slice(values);
    }
    let is_grey = !colours.is_empty() && colours.iter().all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]);
    if is_grey {
        let level = |index: u8| colours.get(usize::from(index)).map_or(0, |rgb| rgb[0]);
        samples.iter_mut().for_each(|sample| *sample = level(*sample));
    }
    let (meaning, palette) = if is_grey { (Meaning::Grey, None) } else { (Meaning::Palette, Some(colours)) };
    Ok(Raster { size_hw, n_channels: 1, samples: Samples::U8(samples), meaning, palette })
}

/// Rejects an image of several frames, of which only the first would be used: GIF, WebP and PNG can hold them.
pub(crate) fn reject_animation(bytes: &[u8], name: &str, max_pixels: u64) -> Result<(), DataError> {
    use image::ImageFormat;
    use image::codecs::{png::PngDecoder, webp::WebPDecoder};
    // What cannot be opened is reported by the decoder that reads it.
    let is_animation = match image::guess_format(bytes) {
        Ok(ImageFormat::Gif) => return read_gif(bytes, name, max_pixels).map(drop),
        Ok(ImageFormat::WebP) => {
            WebPDecoder::new(std::io::Cursor::new(bytes)).is_ok_and(|decoder| decoder.has_animation())
        }
        // Without the chunk that announces an animation, nothing needs to be decoded.
        Ok(ImageFormat::Png) if bytes.windows(4).take(1 << 12).any(|word| word == b"acTL") => {
            PngDecoder::new(std::io::Cursor::new(bytes)).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        _ => false,
    };
    match is_animation {
        true => Err(wrong(name, "a single image", "an animation", "save each frame as its own file")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gif_of(palette: &[u8], frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = gif::Encoder::new(&mut bytes, 3, 2, palette).expect("a header");
        for frame in frames {
            let frame = gif::Frame { width: 3, height: 2, buffer: (*frame).into(), ..gif::Frame::default() };
            encoder.write_frame(&frame).expect("written");
        }
        drop(encoder);
        bytes
    }

    #[test]
    fn grey_palettes_are_levels_and_others_are_ids() {
        let ids: &[u8] = &[0, 1, 1, 0, 2, 0];
        let grey = read_gif(&gif_of(&[0, 0, 0, 255, 255, 255, 7, 7, 7, 0, 0, 0], &[ids]), "t", 100).expect("reads");
        assert_eq!(grey.samples, Samples::U8(vec![0, 255, 255, 0, 7, 0]));
        assert_eq!((grey.size_hw, grey.meaning), ([2, 3], Meaning::Grey));
        // A reversed palette is no reversed mask.
        let reversed = read_gif(&gif_of(&[255, 255, 255, 0, 0, 0], &[&[0, 1, 1, 1, 1, 1]]), "t", 100).expect("reads");
        assert_eq!(reversed.samples, Samples::U8(vec![255, 0, 0, 0, 0, 0]));
        let colours = read_gif(&gif_of(&[0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 0], &[ids]), "t", 100).expect("reads");
        assert_eq!((colours.samples, colours.meaning), (Samples::U8(ids.to_vec()), Meaning::Palette));
    }

    #[test]
    fn animations_and_damage_are_errors() {
        let frame: &[u8] = &[0; 6];
        let two = gif_of(&[0, 0, 0, 255, 255, 255], &[frame, frame]);
        for error in [read_gif(&two, "t", 100).expect_err("two"), reject_animation(&two, "t", 100).expect_err("two")] {
            assert!(error.to_string().contains("an animation"), "{error}");
        }
        let one = gif_of(&[0, 0, 0, 255, 255, 255], &[frame]);
        for len in 0..one.len() {
            let _ = read_gif(&one[..len], "t", 100);
        }
        assert!(read_gif(&one[..20], "t", 100).is_err());
    }
}
