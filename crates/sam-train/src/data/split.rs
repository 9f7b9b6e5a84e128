//! `sam-train data split`: assigns images to training, validation and test by a hash of their names.

use std::io::Write;

use anyhow::anyhow;
use sam_data::{DataError, GroupKey, Source, Split, SplitRule};

use crate::cli::SplitArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Waiting;
use crate::survey::DropOption;
use crate::target::{Target, check_target};

pub(crate) fn run(arguments: &SplitArguments) -> Result<(), Failure> {
    check_target(&arguments.out, "--out", Target::File, arguments.force).bad_input()?;
    let options = arguments.source.options().bad_input()?;
    let waiting = Waiting::reading(&arguments.path);
    let source = Source::open(&arguments.path, &options);
    let source = source.map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
    drop(waiting);
    let split = match arguments.given {
        true => Split::given(&source),
        false => Split::by_rule(&source, &rule(arguments)),
    };
    let split = split.map_err(advise).bad_input()?;
    split.save(&source, &arguments.out)?;
    let mut out = output();
    for (part, indices) in [("train", &split.train), ("val", &split.val), ("test", &split.test)] {
        let share = 100.0 * indices.len() as f64 / source.len() as f64;
        writeln!(out, "{part:5} {:7} images  {share:5.1} %", indices.len())?;
    }
    writeln!(out, "wrote {}", arguments.out.display())?;
    Ok(())
}

/// Adds the options that use the parts of a data set.
fn advise(error: DataError) -> anyhow::Error {
    match error {
        DataError::OwnParts { .. } => anyhow!("{error}: --given; or --part train, which is then split"),
        error => error.into(),
    }
}

fn rule(arguments: &SplitArguments) -> SplitRule {
    let group = match (&arguments.group_regex, &arguments.group_prefix, arguments.group_folder) {
        (Some(pattern), _, _) => GroupKey::Regex(pattern.clone()),
        (_, Some(text), _) => GroupKey::Prefix(text.clone()),
        (_, _, true) => GroupKey::Folder,
        _ => GroupKey::Image,
    };
    SplitRule { val: arguments.val, test: arguments.test, seed: arguments.seed, group }
}
