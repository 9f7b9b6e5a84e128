//! Prompts of many images from one file: JSON or CSV with points, boxes and texts, or the boxes of a COCO file.
//!
//! - JSON: a list of objects, each `{"image": "a.jpg", "points": [[x, y], [x, y, 0]], "box": [x0, y0, x1, y1], "text": "a cat",
//!   "label": "cat"}` with any of points, a box and a text; a third number of 0 makes a point negative.
//! - COCO: a dict with `images` and `annotations`, whose boxes are prompts and whose categories are labels.
//! - CSV: a header with `image` and any of `object`, `label`, `x`, `y`, `positive`, `x0`, `y0`, `x1`, `y1`, `text`; each row
//!   has any of a point, a box and a text. Rows of an image with the same `object` are one object; without it each row is one.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use sam_infer::Prompt;
use serde::Deserialize;
use serde_json::Value;

/// The prompts of an image, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ImagePrompts {
    /// Its path as the file has it.
    pub(crate) image: String,
    pub(crate) objects: Vec<PromptedObject>,
}

/// The prompt of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PromptedObject {
    pub(crate) label: Option<String>,
    /// In words; its vector is in the prompt once CLIP is open.
    pub(crate) text: Option<String>,
    pub(crate) prompt: Prompt,
}

/// Reads a file of prompts: images in the order in which they are named first.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<ImagePrompts>> {
    let text = sam_data::read_text(path, sam_files::MAX_TEXT_BYTES)?;
    let is_json = text.trim_start().starts_with(['[', '{']);
    let read = if is_json { of_json(&text) } else { of_csv(&text) };
    let images = read.with_context(|| format!("{}", path.display()))?;
    if images.is_empty() {
        bail!("{}: there is no prompt", path.display());
    }
    Ok(images)
}

/// Objects collected by image.
#[derive(Default)]
struct Collected {
    images: Vec<ImagePrompts>,
    index: HashMap<String, usize>,
}

