//! Against scikit-image, scipy and numpy; `tests/fixtures/generate_edges.py` made the expectations.

use std::path::{Path, PathBuf};

use sam_data::{BoundarySet, SourceOptions};
use sam_image::Mask;
use serde_json::Value;

use super::assignment::{Pair, PairGraph, assign};
use super::suppression::{EdgeSuppression, Ridges};
use super::{EdgeCounts, EdgeMap, EdgeScores, EdgeTolerance, ThresholdCounts, count_edges, thin};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/edges")
}

fn reference() -> Value {
    let text = std::fs::read_to_string(folder().join("reference.json")).expect("the fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn mask(rows: &Value) -> Mask {
    let rows: Vec<&str> = list(rows).iter().map(|row| row.as_str().expect("a row")).collect();
    Mask::from_fn([rows.len(), rows[0].len()], |row, column| rows[row].as_bytes()[column] == b'1')
}

/// Counts of an image at all thresholds.
fn counts(value: &Value) -> EdgeCounts {
    let at = |counts: &Value| {
        let [n_found, n_boundary, n_right, n_edge] = [0, 1, 2, 3].map(|at| counts[at].as_u64().expect("a count"));
        ThresholdCounts { n_found, n_boundary, n_right, n_edge }
    };
    EdgeCounts(list(value).iter().map(at).collect())
}

#[test]
fn thinning_equals_scikit_image() {
    let reference = reference();
    for case in list(&reference["thin"]) {
        assert_eq!(thin(&mask(&case["map"])), mask(&case["thin"]));
    }
}

#[test]
fn both_suppressions_equal_their_definition_in_scipy() {
    let case = &reference()["suppression"];
    let size_hw = [0, 1].map(|axis| case["size_hw"][axis].as_u64().expect("a size") as usize);
    let floats = |key: &str| -> Vec<f32> { numbers(&case[key]).into_iter().map(|number| number as f32).collect() };
    let strength = floats("strength");
    let gradient: Vec<[f32; 2]> = floats("gradient").chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    let ridges = Ridges { size_hw, strength: &strength, gradient: &gradient };
    for (rule, expected, is_sure) in [
        (EdgeSuppression::Gradient, "by_gradient", "gradient_is_sure"),
        (EdgeSuppression::Ridge, "by_ridge", "ridge_is_sure"),
    ] {
        let (got, expected, is_sure) = (rule.apply(&ridges), floats(expected), mask(&case[is_sure]));
        let mut n_kept = 0;
        for at in 0..got.len() {
            if is_sure.pixels()[at] {
                assert!((got[at] - expected[at]).abs() < 1e-6, "{}: {at}: {} {}", rule.name(), got[at], expected[at]);
                n_kept += usize::from(got[at] > 0.0);
            }
        }
        assert!(is_sure.area_px() > 600 && (50..500).contains(&n_kept), "{}: {n_kept} kept", rule.name());
    }
}

#[test]
fn assignments_equal_scipys_in_number_and_cost() {
    let reference = reference();
    for case in list(&reference["assignments"]) {
        let [n_rows, n_columns] = [0, 1].map(|at| case["size"][at].as_u64().expect("a size") as usize);
        let mut graph = PairGraph { n_columns, ..PairGraph::default() };
        let costs: Vec<[u64; 3]> =
            list(&case["costs"]).iter().map(|cost| [0, 1, 2].map(|at| cost[at].as_u64().expect("a number"))).collect();
        for row in 0..n_rows as u64 {
            let pairs = costs.iter().filter(|cost| cost[0] == row);
            graph.pairs.extend(pairs.map(|cost| Pair { column: cost[1] as u32, cost: cost[2] as u32 }));
            graph.ends.push(graph.pairs.len());
        }
        let columns = assign(&graph);
        let cost_of = |row: usize, column: u32| {
            costs.iter().find(|cost| cost[0] == row as u64 && cost[1] == u64::from(column)).expect("a pair")[2]
        };
        let cost: u64 = columns.iter().enumerate().filter_map(|(row, column)| Some(cost_of(row, (*column)?))).sum();
        assert_eq!(
            (columns.iter().flatten().count() as u64, cost),
            (case["n_pairs"].as_u64().expect("a number"), case["cost"].as_u64().expect("a number"))
        );
    }
}

fn check_scores(got: EdgeScores, expected: &Value, tolerance: f64) {
    for (name, got) in [("ods", got.ods), ("ois", got.ois), ("ap", got.ap), ("r50", got.r50)] {
        let expected = expected[name].as_f64().expect("a number");
        assert!((got - expected).abs() < tolerance, "{name}: {got} is not {expected}");
    }
}

#[test]
fn scores_of_counts_equal_numpys() {
    let case = &reference()["scores"];
    let images: Vec<EdgeCounts> = list(&case["counts"]).iter().map(counts).collect();
    check_scores(EdgeScores::of(&images.iter().collect::<Vec<_>>()).expect("scored"), case, 1e-12);
}

#[test]
fn a_data_set_has_the_counts_and_scores_of_the_reference_packages() {
    let case = &reference()["bsds"];
    let set = BoundarySet::open(&folder().join("bsds"), &SourceOptions::default()).expect("listed");
    let tolerance = EdgeTolerance(case["tolerance"].as_f64().expect("a number"));
    let mut images = Vec::new();
    for index in 0..set.len() {
        let name = set.name(index);
        let map = image::open(folder().join("maps").join(name)).expect("an edge map").into_luma8();
        let map = EdgeMap::new([map.height() as usize, map.width() as usize], map.into_raw());
        let people = set.people(index).expect("boundaries");
        let got = count_edges(name, &map, &people, tolerance).expect("counted");
        let stem = name.trim_start_matches("test/").trim_end_matches(".png");
        let expected = counts(&case["counts"][stem]);
        for (threshold, (got, expected)) in got.0.iter().zip(&expected.0).enumerate() {
            // Of several best pairings, another may have been taken, which only shows in `n_right`.
            let but_right = |counts: &ThresholdCounts| (counts.n_found, counts.n_boundary, counts.n_edge);
            assert_eq!(but_right(got), but_right(expected), "{name}, threshold {threshold}");
            let limit = 1 + expected.n_right / 50;
            assert!(got.n_right.abs_diff(expected.n_right) <= limit, "{name}, {threshold}: {got:?} {expected:?}");
        }
        images.push(got);
    }
    check_scores(EdgeScores::of(&images.iter().collect::<Vec<_>>()).expect("scored"), case, 5e-4);
}
