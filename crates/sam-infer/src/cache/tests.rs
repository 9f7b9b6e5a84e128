use std::time::{Duration, SystemTime};

use burn::tensor::Tolerance;
use sam_image::RgbImage;
use sam_model::init::initialise;
use sam_model::weights::Checkpoint;

use super::*;
use crate::{Predictor, image_fingerprint};

fn predictor(seed: u64) -> Predictor {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sam.safetensors");
    let (sam, _) = Checkpoint::open(&fixture).and_then(|file| file.load(&Device::flex())).expect("a fixture");
    Predictor::new(&initialise(sam, seed))
}

fn image(shade: u8) -> RgbImage {
    let pixels = (0..20 * 16).flat_map(|at| [shade, (at % 20 * 11) as u8, (at / 20 * 13) as u8]).collect();
    RgbImage::from_raw(20, 16, pixels).expect("three bytes for each pixel")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The files of entries.
fn files(root: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = below(root).flat_map(|path| below(&path).collect::<Vec<_>>()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "emb"));
    files.sort();
    files
}

#[test]
fn an_embedding_is_read_as_it_was_computed() {
    let (root, predictor) = (folder(), predictor(1));
    let photo = image(7);
    let exact = predictor.embed(&photo).tensor.into_data();
    for dtype in [CacheDtype::F32, CacheDtype::F16] {
        let cache = predictor.open_cache(root.path(), dtype).expect("opened");
        let key = EntryKey::plain(image_fingerprint(&photo));
        assert!(!cache.has(key) && cache.load(key, &Device::flex()).is_none());
        let first = predictor.embed_with(&cache, &photo).expect("embedded").tensor.into_data();
        let second = predictor.embed_with(&cache, &photo).expect("read").tensor.into_data();
        // Whoever comes first gets what all later ones get.
        first.assert_eq(&second, true);
        match dtype {
            CacheDtype::F32 => first.assert_eq(&exact, true),
            CacheDtype::F16 => first.assert_approx_eq::<f32>(&exact, Tolerance::absolute(2e-3)),
        }
        assert!(cache.has(key));
    }
    assert_eq!(files(root.path()).len(), 2, "each type has its own");
}

#[test]
fn other_encoders_images_and_mirrorings_have_other_entries() {
    let root = folder();
    let (one, other) = (predictor(1), predictor(2));
    let cache = one.open_cache(root.path(), CacheDtype::F32).expect("opened");
    let key = EntryKey::plain(image_fingerprint(&image(7)));
    let embedding = one.embed_with(&cache, &image(7)).expect("embedded").tensor;
    let of_other = other.open_cache(root.path(), CacheDtype::F32).expect("opened");
    assert!(!of_other.has(key), "another encoder");
    assert!(!cache.has(EntryKey::plain(image_fingerprint(&image(8)))), "another image");
    for mirrored in [[true, false], [false, true], [true, true]] {
        let key = EntryKey { mirrored, ..key };
        assert!(!cache.has(key), "{mirrored:?}");
        cache.store(key, &embedding).expect("written");
        assert!(cache.load(key, &Device::flex()).is_some());
    }
    // A file under the name of another is not taken for it.
    std::fs::copy(cache.path_of(key), of_other.path_of(key)).expect("copied");
    assert!(of_other.has(key) && of_other.load(key, &Device::flex()).is_none());
    // The same weights in another process.
    let again = predictor(1).open_cache(root.path(), CacheDtype::F32).expect("opened");
    assert!(again.load(key, &Device::flex()).is_some());
    assert!(one.is_own_cache(&again) && !other.is_own_cache(&again));
}

#[test]
fn damage_of_any_byte_is_noticed_and_repaired() {
    let (root, predictor) = (folder(), predictor(1));
    let cache = predictor.open_cache(root.path(), CacheDtype::F16).expect("opened");
    let key = EntryKey::plain(image_fingerprint(&image(7)));
    let good = predictor.embed_with(&cache, &image(7)).expect("embedded").tensor.into_data();
    let path = cache.path_of(key);
    let bytes = std::fs::read(&path).expect("written");
    for at in (0..bytes.len()).step_by(37).chain([bytes.len() - 1]) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).expect("damaged");
        assert!(cache.load(key, &Device::flex()).is_none(), "byte {at}");
    }
    for len in [0, 1, 47, 48, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).expect("cut");
        assert!(!cache.has(key) && cache.load(key, &Device::flex()).is_none(), "{len} bytes");
    }
    let repaired = predictor.embed_with(&cache, &image(7)).expect("embedded").tensor.into_data();
    repaired.assert_eq(&good, true);
    assert_eq!(std::fs::read(&path).expect("written"), bytes);
}

