//! Thinning of binary maps to lines of one pixel.
//!
//! Source: Guo and Hall, "Parallel thinning with two-subiteration algorithms" (1989), in the form of MATLAB's `bwmorph(..,
//! 'thin')`, without a limit of iterations; equal to `skimage.morphology.thin`. Pixels outside the map are unset.
//!
//! Only pixels at which something can still change are visited: a pixel whose surroundings stayed as they were in both halves of
//! an iteration has the same answer in the next.

use sam_image::Mask;

/// The eight neighbours `(row, column)`: east first, then counter-clockwise, as the conditions number them.
const NEIGHBOURS: [(isize, isize); 8] = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)];

/// Thins a map until nothing changes.
#[must_use]
pub fn thin(map: &Mask) -> Mask {
    // A frame of unset pixels makes every neighbour exist.
    let [height, width] = map.size_hw();
    let stride = width + 2;
    let mut framed = vec![false; (height + 2) * stride];
    for row in 0..height {
        framed[(row + 1) * stride + 1..][..width].copy_from_slice(map.row(row));
    }
    let offsets = NEIGHBOURS.map(|(row, column)| row * stride as isize + column);
    let tables = [removable(Half::First), removable(Half::Second)];
    let code = |framed: &[bool], at: usize| {
        let bit = |(bit, &offset): (usize, &isize)| u8::from(framed[at.wrapping_add_signed(offset)]) << bit;
        offsets.iter().enumerate().map(bit).fold(0, |code, bit| code | bit)
    };
    let mut active: Vec<usize> = (0..framed.len()).filter(|&at| framed[at]).collect();
    let mut is_listed = vec![false; framed.len()];
    while !active.is_empty() {
        let mut removed: Vec<usize> = Vec::new();
        for table in &tables {
            // Both halves decide from the map as it is before they change it.
            let going: Vec<usize> =
                active.iter().copied().filter(|&at| framed[at] && table[code(&framed, at) as usize]).collect();
            going.iter().for_each(|&at| framed[at] = false);
            removed.extend(going);
        }
        active.clear();
        for at in removed {
            for offset in offsets {
                let near = at.wrapping_add_signed(offset);
                if framed[near] && !is_listed[near] {
                    is_listed[near] = true;
                    active.push(near);
                }
            }
        }
        active.iter().for_each(|&at| is_listed[at] = false);
    }
    Mask::from_fn([height, width], |row, column| framed[(row + 1) * stride + column + 1])
}

/// The half of an iteration: the first removes pixels at the south-east, the second at the north-west.
#[derive(Clone, Copy)]
enum Half {
    First,
    Second,
}

/// Whether a set pixel with these neighbours is removed.
fn removable(half: Half) -> [bool; 256] {
    std::array::from_fn(|code| {
        // x(1) to x(8), and x(9) = x(1), as in the paper.
        let x = |number: usize| code >> ((number - 1) % 8) & 1 == 1;
        let crossings = (1..=4).filter(|&i| !x(2 * i - 1) && (x(2 * i) || x(2 * i + 1))).count();
        let odd_pairs = (1..=4).filter(|&k| x(2 * k - 1) || x(2 * k)).count();
        let even_pairs = (1..=4).filter(|&k| x(2 * k) || x(2 * k + 1)).count();
        let is_kept_end = match half {
            Half::First => (x(2) || x(3) || !x(8)) && x(1),
            Half::Second => (x(6) || x(7) || !x(4)) && x(5),
        };
        crossings == 1 && (2..=3).contains(&odd_pairs.min(even_pairs)) && !is_kept_end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shapes_become_lines() {
        let drawn = |rows: &[&str]| {
            let pixels = rows.iter().flat_map(|row| row.bytes().map(|byte| byte == b'#')).collect();
            Mask::new([rows.len(), rows[0].len()], pixels).expect("rows of one length")
        };
        // skimage.morphology.thin of the same bars.
        let bar = drawn(&["#######", "#######", "#######"]);
        assert_eq!(thin(&bar), drawn(&[".......", ".#####.", "......."]));
        let dot = drawn(&["##", "##"]);
        assert_eq!(thin(&dot).area_px(), 1);
        let line = drawn(&["...#", "..#.", ".#..", "#..."]);
        assert_eq!(thin(&line), line);
        for empty in [[0, 0], [3, 0], [0, 3], [1, 1]] {
            assert_eq!(thin(&Mask::empty(empty)), Mask::empty(empty));
        }
    }
}
