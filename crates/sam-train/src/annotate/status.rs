//! `sam-train annotate status`: how far a project is.

use std::io::Write;

use sam_engine::{
    AnnotationFile, Collected, Decision, ImageState, LIMIT_IOU, MaskSource, Project, Review, Rounds, Statistics,
    Verdict, mask_counts,
};
use serde_json::{Value, json};

use crate::cli::StatusArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;

const STATES: [(ImageState, &str); 4] = [
    (ImageState::Done, "done"),
    (ImageState::Open, "open"),
    (ImageState::Skipped, "skipped"),
    (ImageState::Todo, "to do"),
];

const SOURCES: [(MaskSource, &str); 6] = [
    (MaskSource::Manual, "manual"),
    (MaskSource::Assisted, "assisted"),
    (MaskSource::Accepted, "accepted"),
    (MaskSource::Corrected, "corrected"),
    (MaskSource::Imported, "imported"),
    (MaskSource::Automatic, "automatic"),
];

pub(super) fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let project = Project::read(&arguments.project).bad_input()?;
    let (mut states, mut sources) = ([0; STATES.len()], [0; SOURCES.len()]);
    for index in 0..project.images().len() {
        let file: Option<AnnotationFile> = project.annotations(index).bad_input()?;
        let state = file.as_ref().map_or(ImageState::Todo, |file| file.image.state);
        states[STATES.iter().position(|(other, _)| *other == state).unwrap_or(0)] += 1;
        for mask in file.iter().flat_map(|file| &file.annotations) {
            sources[SOURCES.iter().position(|(other, _)| *other == mask.source).unwrap_or(0)] += 1;
        }
    }
    let counts = mask_counts(&project).bad_input()?;
    let (statistics, _) = Statistics::since_last_round(project.folder()).bad_input()?;
    let review = Review::read(project.folder()).bad_input()?;
    let (checkpoint, model) = project.checkpoint().bad_input()?;
    let rounds = Rounds::of(project.folder()).all();
    if arguments.json {
        let named = |names: &[&str], numbers: &[usize]| -> Value {
            names
                .iter()
                .zip(numbers)
                .map(|(name, n)| ((*name).to_owned(), json!(n)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let mut of_rounds = Vec::new();
        for round in &rounds {
            of_rounds.push(json!({
                "round": round.number, "collected": round.collected().bad_input()?, "decision": round.decision().bad_input()?,
            }));
        }
        let status = json!({
            "images": named(&STATES.map(|(_, name)| name), &states),
            "masks": named(&SOURCES.map(|(_, name)| name), &sources),
            "counts": counts, "since_last_round": statistics, "model": model, "checkpoint": checkpoint,
            "review": review.as_ref().and_then(Review::share), "rounds": of_rounds,
        });
        writeln!(output(), "{status:#}")?;
        return Ok(());
    }
    let mut out = output();
    let listed = |names: &[&str], numbers: &[usize]| -> String {
        let parts: Vec<String> =
            names.iter().zip(numbers).filter(|(_, n)| **n > 0).map(|(name, n)| format!("{n} {name}")).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    writeln!(out, "images      {}", listed(&STATES.map(|(_, name)| name), &states))?;
    writeln!(out, "masks       {}", listed(&SOURCES.map(|(_, name)| name), &sources))?;
    writeln!(
        out,
        "of people   {} to learn from in {} images, {} for validation in {}",
        counts.train, counts.train_images, counts.validation, counts.validation_images
    )?;
    writeln!(out, "new masks   {}", statistics_line(&statistics))?;
    writeln!(out, "model       {model}: {}", checkpoint.display())?;
    if let Some((review, share)) = review.as_ref().and_then(|review| Some((review, review.share()?))) {
        writeln!(
            out,
            "review      {} of {} masks judged: {:.1} % have an IoU above {LIMIT_IOU} ({:.1} to {:.1})",
            share.n_judged,
            review.items.len(),
            100.0 * share.share,
            100.0 * share.low,
            100.0 * share.high
        )?;
    }
    for round in &rounds {
        match (round.collected().bad_input()?, round.decision().bad_input()?) {
            (Some(collected), Some(decision)) => {
                for line in decision_lines(round.number, &collected, &decision) {
                    writeln!(out, "{line}")?;
                }
            }
            _ => writeln!(out, "round {}: unfinished; `sam-train annotate round` resumes it", round.number)?,
        }
    }
    Ok(())
}

fn statistics_line(statistics: &Statistics) -> String {
    let mut line = format!("{} since the last round", statistics.masks);
    if let (Some(seconds), Some(clicks)) = (statistics.seconds_per_mask, statistics.clicks_per_mask) {
        line += &format!(", {seconds:.1} s and {clicks:.1} clicks each");
    }
    if statistics.accepted > 0 {
        line += &format!(", {} proposals accepted", statistics.accepted);
    }
    line
}

/// What people want to know of a round that has ended.
pub(super) fn decision_lines(number: u32, collected: &Collected, decision: &Decision) -> Vec<String> {
    let verdict = match decision.verdict {
        Verdict::Promoted => "the new model is in use",
        Verdict::Refused => "the model before stays in use",
        Verdict::Failed => "the training has failed",
    };
    let mut lines = vec![format!("round {number}: {verdict}; {}", statistics_line(&collected.statistics))];
    if let Some(gain) = &decision.gain {
        let shown = |interval: &sam_eval::Interval| {
            format!("{:.3} ({:.3} to {:.3})", interval.value, interval.low, interval.high)
        };
        lines.push(format!("  {} {} -> {}", gain.metric, shown(&gain.before), shown(&gain.after)));
    }
    lines.extend(decision.reasons.iter().map(|reason| format!("  {reason}")));
    lines
}