#[test]
fn values_that_f16_cannot_hold_are_an_error() {
    let (root, predictor) = (folder(), predictor(1));
    let embedding = predictor.embed(&image(7)).tensor.mul_scalar(1e6);
    let key = EntryKey::plain(1);
    let half = predictor.open_cache(root.path(), CacheDtype::F16).expect("opened");
    let error = half.store(key, &embedding).expect_err("too large").to_string();
    assert!(error.contains("keep embeddings as f32"), "{error}");
    let single = predictor.open_cache(root.path(), CacheDtype::F32).expect("opened");
    single.store(key, &embedding).expect("written");
    let error = single.store(key, &embedding.mul_scalar(f32::INFINITY)).expect_err("infinite").to_string();
    assert!(error.contains("diverged"), "{error}");
}

#[test]
fn the_entries_used_longest_ago_make_room() {
    let root = folder();
    let (one, other) = (predictor(1), predictor(2));
    let cache = one.open_cache(root.path(), CacheDtype::F32).expect("opened");
    let earlier = other.open_cache(root.path(), CacheDtype::F32).expect("opened");
    let embedding = one.embed(&image(7)).tensor;
    let age = |cache: &EmbeddingCache, image: u64, hours: u64| {
        let key = EntryKey::plain(image);
        cache.store(key, &embedding).expect("written");
        let file = OpenOptions::new().write(true).open(cache.path_of(key)).expect("there");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).expect("aged");
        key
    };
    let needed = age(&cache, 1, 9);
    let (old, new) = (age(&cache, 2, 8), age(&cache, 3, 2));
    let foreign = age(&earlier, 4, 7);
    let protected = Protected::from([needed]);
    let size = cache.entry_bytes();
    assert_eq!(cache.make_room(&protected, size, 5 * size).n_removed, 0, "there is room");
    // The other encoder is in use.
    let made = cache.make_room(&protected, size, 4 * size);
    assert_eq!((made.n_removed, made.n_bytes, made.left_bytes), (1, size, 3 * size));
    assert!(!cache.has(old) && cache.has(needed) && cache.has(new) && earlier.has(foreign));
    let of_other = earlier.path_of(foreign);
    drop(earlier);
    assert_eq!(cache.make_room(&protected, size, 3 * size).n_removed, 1);
    assert!(!of_other.exists() && cache.has(new), "the one that was used before");
    assert_eq!(cache.make_room(&protected, size, 0).n_removed, 1);
    assert!(cache.has(needed) && !cache.has(new), "what is needed stays");
    // A use counts.
    let (kept, removed) = (age(&cache, 5, 6), age(&cache, 6, 5));
    cache.note_uses([&kept]);
    assert_eq!(cache.make_room(&protected, 0, 2 * size).n_removed, 1);
    assert!(cache.has(kept) && !cache.has(removed));
}

#[test]
fn the_index_of_images_survives_torn_and_damaged_lines() {
    let root = folder();
    let index = ImageIndex::open(root.path()).expect("opened");
    for content in 1..=3 {
        index.insert(content, content * 100).expect("written");
        index.insert(content, content * 100).expect("known");
    }
    let path = root.path().join("images.txt");
    let text = std::fs::read_to_string(&path).expect("written");
    assert_eq!(text.lines().count(), 3, "a known image is not written again: {text}");
    // The second line is damaged, the last is torn, and bytes that are no text follow.
    let damaged = text.replacen("00000000000000c8", "00000000000000c9", 1);
    let mut bytes = damaged.into_bytes();
    bytes.truncate(bytes.len() - 5);
    bytes.extend_from_slice(&[0xFF, 0xFE]);
    std::fs::write(&path, &bytes).expect("damaged");
    let index = ImageIndex::open(root.path()).expect("opened");
    assert_eq!([1, 2, 3].map(|content| index.pixels_of(content)), [Some(100), None, None]);
    index.insert(3, 300).expect("written");
    assert_eq!(ImageIndex::open(root.path()).expect("opened").pixels_of(3), Some(300));
}