impl Collected {
    fn image(&mut self, name: &str) -> &mut ImagePrompts {
        let next = self.images.len();
        let at = *self.index.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.images.push(ImagePrompts { image: name.to_owned(), objects: Vec::new() });
        }
        &mut self.images[at]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectJson {
    image: String,
    #[serde(default)]
    points: Vec<Vec<f32>>,
    #[serde(rename = "box")]
    box_xyxy_px: Option<[f32; 4]>,
    text: Option<String>,
    label: Option<String>,
}

fn of_json(text: &str) -> anyhow::Result<Vec<ImagePrompts>> {
    if text.trim_start().starts_with('{') {
        return of_coco(text);
    }
    let objects: Vec<ObjectJson> = serde_json::from_str(text).context(
        "prompts must be a list of {\"image\", \"points\", \"box\", \"text\", \"label\"}, a COCO file or CSV",
    )?;
    let mut collected = Collected::default();
    for (index, object) in objects.into_iter().enumerate() {
        let point = |values: &Vec<f32>| match values[..] {
            [x, y] | [x, y, 1.0] => Ok(([x, y], true)),
            [x, y, 0.0] => Ok(([x, y], false)),
            _ => Err(anyhow!("object {index}: a point must be [x, y], [x, y, 1] or [x, y, 0], got {values:?}")),
        };
        let points_xy_px = object.points.iter().map(point).collect::<anyhow::Result<_>>()?;
        let prompt = Prompt { points_xy_px, box_xyxy_px: object.box_xyxy_px, ..Prompt::default() };
        if prompt == Prompt::default() && object.text.is_none() {
            bail!("object {index}: there must be points, a box or a text");
        }
        let ObjectJson { image, text, label, .. } = object;
        collected.image(&image).objects.push(PromptedObject { label, text, prompt });
    }
    Ok(collected.images)
}

#[derive(Deserialize)]
struct CocoJson {
    images: Vec<CocoImage>,
    annotations: Vec<CocoBox>,
    #[serde(default)]
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: Value,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoBox {
    image_id: Value,
    bbox: [f32; 4],
    #[serde(default)]
    category_id: Value,
    #[serde(default)]
    iscrowd: Value,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: Value,
    name: String,
}

fn of_coco(text: &str) -> anyhow::Result<Vec<ImagePrompts>> {
    let file: CocoJson =
        serde_json::from_str(text).context("a COCO file must have images with file_name and annotations with bbox")?;
    let names: HashMap<String, &str> =
        file.images.iter().map(|image| (image.id.to_string(), image.file_name.as_str())).collect();
    let labels: HashMap<String, &str> =
        file.categories.iter().map(|category| (category.id.to_string(), category.name.as_str())).collect();
    let mut collected = Collected::default();
    for (index, annotation) in file.annotations.iter().enumerate() {
        // A crowd is no object that a box could prompt.
        if annotation.iscrowd == 1 || annotation.iscrowd == true {
            continue;
        }
        let image = names
            .get(&annotation.image_id.to_string())
            .ok_or_else(|| anyhow!("annotation {index}: there is no image with the id {}", annotation.image_id))?;
        let [x, y, width, height] = annotation.bbox;
        let prompt = Prompt { box_xyxy_px: Some([x, y, x + width, y + height]), ..Prompt::default() };
        let label = labels.get(&annotation.category_id.to_string()).map(|&label| label.to_owned());
        collected.image(image).objects.push(PromptedObject { label, text: None, prompt });
    }
    Ok(collected.images)
}

fn of_csv(text: &str) -> anyhow::Result<Vec<ImagePrompts>> {
    const COLUMNS: [&str; 11] = ["image", "object", "label", "x", "y", "positive", "x0", "y0", "x1", "y1", "text"];
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().map(|(_, line)| fields(line)).unwrap_or_default();
    if let Some(unknown) = header.iter().find(|name| !COLUMNS.contains(&name.as_str())) {
        bail!("a column must be one of {}, got `{unknown}`", COLUMNS.join(", "));
    }
    if !header.iter().any(|name| name == "image") {
        bail!("the first line must name the columns, `image` among them");
    }
    let mut collected = Collected::default();
    let mut objects: HashMap<(String, String), usize> = HashMap::new();
    for (number, line) in lines {
        let row = CsvRow { header: &header, fields: fields(line) };
        let place = || format!("line {}", number + 1);
        if row.fields.len() != header.len() {
            bail!("{}: there must be {} fields, got {}", place(), header.len(), row.fields.len());
        }
        let name = row.text("image").ok_or_else(|| anyhow!("{}: `image` is empty", place()))?;
        let image = collected.image(name);
        let at = match row.text("object") {
            Some(object) => *objects.entry((name.to_owned(), object.to_owned())).or_insert(image.objects.len()),
            None => image.objects.len(),
        };
        if at == image.objects.len() {
            image.objects.push(PromptedObject::default());
        }
        row.add_to(&mut image.objects[at]).with_context(place)?;
    }
    Ok(collected.images)
}

struct CsvRow<'a> {
    header: &'a [String],
    fields: Vec<String>,
}

impl CsvRow<'_> {
    /// `None` where the column is missing or the field empty.
    fn text(&self, column: &str) -> Option<&str> {
        let at = self.header.iter().position(|name| name == column)?;
        Some(self.fields[at].trim()).filter(|text| !text.is_empty())
    }

    /// All of some columns as numbers, or none of them.
    fn numbers<const N: usize>(&self, columns: [&str; N]) -> anyhow::Result<Option<[f32; N]>> {
        let given: Vec<&str> = columns.iter().filter_map(|column| self.text(column)).collect();
        if given.is_empty() {
            return Ok(None);
        }
        let number = |text: &&str| text.parse::<f32>().map_err(|_| anyhow!("`{text}` is not a number"));
        let numbers = given.iter().map(number).collect::<anyhow::Result<Vec<f32>>>()?;
        let n = numbers.len();
        numbers.try_into().map(Some).map_err(|_| anyhow!("{} belong together, got {n} of them", columns.join(", ")))
    }

    fn add_to(&self, object: &mut PromptedObject) -> anyhow::Result<()> {
        let (point, corners) = (self.numbers(["x", "y"])?, self.numbers(["x0", "y0", "x1", "y1"])?);
        let text = self.text("text");
        if point.is_none() && corners.is_none() && text.is_none() {
            bail!("there must be a point (x, y), a box (x0, y0, x1, y1) or a text");
        }
        if text.is_some() && object.text.is_some() && object.text.as_deref() != text {
            bail!("an object has one text");
        }
        object.text = text.map(str::to_owned).or_else(|| object.text.take());
        if let Some(point) = point {
            let positive = match self.text("positive") {
                None | Some("1" | "true") => true,
                Some("0" | "false") => false,
                Some(other) => bail!("`positive` must be 1 or 0, got `{other}`"),
            };
            object.prompt.points_xy_px.push((point, positive));
        }
        if corners.is_some() && object.prompt.box_xyxy_px.is_some() {
            bail!("an object has one box");
        }
        object.prompt.box_xyxy_px = object.prompt.box_xyxy_px.or(corners);
        if let Some(label) = self.text("label") {
            object.label = Some(label.to_owned());
        }
        Ok(())
    }
}

