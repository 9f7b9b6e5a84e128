//! COCO's run-length encoding, in which masks are stored, merged and compared.
//!
//! Source: `maskApi.c` of pycocotools 2.0.11, to which all results are equal bit for bit. Pixels are counted in
//! **column-major** order; the runs alternate, the first counts zeros and may be empty. Different from the reference:
//! an `Rle` is always valid (its runs sum to height x width) and canonical (no other run is empty), so equal masks are
//! equal values; masks of different sizes are errors, where the reference returns -1 or an empty mask.
//!
//! Neither direction visits pixels one by one. Encoding packs eight rows into one byte per column, and only bits that
//! differ from the pixel above cost anything. Decoding writes one toggle per run end, then XORs each row with the one
//! above.

use crate::decode::MAX_PIXELS;
use crate::error::ImageError;
use crate::mask::{Mask, checked_area, same_size};

/// A binary mask as column-major run lengths.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rle {
    size_hw: [usize; 2],
    counts: Vec<u32>,
}

impl Rle {
    /// A mask from uncompressed COCO counts.
    ///
    /// # Errors
    ///
    /// When the runs do not sum to height x width, or the size is above [`MAX_PIXELS`].
    pub fn new(size_hw: [usize; 2], counts: &[u32]) -> Result<Self, ImageError> {
        let mut runs = RunWriter::new(size_hw, counts.len())?;
        for &count in counts {
            runs.push(u64::from(count))?;
        }
        runs.finish()
    }

    /// A mask with no pixel set.
    ///
    /// # Errors
    ///
    /// When the size is above [`MAX_PIXELS`].
    pub fn empty(size_hw: [usize; 2]) -> Result<Self, ImageError> {
        Ok(Self::from_transitions(size_hw, checked_area(size_hw)?, &[]))
    }

    /// Encodes a bitmap.
    #[must_use]
    pub fn from_mask(mask: &Mask) -> Self {
        let [height, width] = mask.size_hw();
        Self::from_transitions(mask.size_hw(), height * width, &Packed::new(mask).transitions())
    }

