//! What `sam-train neighbours` shows: a table of scores, and objects with their neighbours as pictures.

use anyhow::Result;
use sam_eval::{Gallery, GalleryItem, Page, Section, Table, jpeg_data_uri};
use serde::Serialize;

use super::Found;
use super::space::{Space, SpaceScores};

/// The content of the page and of the JSON file.
pub(super) struct Shown<'a> {
    pub(super) objects: &'a [Found],
    pub(super) spaces: &'a [Space],
    /// By space and object: neighbours with their cosines.
    pub(super) ranked: &'a [Vec<Vec<(usize, f32)>>],
    pub(super) scores: &'a [SpaceScores],
    /// Objects that are shown.
    pub(super) queries: &'a [usize],
}

#[derive(Serialize)]
struct ResultsJson<'a> {
    about: &'a str,
    scores: &'a [SpaceScores],
    objects: Vec<ObjectJson<'a>>,
}

#[derive(Serialize)]
struct ObjectJson<'a> {
    image: &'a str,
    object_id: u64,
    class: Option<&'a str>,
    /// By space.
    neighbours: Vec<SpaceJson<'a>>,
}

#[derive(Serialize)]
struct SpaceJson<'a> {
    space: &'a str,
    nearest: Vec<NeighbourJson<'a>>,
}

#[derive(Serialize)]
struct NeighbourJson<'a> {
    image: &'a str,
    object_id: u64,
    class: Option<&'a str>,
    cosine: f32,
}

impl Shown<'_> {
    /// Scores of each space, with a header.
    pub(super) fn table(&self) -> Vec<Vec<String>> {
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
        let row = |scores: &SpaceScores| {
            let values = [scores.same_class_nearest, scores.same_class, scores.chance].map(shown);
            [vec![scores.space.to_owned(), scores.objects.to_string()], values.to_vec()].concat()
        };
        let header = ["space", "objects", "nearest of the same class", "neighbours of the same class", "chance"];
        std::iter::once(header.map(str::to_owned).to_vec()).chain(self.scores.iter().map(row)).collect()
    }

    pub(super) fn page(&self, title: &str) -> Result<Page> {
        let mut rows = self.table();
        let header = rows.remove(0);
        let note = "Over all objects that have another one of their class among those that were compared.".to_owned();
        let table = Table { title: "Neighbours of the same class".to_owned(), note, header, rows };
        let mut sections = vec![Section::Table(table)];
        for &query in self.queries {
            for (space, ranked) in self.spaces.iter().zip(self.ranked) {
                let mut items = vec![self.item(query, "query")?];
                for &(neighbour, cosine) in &ranked[query] {
                    items.push(self.item(neighbour, &format!("{cosine:.3}"))?);
                }
                let Found { image, id, .. } = &self.objects[query];
                let title = format!("{image}, object {id}, by {}", space.name);
                sections.push(Section::Gallery(Gallery { title, items }));
            }
        }
        Ok(Page { title: title.to_owned(), sections })
    }

    fn item(&self, object: usize, what: &str) -> Result<GalleryItem> {
        let Found { image, id, class, thumbnail } = &self.objects[object];
        let class = class.as_ref().map_or_else(String::new, |class| format!("{class}, "));
        let caption = format!("{what}: {class}{image}, object {id}");
        Ok(GalleryItem { caption, data_uri: jpeg_data_uri(thumbnail, image)? })
    }

    pub(super) fn json(&self, about: &str) -> Result<String> {
        let objects = (0..self.objects.len()).map(|at| self.object_json(at)).collect();
        Ok(serde_json::to_string_pretty(&ResultsJson { about, scores: self.scores, objects })?)
    }

    fn object_json(&self, at: usize) -> ObjectJson<'_> {
        let neighbour = |&(at, cosine): &(usize, f32)| {
            let Found { image, id, class, .. } = &self.objects[at];
            NeighbourJson { image, object_id: *id, class: class.as_deref(), cosine }
        };
        let spaces = self.spaces.iter().zip(self.ranked);
        let of_space = |(space, ranked): (&Space, &Vec<Vec<(usize, f32)>>)| SpaceJson {
            space: space.name,
            nearest: ranked[at].iter().map(neighbour).collect(),
        };
        let Found { image, id, class, .. } = &self.objects[at];
        ObjectJson { image, object_id: *id, class: class.as_deref(), neighbours: spaces.map(of_space).collect() }
    }
}
