//! A space of vectors of unit length: nearest neighbours by their cosine, and how many of them are of the same class.

use rayon::prelude::*;
use serde::Serialize;

use super::Found;

/// The vectors of all objects in one space.
pub(super) struct Space {
    pub(super) name: &'static str,
    pub(super) vectors: Vec<Vec<f32>>,
}

/// How many neighbours are of the class of their object, over all objects that have another one of their class among their
/// candidates.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(super) struct SpaceScores {
    pub(super) space: &'static str,
    /// Objects that are counted.
    pub(super) objects: usize,
    /// Fraction of objects whose nearest neighbour is of the same class.
    pub(super) same_class_nearest: Option<f64>,
    /// Fraction of all neighbours.
    pub(super) same_class: Option<f64>,
    /// The same for random neighbours.
    pub(super) chance: Option<f64>,
}

impl Space {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, vectors: Vec::new() }
    }

    /// The nearest candidates of each object with their cosines, nearest first; of equals, the first.
    pub(super) fn nearest(
        &self,
        n: usize,
        is_candidate: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Vec<Vec<(usize, f32)>> {
        let of_object = |at: usize| {
            let candidates = (0..self.vectors.len()).filter(|&other| other != at && is_candidate(at, other));
            let mut all: Vec<(usize, f32)> =
                candidates.map(|other| (other, cosine(&self.vectors[at], &self.vectors[other]))).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(n);
            all
        };
        (0..self.vectors.len()).into_par_iter().map(of_object).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

/// The scores of each space.
pub(super) fn scores(
    objects: &[Found],
    spaces: &[Space],
    ranked: &[Vec<Vec<(usize, f32)>>],
    is_candidate: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Vec<SpaceScores> {
    let is_same = |a: usize, b: usize| objects[a].class.is_some() && objects[a].class == objects[b].class;
    let of_space = |(space, ranked): (&Space, &Vec<Vec<(usize, f32)>>)| {
        let (mut n, mut nearest, mut all, mut chance) = (0usize, 0.0, 0.0, 0.0);
        for (at, neighbours) in ranked.iter().enumerate() {
            let candidates = (0..objects.len()).filter(|&other| other != at && is_candidate(at, other));
            let (n_candidates, n_same) = candidates
                .fold((0usize, 0usize), |(all, same), other| (all + 1, same + usize::from(is_same(at, other))));
            if n_same == 0 {
                continue;
            }
            let same: Vec<f64> = neighbours.iter().map(|&(other, _)| f64::from(u8::from(is_same(at, other)))).collect();
            n += 1;
            nearest += same[0];
            all += same.iter().sum::<f64>() / same.len() as f64;
            chance += n_same as f64 / n_candidates as f64;
        }
        let mean = |sum: f64| (n > 0).then(|| sum / n as f64);
        SpaceScores {
            space: space.name,
            objects: n,
            same_class_nearest: mean(nearest),
            same_class: mean(all),
            chance: mean(chance),
        }
    };
    spaces.iter().zip(ranked).map(of_space).collect()
}

#[cfg(test)]
mod tests {
    use sam_image::RgbImage;

    use super::*;

    fn found(image: &str, class: Option<&str>) -> Found {
        let class = class.map(str::to_owned);
        Found { image: image.to_owned(), id: 1, class, thumbnail: RgbImage::new(1, 1) }
    }

    #[test]
    fn neighbours_are_ranked_and_scored() {
        // Two cats to the right, two dogs above, and something without a class between them.
        let objects = [
            found("a", Some("cat")),
            found("a", Some("cat")),
            found("b", Some("dog")),
            found("b", Some("dog")),
            found("b", None),
        ];
        let vectors = [[1.0, 0.0], [0.98, 0.199], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]].map(|v| v.to_vec()).to_vec();
        let space = Space { name: "test", vectors };
        let everywhere = |_: usize, _: usize| true;
        let ranked = space.nearest(2, &everywhere);
        let indices: Vec<Vec<usize>> = ranked.iter().map(|all| all.iter().map(|(at, _)| *at).collect()).collect();
        assert_eq!(indices, [vec![1, 4], vec![0, 4], vec![3, 4], vec![4, 2], vec![3, 1]]);
        let scores = scores(&objects, std::slice::from_ref(&space), &[ranked], &everywhere);
        // Nearest: cat-cat, cat-cat, dog-dog, dog-none; of two: one each; chance: one of four.
        assert_eq!(
            scores,
            [SpaceScores {
                space: "test",
                objects: 4,
                same_class_nearest: Some(0.75),
                same_class: Some(0.5),
                chance: Some(0.25),
            }]
        );
        let same_image = |a: usize, b: usize| objects[a].image == objects[b].image;
        let within: Vec<usize> = space.nearest(9, &same_image).iter().map(Vec::len).collect();
        assert_eq!(within, [1, 1, 2, 2, 2]);
    }
}
