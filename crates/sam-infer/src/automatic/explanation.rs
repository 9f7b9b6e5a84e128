//! Why there are few masks or none: what every filter removed, and what the model predicted at best.

use super::candidates::Seen;
use super::generate::Removed;
use super::options::Thresholds;

impl Removed {
    /// What the filters removed in words, in their order; empty when they removed nothing.
    pub fn describe(&self) -> String {
        let counts = [
            (self.predicted_iou, "by predicted IoU"),
            (self.stability, "by stability"),
            (self.whole_image, "of almost the whole image"),
            (self.crop_edge, "at edges of crops"),
            (self.duplicates, "duplicates"),
            (self.crop_duplicates, "duplicates between crops"),
            (self.small, "too small"),
            (self.cleaned_duplicates, "duplicates once cleaned"),
            (self.texts, "that no text describes"),
            (self.covered, "covered by smaller ones"),
        ];
        let parts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Adds the counts of another image.
    pub fn add(&mut self, other: &Self) {
        let Self {
            predicted_iou,
            stability,
            whole_image,
            crop_edge,
            duplicates,
            crop_duplicates,
            small,
            cleaned_duplicates,
            covered,
            texts,
        } = other;
        self.predicted_iou += predicted_iou;
        self.stability += stability;
        self.whole_image += whole_image;
        self.crop_edge += crop_edge;
        self.duplicates += duplicates;
        self.crop_duplicates += crop_duplicates;
        self.small += small;
        self.cleaned_duplicates += cleaned_duplicates;
        self.covered += covered;
        self.texts += texts;
    }
}

impl Seen {
    /// Why an image has no mask, with what may help.
    pub fn explain_none(&self, removed: &Removed, thresholds: &Thresholds) -> String {
        let masks = self.masks;
        let best = |score: Option<f32>| score.map_or("none".to_owned(), |score| format!("{score:.3}"));
        let mut text = format!("no mask is left of {masks} for {} points", self.points);
        if removed.predicted_iou == masks {
            let (highest, threshold) = (best(self.best_predicted_iou), thresholds.predicted_iou);
            text.push_str(&format!(
                ": all have a predicted IoU of {threshold} or less, the highest is {highest}. A model that was fine-tuned \
                 with boxes only does not know how good its masks from points are: lower the threshold, or train with \
                 points as well"
            ));
        } else if removed.predicted_iou + removed.stability == masks {
            let (highest, threshold) = (best(self.best_stability), thresholds.stability);
            text.push_str(&format!(
                ": {} by predicted IoU (above {} stays), and all others have a stability below {threshold}, the highest is \
                 {highest}; lower the threshold",
                removed.predicted_iou, thresholds.predicted_iou
            ));
        } else {
            text.push_str(&format!(": {}", removed.describe()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_that_took_the_last_is_named() {
        let seen = Seen {
            points: 10,
            masks: 30,
            best_predicted_iou: Some(0.41),
            best_stability: Some(0.8),
            ..Seen::default()
        };
        let explain = |removed| seen.explain_none(&removed, &Thresholds::default());
        let text = explain(Removed { predicted_iou: 30, ..Removed::default() });
        assert!(text.contains("30 for 10 points") && text.contains("0.410") && text.contains("boxes only"), "{text}");
        let text = explain(Removed { predicted_iou: 20, stability: 10, ..Removed::default() });
        assert!(text.contains("20 by predicted IoU") && text.contains("the highest is 0.800"), "{text}");
        let text = explain(Removed { predicted_iou: 20, stability: 9, whole_image: 1, ..Removed::default() });
        assert!(text.ends_with("20 by predicted IoU, 9 by stability, 1 of almost the whole image"), "{text}");
    }
}
