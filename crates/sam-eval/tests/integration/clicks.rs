//! The click rule against its restatement with scipy: `clicks.txt`.

use sam_eval::{Click, Clicker};
use sam_image::{Mask, Rle};

use super::fixture;

fn mask(size_hw: [usize; 2], text: &str) -> Mask {
    Rle::from_coco_string(size_hw, text.as_bytes()).expect("a mask").to_mask()
}

#[test]
fn every_click_and_iou_equals_the_reference() {
    let (mut n_clicks, mut n_positive, mut n_ignoring) = (0, 0, 0);
    for (number, line) in fixture("clicks.txt").lines().enumerate() {
        let mut fields = line.split(' ');
        let mut next = || fields.next();
        let size_hw = [0; 2].map(|_: usize| next().expect("a size").parse().expect("a number"));
        let target = mask(size_hw, next().expect("a target"));
        let ignore = next().filter(|&text| text != "-").map(|text| mask(size_hw, text));
        n_ignoring += usize::from(ignore.is_some());
        let mut clicker = Clicker::new(target, ignore);
        let mut prediction = Mask::empty(size_hw);
        while let Some(text) = next() {
            if text != "=" {
                prediction = mask(size_hw, text);
            }
            let [row, column, sign] = [0; 3].map(|_: u32| next().expect("a click").parse().expect("a number"));
            let iou: f64 = next().expect("an IoU").parse().expect("a number");
            let expected = Click { column, row, is_positive: sign == 1 };
            assert_eq!(clicker.next_click(&prediction), expected, "line {}, click {n_clicks}", number + 1);
            assert_eq!(clicker.iou(&prediction), iou, "line {}", number + 1);
            n_clicks += 1;
            n_positive += usize::from(expected.is_positive);
        }
    }
    assert_eq!(n_clicks, 4800);
    assert!(n_positive > 1000 && n_positive < 3800 && n_ignoring == 150, "{n_positive} {n_ignoring}");
}
