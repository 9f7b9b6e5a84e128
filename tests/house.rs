//! The code map of `crates/README.md` is true: dependencies point down, no crate knows what it must not, every file that is
//! named exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Packages that a crate must not depend on, directly or indirectly: the column "must not know" of the map. Configuration files
/// are not in it, as burn itself depends on `toml`.
const FORBIDDEN: [(&str, &[&str]); 9] = [
    ("sam-image", &["burn", "serde_json", "toml"]),
    ("sam-kernel", &["burn", "image", "safetensors", "serde_json", "toml"]),
    ("sam-data", &["sam-model", "sam-infer", "burn-autodiff", "burn-train", "clap"]),
    ("sam-model", &["sam-data", "sam-eval", "image", "clap", "burn-train"]),
    ("sam-onnx", &["sam-data", "sam-eval", "sam-infer", "image", "clap", "burn-autodiff", "burn-train", "burn-optim"]),
    ("sam-infer", &["sam-data", "sam-eval", "clap", "burn-autodiff", "burn-train", "burn-optim", "burn-dataset"]),
    ("sam-eval", &["sam-learn", "clap", "burn-autodiff", "burn-train", "burn-optim"]),
    ("sam-learn", &["sam-train", "clap"]),
    ("sam-engine", &["sam-learn", "sam-train", "clap", "burn-autodiff", "burn-train", "burn-optim"]),
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn map() -> String {
    std::fs::read_to_string(crates().join("README.md")).expect("crates/README.md is committed")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(crates()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The crates of the workspace that each of them depends on, tests and benches aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let is_ours = |dependency: &Value| dependency["kind"].is_null() && dependency["path"].is_string();
    let depends_on = |package: &Value| -> BTreeSet<String> {
        list(&package["dependencies"]).iter().filter(|d| is_ours(d)).map(name).collect()
    };
    list(&metadata["packages"]).iter().map(|package| (name(package), depends_on(package))).collect()
}

/// The crates in the order of the map's drawing, the program first.
fn drawn() -> Vec<String> {
    let map = map();
    let drawing = map.split("```").nth(1).expect("the map begins with a drawing");
    drawing.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn dependencies_point_down_the_map() {
    let (graph, drawn) = (dependencies(), drawn());
    assert_eq!(graph.keys().collect::<BTreeSet<_>>(), drawn.iter().collect(), "the map draws every crate once");
    let height = |name: &String| drawn.iter().position(|other| other == name);
    for (from, name) in drawn.iter().enumerate() {
        for to in &graph[name] {
            assert!(height(to) > Some(from), "{name} depends on {to}, which the map draws above it");
        }
    }
}

#[test]
fn no_crate_reaches_what_it_must_not_know() {
    for (name, forbidden) in FORBIDDEN {
        let tree = cargo(&["tree", "--offline", "--locked", "-p", name, "-e", "normal", "--prefix", "none"]);
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(reached.contains(name), "cargo tree lists the crate itself: {tree}");
        for package in forbidden {
            assert!(!reached.contains(package), "{name} must not know {package}");
        }
    }
}

/// Files of others are opened by `sam-files` only, which rejects pipes and devices and has limits. Tests are exempt, and the
/// build script, which reads the git folder that it is in.
#[test]
fn files_are_read_through_their_limits() {
    let mut folders = vec![crates()];
    let mut n_read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of ours").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !["tests", "examples", "sam-files", "target"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" && !path.ends_with("sam-train/build.rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                n_read += 1;
                for call in ["fs::read(", "fs::read_to_string(", " File::open(", "fs::File::open("] {
                    assert!(!code.contains(call), "{} calls {call}..); use sam_files", path.display());
                }
            }
        }
    }
    assert!(n_read > 150, "only {n_read} files");
}

/// What waits for the device in a training step goes through `sam-learn/src/device_reads.rs`, which counts it. Validation, weights that are
/// written and checks of a device read as they like.
#[test]
fn a_training_step_reads_the_device_in_one_place() {
    let exempt = ["task/held_out.rs", "teacher/agreement.rs", "prompt/text.rs"];
    let of_learning = ["task", "optim", "prompts", "teacher", "texts", "target.rs", "embeddings.rs", "training_loop"];
    let of_model = ["sam.rs", "encoder", "decoder", "prompt", "mae", "ops", "lora/adapter.rs"];
    let of_learning = of_learning.map(|name| crates().join("sam-learn/src").join(name));
    let mut paths: Vec<PathBuf> = of_learning.into_iter().collect();
    paths.extend(of_model.map(|name| crates().join("sam-model/src").join(name)));
    let (mut n_read, mut n_exempt) = (0, 0);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).expect("a folder of ours").flatten().map(|entry| entry.path()));
            continue;
        }
        if exempt.iter().any(|name| path.ends_with(name)) {
            n_exempt += 1;
            continue;
        }
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code = text.split("\nmod tests {").next().unwrap_or_default();
        n_read += 1;
        for call in ["to_data", "into_scalar", "host_values"] {
            assert!(!code.contains(call), "{} calls {call}; use `read` of device_reads.rs", path.display());
        }
    }
    assert!(n_read > 50 && n_exempt == exempt.len(), "{n_read} files, {n_exempt} of those that may read");
}

/// A path in backquotes is seen from `crates/`; a bare name lies in the folder of the path before it in the same row.
#[test]
fn every_file_of_the_map_exists() {
    let map = map();
    let mut n_named = 0;
    for line in map.lines().filter(|line| line.starts_with('|') || line.starts_with('-') || line.starts_with(' ')) {
        let mut folder = PathBuf::new();
        for name in line.split('`').skip(1).step_by(2) {
            let is_rooted = name.starts_with("sam-") && name.contains('/') || name.starts_with("../");
            let is_path = name.ends_with(".rs") || name.ends_with('/');
            let is_relative = is_path && folder != PathBuf::new();
            if name.contains(char::is_whitespace) || !(is_rooted || is_relative) {
                continue;
            }
            let path = if is_rooted { crates().join(name) } else { folder.join(name) };
            assert!(path.exists(), "the map names `{name}`, which is gone: {line}");
            n_named += 1;
            if is_rooted {
                folder =
                    if name.ends_with('/') { path } else { path.parent().map(Path::to_path_buf).unwrap_or_default() };
            }
        }
    }
    assert!(n_named > 80, "the map names only {n_named} files: has its form changed?");
}