    /// Decodes to a bitmap.
    #[must_use]
    pub fn to_mask(&self) -> Mask {
        let [height, width] = self.size_hw;
        let mut mask = Mask::empty(self.size_hw);
        let pixels = mask.pixels_mut();
        // Rows that may have set pixels: from the first toggle to the last, or to the bottom.
        let (mut first_row, mut end_row) = (height, 0);
        let (mut first_column, mut end_column) = (width, 0);
        for (start, end) in self.spans() {
            let (start, last) = (start as usize, end as usize - 1);
            let (start_column, last_column) = (start / height, last / height);
            let (start_row, stop_row) = (start % height, last % height + 1);
            pixels[start_row * width + start_column] ^= true;
            // A run that extends into further columns starts at their top.
            pixels[start_column + 1..(last_column + 1).max(start_column + 1)]
                .iter_mut()
                .for_each(|pixel| *pixel ^= true);
            let crosses = last_column > start_column;
            first_row = first_row.min(if crosses { 0 } else { start_row });
            end_row = end_row.max(if crosses { height } else { stop_row });
            if stop_row < height {
                pixels[stop_row * width + last_column] ^= true;
            }
            first_column = first_column.min(start_column);
            end_column = end_column.max(last_column + 1);
        }
        // Toggles below `end_row` only ever switch off; the row there is cleared by its own toggles.
        for row in first_row + 1..(end_row + 1).min(height) {
            let (above, below) = pixels.split_at_mut(row * width);
            let above = &above[(row - 1) * width..][first_column..end_column];
            for (pixel, &above) in below[first_column..end_column].iter_mut().zip(above) {
                *pixel ^= above;
            }
        }
        mask
    }

    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        self.size_hw
    }

    /// The run lengths: zeros, ones, zeros, and so on, in column-major order.
    #[must_use]
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Number of set pixels.
    #[must_use]
    pub fn area_px(&self) -> usize {
        self.counts.iter().skip(1).step_by(2).map(|&count| count as usize).sum()
    }

    /// Whether no pixel is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.len() < 2
    }

    /// The tight box `[x, y, width, height]` (COCO's `toBbox`); all zero when no pixel is set.
    ///
    /// SA-1B's own boxes are one less in width and height, because they come from inclusive indices.
    #[must_use]
    pub fn bbox_xywh_px(&self) -> [usize; 4] {
        match self.bounds_xyxy_px() {
            Some([x0, y0, x1, y1]) => [x0, y0, x1 - x0, y1 - y0],
            None => [0; 4],
        }
    }

    /// The tight box `[x0, y0, x1, y1]` with exclusive ends, or `None` when no pixel is set.
    #[must_use]
    pub fn bounds_xyxy_px(&self) -> Option<[usize; 4]> {
        let height = self.size_hw[0] as u32;
        let first = *self.counts.first()?;
        if self.is_empty() {
            return None;
        }
        let (mut y0, mut y1) = (height, 0);
        let mut last_column = 0;
        // The column is tracked incrementally: most runs stay in one, and a division costs more than all the rest.
        let (mut column, mut column_end) = (first / height, (first / height + 1) * height);
        for (start, end) in self.spans() {
            if start >= column_end {
                column = start / height;
                column_end = (column + 1) * height;
            }
            let column_start = column_end - height;
            if end <= column_end {
                y0 = y0.min(start - column_start);
                y1 = y1.max(end - column_start);
                last_column = column;
            } else {
                (y0, y1) = (0, height);
                last_column = (end - 1) / height;
            }
        }
        Some([first / height, y0, last_column + 1, y1].map(|edge| edge as usize))
    }

    /// The pixels set in any of the masks.
    ///
    /// # Errors
    ///
    /// When there is no mask, or their sizes differ.
    pub fn union(masks: &[Rle]) -> Result<Self, ImageError> {
        let first = Self::first_of(masks)?;
        let mut spans: Vec<(u32, u32)> = masks.iter().flat_map(Rle::spans).collect();
        if masks.len() > 1 {
            spans.sort_unstable();
        }
        let mut transitions: Vec<u32> = Vec::with_capacity(spans.len() * 2);
        for (start, end) in spans {
            match transitions.last_mut() {
                Some(last_end) if start <= *last_end => *last_end = end.max(*last_end),
                _ => transitions.extend([start, end]),
            }
        }
        Ok(Self::from_transitions(first.size_hw, first.n_pixels(), &transitions))
    }

    /// The pixels set in all of the masks.
    ///
    /// # Errors
    ///
    /// When there is no mask, or their sizes differ.
    pub fn intersection(masks: &[Rle]) -> Result<Self, ImageError> {
        let mut result = Self::first_of(masks)?.clone();
        for mask in &masks[1..] {
            let mut transitions = Vec::new();
            for_each_overlap(&result, mask, |start, end| transitions.extend([start, end]));
            result = Self::from_transitions(result.size_hw, result.n_pixels(), &transitions);
        }
        Ok(result)
    }

    /// The pixels that are not set.
    #[must_use]
    pub fn complement(&self) -> Self {
        let counts = match self.counts.as_slice() {
            [0, rest @ ..] if !rest.is_empty() => rest.to_vec(),
            counts if self.n_pixels() == 0 => counts.to_vec(),
            counts => std::iter::once(0).chain(counts.iter().copied()).collect(),
        };
        Self { size_hw: self.size_hw, counts }
    }

    /// The pixels of this mask that are not set in the other.
    ///
    /// # Errors
    ///
    /// When the sizes differ.
    pub fn without(&self, other: &Rle) -> Result<Self, ImageError> {
        Self::intersection(&[self.clone(), other.complement()])
    }

    fn first_of(masks: &[Rle]) -> Result<&Self, ImageError> {
        let first = masks.first().ok_or(ImageError::NothingToMerge)?;
        for mask in masks {
            same_size(first.size_hw, mask.size_hw)?;
        }
        Ok(first)
    }

    fn n_pixels(&self) -> usize {
        self.size_hw[0] * self.size_hw[1]
    }

    /// The runs of ones as half-open ranges of column-major positions.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut at = 0;
        self.counts.chunks_exact(2).map(move |pair| {
            let start = at + pair[0];
            at = start + pair[1];
            (start, at)
        })
    }

    /// From the strictly increasing positions at which the value changes; a position at the very end has no effect.
    pub(crate) fn from_transitions(size_hw: [usize; 2], n_pixels: usize, transitions: &[u32]) -> Self {
        let mut counts = Vec::with_capacity(transitions.len() + 1);
        let mut last = 0;
        for &at in transitions {
            counts.push(at - last);
            last = at;
        }
        if n_pixels as u32 > last || counts.is_empty() {
            counts.push(n_pixels as u32 - last);
        }
        Self { size_hw, counts }
    }
}

/// Calls `visit` with every maximal range that is set in both masks.
pub(crate) fn for_each_overlap(a: &Rle, b: &Rle, mut visit: impl FnMut(u32, u32)) {
    let (mut spans_a, mut spans_b) = (a.spans(), b.spans());
    let (Some(mut span_a), Some(mut span_b)) = (spans_a.next(), spans_b.next()) else {
        return;
    };
    loop {
        let (start, end) = (span_a.0.max(span_b.0), span_a.1.min(span_b.1));
        if start < end {
            visit(start, end);
        }
        let next = if span_a.1 <= span_b.1 {
            spans_a.next().map(|span| span_a = span)
        } else {
            spans_b.next().map(|span| span_b = span)
        };
        if next.is_none() {
            return;
        }
    }
}

