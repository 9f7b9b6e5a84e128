//! Embeddings on disk, of trainings and evaluations: whether the limit suffices, room for them, and computing what is missing
//! with its progress.

use std::ops::ControlFlow;

use sam_data::loader::ErrorPolicy;
use sam_learn::LearnError;
use sam_learn::embeddings::{EmbeddingNeeds, EmbeddingSurvey, FrozenEmbeddings};
use sam_model::Sam;

use crate::disk::size;
use crate::progress::Progress;

/// What is done with the embeddings of a run.
pub(crate) struct Filling<'a> {
    pub(crate) embeddings: &'a FrozenEmbeddings,
    pub(crate) needs: EmbeddingNeeds<'a>,
    /// Largest size of the folder.
    pub(crate) max_bytes: u64,
    /// Where several ranks compute: which of how many this is.
    pub(crate) rank_of: (usize, usize),
    pub(crate) surroundings: &'a Surroundings<'a>,
}

/// The program around it.
pub(crate) struct Surroundings<'a> {
    /// Prints a line.
    pub(crate) say: &'a dyn Fn(&str),
    /// Whether the program is asked to stop.
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
}

/// Embeddings that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) n: usize,
    pub(crate) of: usize,
}

impl Filling<'_> {
    /// Computes what is missing; `Break` when the program is asked to stop meanwhile.
    pub(crate) fn run(&self, sam: &Sam) -> Result<ControlFlow<Filled, Filled>, LearnError> {
        let mut looking = None;
        let survey = self.embeddings.survey(&self.needs, &mut |done, total| {
            looking.get_or_insert_with(|| Progress::new("looking for embeddings", total as u64)).set(done as u64);
            self.go_on()
        })?;
        drop(looking);
        let survey = match survey {
            ControlFlow::Continue(survey) => survey,
            ControlFlow::Break(()) => return Ok(ControlFlow::Break(Filled { n: 0, of: 0 })),
        };
        let (rank, n_ranks) = self.rank_of;
        if rank == 0 {
            self.make_room(&survey);
        }
        let n_all_missing = survey.n_missing;
        let survey = survey.part(rank, n_ranks);
        let of = survey.n_present + survey.n_missing;
        if survey.n_missing == 0 {
            return Ok(ControlFlow::Continue(Filled { n: of, of }));
        }
        let cache = self.embeddings.cache();
        self.say(&format!(
            "embeddings: {} of {} are in {}, {n_all_missing} to compute ({} as {}){}",
            survey.n_present,
            survey.n_present + n_all_missing,
            cache.root().display(),
            size(n_all_missing as u64 * cache.entry_bytes()),
            cache.dtype(),
            if n_ranks > 1 { format!(", {} of them here", survey.n_missing) } else { String::new() }
        ));
        let mut progress = Progress::new("embedding images", survey.n_missing as u64);
        let policy: ErrorPolicy = self.needs.loader.on_error;
        let computed = self.embeddings.compute(sam, &survey, policy, &mut |done, _| {
            progress.set(done as u64);
            self.go_on()
        })?;
        Ok(match computed {
            ControlFlow::Continue(n) => ControlFlow::Continue(Filled { n, of }),
            ControlFlow::Break(n) => ControlFlow::Break(Filled { n, of }),
        })
    }

    fn say(&self, text: &str) {
        (self.surroundings.say)(text);
    }

    fn go_on(&self) -> ControlFlow<()> {
        if (self.surroundings.is_stopped)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn make_room(&self, survey: &EmbeddingSurvey) {
        let cache = self.embeddings.cache();
        cache.note_uses(&survey.present);
        let new_bytes = survey.n_missing as u64 * cache.entry_bytes();
        let made = cache.make_room(&survey.present, new_bytes, self.max_bytes);
        if made.n_removed > 0 {
            self.say(&format!(
                "embeddings: removed the {} used longest ago ({}), to stay within cache.max_gib",
                made.n_removed,
                size(made.n_bytes)
            ));
        }
        if made.left_bytes + new_bytes > self.max_bytes {
            self.say(&format!(
                "embeddings: other runs use {} of the folder at present, so it grows beyond cache.max_gib ({})",
                size(made.left_bytes),
                size(self.max_bytes)
            ));
        }
    }
}
