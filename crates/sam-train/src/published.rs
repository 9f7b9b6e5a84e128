//! Published weights: where they are, how large they are, and how a download is checked.
//!
//! Sources: the READMEs of `facebookresearch/segment-anything` and `facebookresearch/mae`, and Hugging Face. The six digits in
//! the names of Meta's SAM files begin their MD5; its README gives as many digits of the MD5 of the MAE files. Sizes and SHA-256
//! of the SAM files are those that several independent projects pin (micro-sam, 3D Slicer's SegmentAnything, kornia). The
//! README of this project has the same table, which a test compares.

use std::io::Read;
use std::path::Path;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

/// Weights that somebody else publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The file's name, or the repository's on Hugging Face.
    pub(crate) name: &'static str,
    /// What it holds.
    pub(crate) about: &'static str,
    /// Where it is.
    pub(crate) from: Origin,
    /// Its size in words.
    pub(crate) size: &'static str,
    /// Its size and SHA-256, where they are known for certain.
    pub(crate) exact: Option<(u64, &'static str)>,
}

/// Where published weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file below this address.
    Url(&'static str),
    /// A Hugging Face repository.
    HuggingFace,
}

const SAM: Origin = Origin::Url("https://dl.fbaipublicfiles.com/segment_anything/");
const MOBILE: Origin = Origin::Url("https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/");
const MAE: Origin = Origin::Url("https://dl.fbaipublicfiles.com/mae/pretrain/");

