//! Masks as row-major run lengths, unset first, as CVAT and Label Studio have them; COCO's are column-major.

use sam_image::{Mask, Rle};

/// Run lengths in the making.
#[derive(Debug)]
struct RowRuns {
    runs: Vec<usize>,
    value: bool,
}

impl RowRuns {
    fn new() -> Self {
        Self { runs: vec![0], value: false }
    }

    fn push(&mut self, value: bool, n_pixels: usize) {
        if n_pixels == 0 {
            return;
        }
        if value != self.value {
            self.runs.push(0);
            self.value = value;
        }
        if let Some(last) = self.runs.last_mut() {
            *last += n_pixels;
        }
    }

    fn push_row(&mut self, mask: &Mask, row: usize, [x0, x1]: [usize; 2]) {
        mask.row(row)[x0..x1].iter().for_each(|&pixel| self.push(pixel, 1));
    }
}

/// The tight box `[left, top, width, height]` of a mask, and the runs of the pixels in it; `None` for an empty mask.
pub(super) fn in_box(mask: &Rle) -> Option<([usize; 4], Vec<usize>)> {
    let [x0, y0, x1, y1] = mask.bounds_xyxy_px()?;
    let mask = mask.to_mask();
    let mut runs = RowRuns::new();
    (y0..y1).for_each(|row| runs.push_row(&mask, row, [x0, x1]));
    Some(([x0, y0, x1 - x0, y1 - y0], runs.runs))
}

/// The runs of all pixels of the image.
pub(super) fn in_image(mask: &Rle) -> Vec<usize> {
    let [height, width] = mask.size_hw();
    let mut runs = RowRuns::new();
    let Some([x0, y0, x1, y1]) = mask.bounds_xyxy_px() else { return vec![height * width] };
    let mask = mask.to_mask();
    runs.push(false, y0 * width);
    for row in y0..y1 {
        runs.push(false, x0);
        runs.push_row(&mask, row, [x0, x1]);
        runs.push(false, width - x1);
    }
    runs.push(false, (height - y1) * width);
    runs.runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(rows: &[&str]) -> Rle {
        let size_hw = [rows.len(), rows[0].len()];
        Rle::from_mask(&Mask::from_fn(size_hw, |row, column| rows[row].as_bytes()[column] == b'#'))
    }

    #[test]
    fn runs_go_along_rows_and_begin_unset() {
        let mask = drawn(&["......", "..##..", "..#.#.", "......"]);
        // Rows of the box: ##. and #.#
        assert_eq!(in_box(&mask), Some(([2, 1, 3, 2], vec![0, 2, 1, 1, 1, 1])));
        assert_eq!(in_image(&mask), [8, 2, 4, 1, 1, 1, 7]);
        let all = drawn(&["##", "##"]);
        assert_eq!((in_box(&all), in_image(&all)), (Some(([0, 0, 2, 2], vec![0, 4])), vec![0, 4]));
        let none = drawn(&["...", "..."]);
        assert_eq!((in_box(&none), in_image(&none)), (None, vec![6]));
    }
}
