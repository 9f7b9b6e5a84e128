//! Whether all ranks are about to do the same: found out before the first step, when it can still be said.

use serde::{Deserialize, Serialize};

use super::{RankError, Ranks, gather};

/// Something that must be the same on every rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What it is about: a configuration key, "the weights".
    pub about: String,
    /// Its value on this rank.
    pub value: String,
}

impl Statement {
    /// About something.
    #[must_use]
    pub fn new(about: &str, value: impl ToString) -> Self {
        Self { about: about.to_owned(), value: value.to_string() }
    }
}

/// The first statement on which a rank differs from rank 0, as a sentence; `None` when all agree. Every rank gets the same answer.
///
/// # Errors
///
/// As [`Ranks::gather`].
pub fn agree(ranks: &dyn Ranks, own: &Vec<Statement>) -> Result<Option<String>, RankError> {
    let all = gather(ranks, own)?;
    let Some(first) = all.first() else { return Ok(None) };
    let value = |statements: &[Statement], about: &str| {
        let found = statements.iter().find(|statement| statement.about == about);
        found.map_or_else(|| "nothing".to_owned(), |statement| statement.value.clone())
    };
    for (rank, statements) in all.iter().enumerate() {
        for about in first.iter().chain(statements).map(|statement| &statement.about) {
            let [expected, got] = [first, statements].map(|statements| value(statements, about));
            if expected != got {
                return Ok(Some(format!(
                    "{about}: all ranks must have the same; rank 0 has {expected}, rank {rank} has {got}"
                )));
            }
        }
    }
    Ok(None)
}