/// In the order of the README.
pub(crate) const PUBLISHED: [Published; 11] = [
    Published {
        name: "sam_vit_b_01ec64.pth",
        about: "SAM vit_b",
        from: SAM,
        size: "375 MB",
        exact: Some((375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912")),
    },
    Published {
        name: "sam_vit_l_0b3195.pth",
        about: "SAM vit_l",
        from: SAM,
        size: "1.2 GB",
        exact: Some((1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622")),
    },
    Published {
        name: "sam_vit_h_4b8939.pth",
        about: "SAM vit_h",
        from: SAM,
        size: "2.6 GB",
        exact: Some((2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e")),
    },
    of_hugging_face("facebook/sam-vit-base", "SAM vit_b", "375 MB"),
    of_hugging_face("facebook/sam-vit-large", "SAM vit_l", "1.2 GB"),
    of_hugging_face("facebook/sam-vit-huge", "SAM vit_h", "2.6 GB"),
    of_hugging_face("wanglab/medsam-vit-base", "MedSAM: vit_b, trained on medical images with boxes", "375 MB"),
    Published {
        name: "mobile_sam.pth",
        about: "MobileSAM: TinyViT as the encoder",
        from: MOBILE,
        size: "41 MB",
        exact: None,
    },
    Published { name: "mae_pretrain_vit_base.pth", about: "MAE encoder vit_b", from: MAE, size: "343 MB", exact: None },
    Published {
        name: "mae_pretrain_vit_large.pth",
        about: "MAE encoder vit_l",
        from: MAE,
        size: "1.2 GB",
        exact: None,
    },
    Published {
        name: "mae_pretrain_vit_huge.pth",
        about: "MAE encoder vit_h, patches of 14 px",
        from: MAE,
        size: "2.5 GB",
        exact: None,
    },
];

const fn of_hugging_face(name: &'static str, about: &'static str, size: &'static str) -> Published {
    Published { name, about, from: Origin::HuggingFace, size, exact: None }
}

/// What to give where no checkpoint is known: the smallest official one.
pub(crate) const FIRST: &Published = &PUBLISHED[0];

impl Published {
    /// Its address.
    pub(crate) fn url(&self) -> String {
        match self.from {
            Origin::Url(folder) => format!("{folder}{}", self.name),
            Origin::HuggingFace => format!("https://huggingface.co/{}", self.name),
        }
    }

    /// How to get it.
    pub(crate) fn advice(&self) -> String {
        let Self { name, about, size, .. } = self;
        match self.from {
            Origin::Url(_) => format!("{name} ({about}, {size}) is at {}", self.url()),
            Origin::HuggingFace => {
                let folder = name.rsplit('/').next().unwrap_or(name);
                format!(
                    "{name} ({about}, {size}) is a repository on Hugging Face: `hf download {name} --local-dir {folder}`, \
                     then give the folder {folder}"
                )
            }
        }
    }
}

/// The published weights that a path means which does not exist: by file name, by repository, or by the name of a variant.
pub(crate) fn meant_by(path: &Path) -> Option<&'static Published> {
    let file = path.file_name()?.to_string_lossy().to_lowercase();
    let whole = path.to_string_lossy().to_lowercase().replace('\\', "/");
    let is_repository = |name: &str| {
        let folder = name.rsplit('/').next().unwrap_or(name);
        whole == name || whole.ends_with(&format!("/{name}")) || file == folder
    };
    let exact = PUBLISHED.iter().find(|published| match published.from {
        Origin::Url(_) => file == published.name,
        Origin::HuggingFace => is_repository(published.name),
    });
    // "vit_b", "sam_vit_b.pth", "sam_vit_b_01ec64.safetensors": before the six digits.
    let stem = file.split('.').next().unwrap_or(&file);
    let is_part = |published: &&Published| {
        let Some((name, _)) = published.name.rsplit_once('_').filter(|_| published.from == SAM) else { return false };
        stem == name || Some(stem) == name.strip_prefix("sam_") || published.name.strip_suffix(".pth") == Some(stem)
    };
    exact.or_else(|| PUBLISHED.iter().find(is_part))
}

/// How the SHA-256 of a file compares with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// It is the published file.
    Published(&'static Published),
    /// The digits in its name are those of its SHA-256.
    AsNamed,
    /// Nothing is known of it.
    Unknown,
}

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// The SHA-256 of a file in hexadecimal digits, and what it says.
///
/// # Errors
///
/// When the file cannot be read, or when it is not what its name says.
pub(crate) fn check_file(path: &Path) -> Result<(String, Check)> {
    let mut file = sam_files::open_regular(path)?;
    let (mut hash, mut n_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n_read => {
                hash.update(&buffer[..n_read]);
                n_bytes += n_read as u64;
            }
        }
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let check = compare(&name, n_bytes, &digits)?;
    Ok((digits, check))
}

fn compare(name: &str, n_bytes: u64, digits: &str) -> Result<Check> {
    // A published file under another name is still that file.
    let is_it = |published: &&Published| published.exact.is_some_and(|(_, known)| known == digits);
    if let Some(published) = PUBLISHED.iter().find(is_it) {
        return Ok(Check::Published(published));
    }
    if let Some(published) = PUBLISHED.iter().find(|published| published.name == name) {
        let Some((known_bytes, known)) = published.exact else { return Ok(Check::Unknown) };
        let what = if n_bytes == known_bytes { "another content" } else { "another size" };
        bail!(
            "{name} has {what} than the published file: {n_bytes} bytes, SHA-256 {digits}, and not {known_bytes} bytes, \
             {known}; download it again from {}, or rename it if it is another model",
            published.url()
        );
    }
    match named_digits(name) {
        Some(named) if digits.starts_with(named) => Ok(Check::AsNamed),
        Some(named) => bail!(
            "{name}: its SHA-256 must begin with {named}, as its name says, got {digits}; download it again, or rename it \
             if it was changed on purpose"
        ),
        None => Ok(Check::Unknown),
    }
}

/// The digits of a name like `model-0123abcd.pth`, by which `torch.hub` verifies a download.
fn named_digits(name: &str) -> Option<&str> {
    /// As `torch.hub` writes them.
    const DIGITS: usize = 8;
    let (stem, _) =
        name.rsplit_once('.').filter(|(_, extension)| matches!(*extension, "pth" | "pt" | "safetensors"))?;
    let (_, digits) = stem.rsplit_once('-')?;
    let is_hash = digits.len() >= DIGITS
        && digits.chars().all(|digit| digit.is_ascii_digit() || ('a'..='f').contains(&digit))
        // A date or a step number is no hash.
        && digits.chars().any(|digit| digit.is_ascii_alphabetic());
    is_hash.then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_are_recognised_by_what_was_meant() {
        for (path, name) in [
            ("sam_vit_b_01ec64.pth", Some("sam_vit_b_01ec64.pth")),
            ("weights/SAM_vit_H_4b8939.pth", Some("sam_vit_h_4b8939.pth")),
            ("sam_vit_l.pth", Some("sam_vit_l_0b3195.pth")),
            ("vit_b", Some("sam_vit_b_01ec64.pth")),
            ("sam_vit_b_01ec64.safetensors", Some("sam_vit_b_01ec64.pth")),
            ("facebook/sam-vit-base", Some("facebook/sam-vit-base")),
            ("/home/a/facebook/sam-vit-huge", Some("facebook/sam-vit-huge")),
            ("models/sam-vit-large", Some("facebook/sam-vit-large")),
            ("mae_pretrain_vit_huge.pth", Some("mae_pretrain_vit_huge.pth")),
            ("runs/mine/best.safetensors", None),
            ("sam_vit_b_01ec64_mine.pth", None),
        ] {
            assert_eq!(meant_by(Path::new(path)).map(|published| published.name), name, "{path}");
        }
    }

    #[test]
    fn a_file_is_compared_with_its_name() {
        let (bytes, known) = FIRST.exact.expect("known");
        assert_eq!(compare("renamed.pth", bytes, known).expect("it"), Check::Published(FIRST));
        let error = compare(FIRST.name, bytes, &"0".repeat(64)).expect_err("changed").to_string();
        assert!(error.contains("another content than the published file") && error.contains(&FIRST.url()), "{error}");
        let error = compare(FIRST.name, 1000, &"0".repeat(64)).expect_err("cut").to_string();
        assert!(error.contains("another size") && error.contains("1000 bytes"), "{error}");
        assert_eq!(
            compare("mine-0123abcd.pth", 1, &format!("0123abcd{}", "0".repeat(56))).expect("fits"),
            Check::AsNamed
        );
        let error = compare("mine-0123abcd.pth", 1, &"0".repeat(64)).expect_err("differs").to_string();
        assert!(error.contains("must begin with 0123abcd"), "{error}");
        for name in ["mine.pth", "run-20240131.pth", "best-model.pth", "mine-0123abcd.txt"] {
            assert_eq!(compare(name, 1, &"0".repeat(64)).expect("unknown"), Check::Unknown, "{name}");
        }
    }

    #[test]
    fn the_hash_is_sha_256() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("abc.pth");
        std::fs::write(&path, "abc").expect("written");
        // FIPS 180-2, appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(check_file(&path).expect("read"), (known.to_owned(), Check::Unknown));
    }

    #[test]
    fn the_readme_has_the_same_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
        let readme = std::fs::read_to_string(path).expect("committed");
        for published in &PUBLISHED {
            let Published { name, about, size, exact, .. } = published;
            let size = exact.map_or_else(|| (*size).to_owned(), |(bytes, _)| format!("{bytes} bytes"));
            let row = format!("| [{name}]({}) | {about} | {size} |", published.url());
            assert!(readme.contains(&row), "README.md lacks the row `{row}`");
            if let Some((_, known)) = exact {
                assert!(readme.contains(known), "README.md lacks the SHA-256 of {name}");
            }
        }
        assert_eq!(readme.matches("fbaipublicfiles.com").count(), 6, "as many files of Meta as in the table");
    }
}