/// The fields of a line; a field in quotes may hold commas, and doubled quotes for one.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut letters = line.trim_end_matches('\r').chars().peekable();
    while let Some(letter) = letters.next() {
        let last = fields.last_mut().expect("there is a first field");
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                last.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            letter => last.push(letter),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> anyhow::Result<Vec<ImagePrompts>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("prompts");
        std::fs::write(&path, text).expect("written");
        read(&path)
    }

    fn object(points: &[([f32; 2], bool)], box_xyxy_px: Option<[f32; 4]>, label: &str) -> PromptedObject {
        let prompt = Prompt { points_xy_px: points.to_vec(), box_xyxy_px, ..Prompt::default() };
        PromptedObject { label: (!label.is_empty()).then(|| label.to_owned()), text: None, prompt }
    }

    #[test]
    fn json_csv_and_coco_say_the_same() {
        let json = r#"[{"image": "a, b.jpg", "points": [[3, 4], [5.5, 6, 0]], "label": "cat"},
            {"image": "c.jpg", "box": [1, 2, 3, 4], "label": "dog"}, {"image": "a, b.jpg", "box": [0, 0, 9, 9]}]"#;
        let expected = [
            ImagePrompts {
                image: "a, b.jpg".to_owned(),
                objects: vec![
                    object(&[([3.0, 4.0], true), ([5.5, 6.0], false)], None, "cat"),
                    object(&[], Some([0.0, 0.0, 9.0, 9.0]), ""),
                ],
            },
            ImagePrompts { image: "c.jpg".to_owned(), objects: vec![object(&[], Some([1.0, 2.0, 3.0, 4.0]), "dog")] },
        ];
        assert_eq!(parsed(json).expect("valid"), expected);
        let csv = "image,object,label,x,y,positive,x0,y0,x1,y1\r\n\"a, b.jpg\",1,cat,3,4,,,,,\r\nc.jpg,1,dog,,,,1,2,3,4\n\
                   \"a, b.jpg\",1,,5.5,6,0,,,,\n\n\"a, b.jpg\",,,,,,0,0,9,9\n";
        assert_eq!(parsed(csv).expect("valid"), expected);
        let coco = r#"{"images": [{"id": 7, "file_name": "c.jpg"}], "categories": [{"id": 3, "name": "dog"}],
            "annotations": [{"image_id": 7, "bbox": [1, 2, 2, 2], "category_id": 3}, {"image_id": 7, "bbox": [0, 0, 1, 1],
            "iscrowd": 1}]}"#;
        assert_eq!(parsed(coco).expect("valid"), expected[1..]);
    }

    #[test]
    fn wrong_files_are_refused_with_their_place() {
        for (text, words) in [
            ("[]", "there is no prompt"),
            ("[{\"image\": \"a\"}]", "object 0: there must be points, a box or a text"),
            ("[{\"image\": \"a\", \"points\": [[1]]}]", "a point must be"),
            ("[{\"image\": \"a\", \"boxes\": []}]", "unknown field `boxes`"),
            ("{\"images\": []}", "a COCO file must have"),
            (
                "{\"images\": [], \"annotations\": [{\"image_id\": 3, \"bbox\": [0, 0, 1, 1]}]}",
                "no image with the id 3",
            ),
            ("file,x,y\na,1,2", "got `file`"),
            ("x,y\n1,2", "`image` among them"),
            ("image,x,y\na,1", "line 2: there must be 3 fields, got 2"),
            ("image,x,y\na,1,", "line 2: x, y belong together, got 1 of them"),
            ("image,x,y\na,1,b", "line 2: `b` is not a number"),
            ("image,x,y\n,1,2", "line 2: `image` is empty"),
            ("image,x,y,positive\na,1,2,yes", "got `yes`"),
            ("image,x0,y0,x1,y1,object\na,0,0,1,1,1\na,0,0,1,1,1", "line 3: an object has one box"),
        ] {
            let error = parsed(text).expect_err("invalid");
            let message = format!("{error:#}");
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
