//! Many short strings in one allocation: eleven million names cost their bytes plus eight each.

/// Strings by index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    text: String,
    ends: Vec<usize>,
}

impl Names {
    pub(crate) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[index]]
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut all = Self::default();
        for name in names {
            all.push(&name);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_returned_as_pushed() {
        let names: Names = ["a", "", "ccc"].map(str::to_owned).into_iter().collect();
        assert_eq!(names.len(), 3);
        assert_eq!([names.get(0), names.get(1), names.get(2)], ["a", "", "ccc"]);
    }
}
