//! Patterns over official keys.

/// `image_encoder` matches everything below it; `*` any text.
pub(super) fn is_matched(key: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = key.strip_prefix(first) else { return false };
    if !pattern.contains('*') {
        return rest.is_empty() || rest.starts_with('.') || first.ends_with('.');
    }
    let parts: Vec<&str> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        if at + 1 == parts.len() && !part.is_empty() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    true
}

/// The key that is most similar to a pattern that matches none.
pub(super) fn nearest<'a>(pattern: &str, keys: impl Iterator<Item = &'a str>) -> String {
    let similarity = |key: &str| strsim::normalized_levenshtein(pattern, key);
    // The first of equals.
    let best = keys.map(|key| (similarity(key), key)).reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map_or_else(String::new, |(_, key)| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_parts_or_have_stars() {
        for (pattern, key, expected) in [
            ("image_encoder", "image_encoder.blocks.0.norm1.weight", true),
            ("image_encoder", "image_encoders.x", false),
            ("image_encoder.blocks.1", "image_encoder.blocks.10.norm1.weight", false),
            ("image_encoder.blocks.*.norm1.*", "image_encoder.blocks.10.norm1.weight", true),
            ("*.bias", "mask_decoder.x.bias", true),
            ("*.bias", "mask_decoder.bias.weight", false),
            ("*rel_pos*", "image_encoder.blocks.2.attn.rel_pos_h", true),
        ] {
            assert_eq!(is_matched(key, pattern), expected, "{pattern} on {key}");
        }
    }

    #[test]
    fn a_slip_is_shown_the_key_that_was_meant() {
        let keys = ["mask_decoder.iou_token.weight", "image_encoder.neck.0.weight", "prompt_encoder.x"];
        assert_eq!(nearest("image_encoder.nek.*", keys.into_iter()), "image_encoder.neck.0.weight");
    }
}
