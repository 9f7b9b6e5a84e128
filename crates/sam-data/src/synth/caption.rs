//! What a person would say about a synthetic object: its kind, its colour, its pattern.
//!
//! A caption is a function of what is seen of the object's own surface, without its parts and what hides it, so that it is
//! true of the image: the colour is the one nearest to the mean of the pixels, under the scene's light, and a pattern is
//! named where its two colours differ visibly and the surface is wide enough to show it. Nothing is drawn for captions, so
//! scenes do not depend on them; exact arithmetic only, as in `shape.rs`.
//!
//! Captions go from the most specific on: "a striped red ring", "a red ring", "a striped ring". The kind alone is the class.

use super::shape::ShapeKind;
use super::texture::Texture;

/// The names of colours, in the order of a rainbow and then by lightness.
pub const COLOUR_NAMES: [&str; 12] =
    ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "grey", "black"];

/// The names of patterns.
pub const PATTERN_NAMES: [&str; 4] = ["striped", "checked", "dotted", "cloudy"];

/// What is seen of one surface.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Sum of the colours of its pixels, 0 to 255 each.
    pub(super) colour_sum: [f64; 3],
    pub(super) n_px: usize,
    /// Whether a cross of one and a half periods of the texture fits into its pixels.
    pub(super) shows_period: bool,
}

/// The captions of an object, the most specific one first.
pub(super) fn captions(kind: ShapeKind, texture: &Texture, seen: &Seen) -> Vec<String> {
    let colour = match seen.n_px {
        // A whole that its parts cover completely.
        0 => colour_name(texture.base()),
        n => colour_name(seen.colour_sum.map(|sum| sum / n as f64)),
    };
    let pattern = texture.pattern_name().filter(|_| seen.shows_period);
    let kind = kind.name();
    let mut captions = Vec::new();
    captions.extend(pattern.map(|pattern| phrase(&[pattern, colour, kind])));
    captions.push(phrase(&[colour, kind]));
    captions.extend(pattern.map(|pattern| phrase(&[pattern, kind])));
    captions
}

/// Words with their indefinite article.
fn phrase(words: &[&str]) -> String {
    let is_vowel = words[0].starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {}", if is_vowel { "an" } else { "a" }, words.join(" "))
}

/// The name of a colour, red, green and blue from 0 to 255.
///
/// Hue, saturation and value of the hexcone model. The bounds were set on the colours that people named in the survey of XKCD
/// (<https://xkcd.com/color/rgb/>): of its 351 names that are one of these words, or one with an adjective, 95 % are met; most
/// of the others are between two names (`sea blue` is cyan here, `mustard green` yellow).
pub(super) fn colour_name([red, green, blue]: [f64; 3]) -> &'static str {
    let (value, least) = (red.max(green).max(blue), red.min(green).min(blue));
    let chroma = value - least;
    if value < 52.0 {
        return "black";
    }
    if chroma < 28.0 || chroma < 0.16 * value {
        return if least >= 200.0 { "white" } else { "grey" };
    }
    let hue_degrees = if value == red {
        let hue = 60.0 * (green - blue) / chroma;
        if hue < 0.0 { hue + 360.0 } else { hue }
    } else if value == green {
        120.0 + 60.0 * (blue - red) / chroma
    } else {
        240.0 + 60.0 * (red - green) / chroma
    };
    let saturation = chroma / value;
    match hue_degrees {
        hue if !(15.0..345.0).contains(&hue) => match () {
            () if saturation < 0.5 && value > 150.0 => "pink",
            () if (8.0..15.0).contains(&hue) && value < 150.0 => "brown",
            () => "red",
        },
        // A dark or dull orange is brown, a light yellowish one yellow.
        hue if hue < 46.0 => match () {
            () if value < 182.0 || saturation < 0.55 && value < 215.0 => "brown",
            () if hue >= 40.0 && value >= 215.0 => "yellow",
            () => "orange",
        },
        // A dark yellow is brown or green.
        hue if hue < 68.0 => match () {
            () if value >= 135.0 => "yellow",
            () if hue < 54.0 => "brown",
            () => "green",
        },
        hue if hue < 162.0 => "green",
        hue if hue < 196.0 => "cyan",
        hue if hue < 255.0 => "blue",
        hue if hue < 300.0 => "purple",
        hue => match () {
            () if value >= 190.0 || hue >= 325.0 && value > 140.0 && saturation < 0.6 => "pink",
            () if hue < 330.0 => "purple",
            () => "red",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_have_the_names_that_people_give_them() {
        // A strong, a dark and a pale or dull one of each name.
        let named = [
            ("red", [[229, 0, 0], [132, 0, 0], [199, 72, 55]]),
            ("orange", [[249, 115, 6], [253, 170, 72], [198, 81, 2]]),
            ("yellow", [[255, 255, 20], [213, 182, 10], [255, 255, 126]]),
            ("green", [[21, 176, 26], [2, 89, 15], [118, 169, 115]]),
            ("cyan", [[0, 255, 255], [10, 136, 138], [5, 105, 107]]),
            ("blue", [[3, 67, 223], [1, 21, 62], [110, 145, 200]]),
            ("purple", [[126, 30, 156], [64, 26, 108], [133, 103, 152]]),
            ("pink", [[255, 129, 192], [254, 1, 154], [213, 134, 157]]),
            ("brown", [[101, 55, 0], [139, 90, 60], [145, 110, 78]]),
            ("white", [[255, 255, 255], [230, 228, 225], [215, 220, 216]]),
            ("grey", [[146, 149, 145], [84, 86, 84], [170, 165, 160]]),
            ("black", [[0, 0, 0], [20, 22, 24], [40, 45, 48]]),
        ];
        for (name, colours) in named {
            for colour in colours {
                assert_eq!(colour_name(colour.map(f64::from)), name, "{colour:?}");
            }
        }
        assert_eq!(named.map(|(name, _)| name), COLOUR_NAMES);
    }

    #[test]
    fn every_colour_has_a_name_of_the_list_and_no_name_is_rare() {
        let mut counts = [0usize; 12];
        let levels = || (20..=235).step_by(5);
        for (red, green, blue) in levels().flat_map(|r| levels().flat_map(move |g| levels().map(move |b| (r, g, b)))) {
            let name = colour_name([red, green, blue].map(f64::from));
            counts[COLOUR_NAMES.iter().position(|known| *known == name).expect("a known name")] += 1;
        }
        let all: usize = counts.iter().sum();
        // Black and white are corners of the cube of colours that scenes have.
        assert!(counts[..9].iter().all(|&n| n * 50 > all), "{counts:?}");
        assert!(counts.iter().all(|&n| n * 1000 > all), "{counts:?}");
    }

    #[test]
    fn articles_follow_the_next_word() {
        assert_eq!(phrase(&["orange", "ring"]), "an orange ring");
        assert_eq!(phrase(&["ellipse"]), "an ellipse");
        assert_eq!(phrase(&["striped", "orange", "ellipse"]), "a striped orange ellipse");
    }
}
