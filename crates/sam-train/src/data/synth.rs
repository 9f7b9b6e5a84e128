//! `sam-train data synth`: synthetic scenes with exact masks, equal for equal seeds on every machine.

use std::io::Write;
use std::path::Path;

use anyhow::{anyhow, bail};
use sam_data::synth::{SynthOptions, SynthScenes, class_names, write_coco, write_sa1b};
use sam_data::{DataError, Sample};
use sam_files::write_folder_atomically;

use crate::cli::{SynthArguments, SynthFormat};
use crate::config::{Document, Paths, Plan};
use crate::failure::{BadInput, Failure};
use crate::interruption::Interruption;
use crate::output::output;
use crate::progress::Progress;

/// Default number of validation scenes.
const N_VAL: usize = 12;

/// Name of the part and its scenes.
type Part = (&'static str, SynthScenes);

pub(crate) fn run(arguments: &SynthArguments) -> Result<(), Failure> {
    let parts = match &arguments.config {
        Some(config) => of_config(config, arguments)?,
        None => of_options(arguments).bad_input()?,
    };
    let occupied = arguments.out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !arguments.force {
        return Err(anyhow!(
            "{} is not empty; give another --out, or --force to write into it",
            arguments.out.display()
        ))
        .bad_input();
    }
    let interruption = Interruption::watch()?;
    let write = |folder: &Path| write_parts(folder, &parts, arguments.format, &interruption);
    let objects = if occupied {
        write(&arguments.out)
    } else {
        let folder = arguments.out.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.map_or(Ok(()), std::fs::create_dir_all)?;
        let mut objects = Vec::new();
        let io = |error| DataError::Io { path: arguments.out.clone(), source: error };
        write_folder_atomically(&arguments.out, io, |folder| {
            objects = write(folder)?;
            Ok(())
        })
        .map(|_| objects)
    };
    let objects = match objects {
        Err(DataError::Stopped) => return Err(Failure::Interrupted),
        objects => objects?,
    };
    let mut out = output();
    for ((split, scenes), objects) in parts.iter().zip(objects) {
        let folder = arguments.out.join(split);
        writeln!(out, "{split}: {} scenes with {objects} objects in {}", scenes.n_scenes, folder.display())?;
    }
    Ok(())
}

/// Writes the parts into a folder; returns the number of objects of each.
fn write_parts(
    root: &Path,
    parts: &[Part],
    format: SynthFormat,
    interruption: &Interruption,
) -> Result<Vec<usize>, DataError> {
    let mut all_objects = Vec::new();
    for (split, scenes) in parts {
        let mut objects = 0;
        let mut progress = Progress::new("generating scenes", scenes.n_scenes as u64);
        let samples = (0..scenes.n_scenes).map(|index| {
            if interruption.is_requested() {
                return Err(DataError::Stopped);
            }
            let sample: Sample = scenes.scene(index)?.sample;
            objects += sample.objects.len();
            progress.set(index as u64 + 1);
            Ok(sample)
        });
        match format {
            SynthFormat::Coco => write_coco(root, split, samples, &class_names())?,
            SynthFormat::Sa1b => write_sa1b(&root.join(split), samples, scenes.first_index + 1)?,
        }
        all_objects.push(objects);
    }
    Ok(all_objects)
}

fn of_options(arguments: &SynthArguments) -> anyhow::Result<Vec<Part>> {
    let [smallest, largest] = [arguments.min_side, arguments.max_side];
    if smallest > largest {
        bail!("--min-side must be at most --max-side, got {smallest} and {largest}");
    }
    let (train, val) = (arguments.train, arguments.val.unwrap_or(N_VAL));
    if train + val == 0 {
        bail!("--train and --val are both 0: there is nothing to generate");
    }
    if !(0.0..=64.0).contains(&arguments.noise) {
        bail!("--noise must be 0 to 64 grey levels, got {}", arguments.noise);
    }
    let options = SynthOptions {
        side_px_min: smallest,
        side_px_max: largest,
        noise_levels: arguments.noise,
        ..SynthOptions::default()
    };
    // Validation scenes follow the training scenes, so no scene is in both.
    let parts = [("train", arguments.first, train), ("val", arguments.first + train as u64, val)];
    let scenes = |first_index, n_scenes| SynthScenes { seed: arguments.seed, first_index, n_scenes, options };
    let parts = parts.into_iter().filter(|(_, _, count)| *count > 0);
    Ok(parts.map(|(split, first, count)| (split, scenes(first, count))).collect())
}

/// The scenes of a training configuration: at most `--train` for training and `--val` for validation.
fn of_config(config: &Path, arguments: &SynthArguments) -> Result<Vec<Part>, Failure> {
    let document = Document::load(config, &[]).bad_input()?;
    let Plan::Train(plan) = Plan::read(&document, Paths::MayBeMissing).bad_input()? else {
        return Err(anyhow!("{}: must be the configuration of a training (task = \"train\")", config.display()))
            .bad_input();
    };
    let at_most = |scenes: SynthScenes, n: Option<usize>| SynthScenes {
        n_scenes: scenes.n_scenes.min(n.unwrap_or(usize::MAX)),
        ..scenes
    };
    let [train, val] = plan.data.synthetic();
    let train = train.map(|scenes| ("train", at_most(scenes, Some(arguments.train))));
    let val = val.map(|scenes| ("val", at_most(scenes, arguments.val)));
    let parts: Vec<Part> = train.into_iter().chain(val).filter(|(_, scenes)| scenes.n_scenes > 0).collect();
    if parts.is_empty() {
        let file = config.display();
        return Err(anyhow!("{file} defines no scenes: it has neither [data.synth] nor [data.validation_synth]"))
            .bad_input();
    }
    Ok(parts)
}