/// Collects untrusted runs, validates them one by one, and makes them canonical.
pub(crate) struct RunWriter {
    size_hw: [usize; 2],
    expected: u64,
    sum: u64,
    n_pushed: usize,
    counts: Vec<u32>,
}

impl RunWriter {
    /// `capacity` is an estimate of the number of runs.
    pub(crate) fn new(size_hw: [usize; 2], capacity: usize) -> Result<Self, ImageError> {
        let expected = checked_area(size_hw)? as u64;
        let counts = Vec::with_capacity(capacity);
        Ok(Self { size_hw, expected, sum: 0, n_pushed: 0, counts })
    }

    /// Adds the next run; its value alternates.
    pub(crate) fn push(&mut self, count: u64) -> Result<(), ImageError> {
        // Stops at the first run beyond the end, so the sum cannot overflow.
        self.sum += count.min(MAX_PIXELS + 1);
        if self.sum > self.expected {
            return Err(self.wrong_sum());
        }
        let count = count as u32;
        let is_other_value = self.n_pushed % 2 == self.counts.len() % 2;
        self.n_pushed += 1;
        if is_other_value {
            // An empty run in the middle is omitted, and the next run extends the last one.
            if count > 0 || self.counts.is_empty() {
                self.counts.push(count);
            }
        } else if let Some(last) = self.counts.last_mut() {
            *last += count;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Rle, ImageError> {
        if self.sum != self.expected {
            return Err(self.wrong_sum());
        }
        if self.counts.is_empty() {
            self.counts.push(0);
        }
        Ok(Rle { size_hw: self.size_hw, counts: self.counts })
    }

    fn wrong_sum(&self) -> ImageError {
        ImageError::RleSum { size_hw: self.size_hw, expected: self.expected, got: self.sum }
    }
}

/// A bitmap with eight rows in each byte: bit `i` of `bytes[group * width + column]` is the pixel at row `8 * group +
/// i`.
struct Packed {
    size_hw: [usize; 2],
    bytes: Vec<u8>,
    /// First and end of the row groups with set pixels.
    groups: (usize, usize),
    /// Non-zero where a column has a set pixel.
    column_any: Vec<u8>,
}

impl Packed {
    fn new(mask: &Mask) -> Self {
        let [height, width] = mask.size_hw();
        let n_groups = height.div_ceil(8);
        let mut bytes = vec![0u8; n_groups * width];
        let mut column_any = vec![0u8; width];
        let mut groups = (n_groups, 0);
        if width > 0 {
            let eight_rows = mask.pixels().chunks(8 * width);
            for (group, (rows, packed)) in eight_rows.zip(bytes.chunks_exact_mut(width)).enumerate() {
                for (bit, row) in rows.chunks_exact(width).enumerate() {
                    for (byte, &pixel) in packed.iter_mut().zip(row) {
                        *byte |= u8::from(pixel) << bit;
                    }
                }
                let mut any = 0;
                for (column, &byte) in column_any.iter_mut().zip(packed.iter()) {
                    *column |= byte;
                    any |= byte;
                }
                if any != 0 {
                    groups = (groups.0.min(group), group + 1);
                }
            }
        }
        Self { size_hw: [height, width], bytes, groups, column_any }
    }

    /// Column-major positions at which the value changes, starting from unset.
    fn transitions(&self) -> Vec<u32> {
        let [height, width] = self.size_hw;
        let (first_group, end_group) = self.groups;
        let mut transitions = Vec::new();
        let mut last_is_set = 0u8;
        for (column, &any) in self.column_any.iter().enumerate() {
            let top = (column * height) as u32;
            // Nothing is set above the first group, or in an empty column.
            if last_is_set == 1 && (any == 0 || first_group > 0) {
                transitions.push(top);
                last_is_set = 0;
            }
            if any == 0 {
                continue;
            }
            for group in first_group..end_group {
                let n_bits = (height - group * 8).min(8);
                let byte = self.bytes[group * width + column];
                let valid = 0xFF >> (8 - n_bits);
                let mut changes = (byte ^ (byte << 1 | last_is_set)) & valid;
                while changes != 0 {
                    transitions.push(top + group as u32 * 8 + changes.trailing_zeros());
                    changes &= changes - 1;
                }
                last_is_set = byte >> (n_bits - 1) & 1;
            }
            if last_is_set == 1 && end_group * 8 < height {
                transitions.push(top + end_group as u32 * 8);
                last_is_set = 0;
            }
        }
        transitions
    }
}
