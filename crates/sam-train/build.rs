//! What `--version` and `doctor` say of the build: commit, features, profile and target.
//!
//! The commit is read from the files of the git checkout, so nothing needs `git`, and a build from an archive has none. The
//! script runs again when the commit changes, and only this crate is then compiled again.

use std::path::{Path, PathBuf};

/// Hexadecimal digits of the commit that are shown.
const COMMIT_DIGITS: usize = 12;

/// The cargo features of this crate for devices.
const FEATURES: [&str; 4] = ["cuda", "vulkan", "wgpu", "autotune"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let commit = git_folder().and_then(|folder| commit(&folder)).unwrap_or_default();
    let is_on = |feature: &&str| std::env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase())).is_some();
    let features: Vec<&str> = FEATURES.into_iter().filter(is_on).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let [profile, target] = ["PROFILE", "TARGET"].map(|name| std::env::var(name).unwrap_or_default());
    let of_commit = if commit.is_empty() { String::new() } else { format!("{commit}, ") };
    println!("cargo:rustc-env=SAM_TRAIN_COMMIT={commit}");
    println!("cargo:rustc-env=SAM_TRAIN_FEATURES={features}");
    println!("cargo:rustc-env=SAM_TRAIN_PROFILE={profile}");
    println!("cargo:rustc-env=SAM_TRAIN_TARGET={target}");
    println!("cargo:rustc-env=SAM_TRAIN_BUILD={of_commit}features: {features}, {profile}, {target}");
}

/// The git folder of this workspace; that of a repository around it would be another project's.
fn git_folder() -> Option<PathBuf> {
    let at = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).join("../../.git");
    if at.is_dir() {
        return Some(at);
    }
    // In a linked work tree it is a file that names the folder.
    let text = std::fs::read_to_string(&at).ok()?;
    let folder = PathBuf::from(text.strip_prefix("gitdir:")?.trim());
    Some(if folder.is_absolute() { folder } else { at.parent()?.join(folder) })
}

fn commit(folder: &Path) -> Option<String> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).ok()?;
        // A file that does not exist would run this script at every build.
        println!("cargo:rerun-if-changed={}", path.display());
        Some(text)
    };
    let head = read(folder.join("HEAD"))?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return shortened(&head) };
    // Branches of a linked work tree are in the common folder.
    let common = read(folder.join("commondir")).map_or_else(|| folder.to_path_buf(), |path| folder.join(path.trim()));
    if let Some(commit) = read(common.join(name)) {
        return shortened(&commit);
    }
    let packed = read(common.join("packed-refs"))?;
    // The next commit makes a file of its own for the branch, but it also writes this log.
    read(folder.join("logs/HEAD"));
    packed.lines().find_map(|line| shortened(line.strip_suffix(name)?))
}

fn shortened(commit: &str) -> Option<String> {
    let digits: String = commit.trim().chars().take(COMMIT_DIGITS).collect();
    (digits.len() == COMMIT_DIGITS && digits.chars().all(|digit| digit.is_ascii_hexdigit())).then_some(digits)
}
