//! Sums of many values in a binary tree: the order of the additions is the same when neighbours are added first, by several ranks whose
//! numbers of values are equal powers of two. The rounding error grows with the logarithm of the number of values, too.

/// A sum of values that come one after the other; as many are kept as the number of values has binary digits.
#[derive(Debug)]
pub(crate) struct PairwiseSum<T> {
    /// Sums of 2^level values each, of falling levels.
    parts: Vec<(u32, T)>,
}

impl<T> PairwiseSum<T> {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// Adds the next value.
    pub(crate) fn add(&mut self, value: T, plus: impl Fn(T, T) -> T) {
        let mut part = (0, value);
        while let Some((level, sum)) = self.parts.pop_if(|(level, _)| *level == part.0) {
            part = (level + 1, plus(sum, part.1));
        }
        self.parts.push(part);
    }

    /// The sum; `None` of nothing.
    pub(crate) fn finish(self, plus: impl Fn(T, T) -> T) -> Option<T> {
        self.parts.into_iter().map(|(_, sum)| sum).rev().reduce(|last, sum| plus(sum, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: impl IntoIterator<Item = String>) -> Option<String> {
        let plus = |a: String, b: String| format!("({a}+{b})");
        let mut sum = PairwiseSum::new();
        values.into_iter().for_each(|value| sum.add(value, plus));
        sum.finish(plus)
    }

    #[test]
    fn parts_of_equal_powers_of_two_are_added_as_the_whole() {
        let values = |range: std::ops::Range<usize>| range.map(|value| value.to_string());
        assert_eq!(sum(values(0..0)), None);
        assert_eq!(sum(values(1..4)).as_deref(), Some("((1+2)+3)"));
        for n in 1..40 {
            let whole = sum(values(0..n));
            for of_rank in [1, 2, 4, 8].into_iter().filter(|of_rank| n.is_multiple_of(*of_rank)) {
                let ranks = (0..n / of_rank).filter_map(|rank| sum(values(rank * of_rank..(rank + 1) * of_rank)));
                assert_eq!(sum(ranks), whole, "{n} values, {of_rank} for each rank");
            }
        }
    }
}
