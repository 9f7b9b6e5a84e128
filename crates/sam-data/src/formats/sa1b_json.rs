//! One JSON file of SA-1B: the dict, or the bare list; with or without a class beside each mask.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::finding::{Finding, ProblemKind};
use crate::formats::Annotated;
use crate::formats::segmentation::{SegmentationKind, segmentation_mask};
use crate::sample::ObjectMask;

/// Our own key. Also the quick sign of it: other files do not hold this text, and are not parsed.
const CLASS_KEY: &str = "\"class\"";

#[derive(Deserialize)]
struct DictJson<'a> {
    image: ImageJson,
    #[serde(borrow)]
    annotations: Vec<AnnotationJson<'a>>,
}

#[derive(Deserialize)]
struct ImageJson {
    height: usize,
    width: usize,
}

#[derive(Deserialize)]
struct AnnotationJson<'a> {
    #[serde(default)]
    id: Option<u64>,
    #[serde(borrow)]
    segmentation: &'a RawValue,
    #[serde(default, borrow)]
    class: Option<&'a RawValue>,
}

impl AnnotationJson<'_> {
    /// The class; `None` for null and for what somebody else means by the key.
    fn class(&self) -> Option<String> {
        class_name(self.class)
    }
}

/// All that the search for classes needs.
#[derive(Deserialize)]
struct ClassJson<'a> {
    #[serde(default, borrow)]
    class: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ClassesJson<'a> {
    #[serde(borrow)]
    annotations: Vec<ClassJson<'a>>,
}

fn class_name(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str::<String>(value?.get()).ok().filter(|name| !name.is_empty())
}

#[derive(Deserialize)]
struct SizeJson {
    size: [usize; 2],
}

/// The class names of one JSON file of either kind; none when it cannot be parsed.
pub(crate) fn classes_in(bytes: &[u8]) -> BTreeSet<String> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains(CLASS_KEY)) else {
        return BTreeSet::new();
    };
    let annotations = match is_list(bytes) {
        true => serde_json::from_str::<Vec<ClassJson<'_>>>(text),
        false => serde_json::from_str::<ClassesJson<'_>>(text).map(|json| json.annotations),
    };
    annotations.unwrap_or_default().iter().filter_map(|annotation| class_name(annotation.class)).collect()
}

/// Whether a file is the bare list.
fn is_list(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The objects of one JSON file of either kind.
pub(crate) fn read_json(bytes: &[u8], name: &str, image_hw: [usize; 2], classes: &[String]) -> Annotated {
    let parsed = if is_list(bytes) {
        serde_json::from_slice::<Vec<AnnotationJson<'_>>>(bytes).map(|annotations| (None, annotations))
    } else {
        serde_json::from_slice::<DictJson<'_>>(bytes)
            .map(|dict| (Some([dict.image.height, dict.image.width]), dict.annotations))
    };
    let (declared_hw, annotations) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let mut annotated = Annotated::new(image_hw);
            let detail =
                format!("must be SA-1B's dict with image and annotations, or a bare list of annotations: {error}");
            annotated.findings.push(Finding::new(ProblemKind::LabelUnreadable, name, detail));
            return annotated;
        }
    };
    // In a bare list, only the masks state the size.
    let first_hw = || {
        annotations
            .iter()
            .find_map(|a| serde_json::from_str::<SizeJson>(a.segmentation.get()).ok())
            .map(|json| json.size)
    };
    let mut annotated = Annotated::new(declared_hw.or_else(first_hw).unwrap_or(image_hw));
    for (ordinal, annotation) in annotations.iter().enumerate() {
        let id = annotation.id.unwrap_or(ordinal as u64 + 1);
        let place = format!("{name}, annotation {id}");
        let text = annotation.segmentation.get().as_bytes();
        let kind = if text.first() == Some(&b'[') { SegmentationKind::Polygons } else { SegmentationKind::Rle };
        let class = annotation.class();
        let index = class.as_ref().and_then(|class| classes.iter().position(|known| known == class));
        if let Some(class) = class.filter(|_| index.is_none()) {
            let detail = format!("its class {class:?} is in none of the files that were looked at for classes");
            annotated.findings.push(Finding::new(ProblemKind::CategoryUnknown, place, detail));
        } else if let Some(mask) = segmentation_mask(annotated.frame_hw, kind, text, &place, &mut annotated.findings) {
            annotated.objects.push(ObjectMask { mask, class: index, id, captions: Vec::new() });
        }
    }
    annotated
}
