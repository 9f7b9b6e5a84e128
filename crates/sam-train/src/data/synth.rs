//! `sam-train data synth`: small scenes with exact masks, the same ones for the same seed on every machine.

use std::io::Write;

use anyhow::anyhow;
use sam_data::sample::Sample;
use sam_data::synth::{SynthOptions, SynthScenes, class_names, write_coco, write_sa1b};

use crate::cli::{SynthArguments, SynthFormat};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::Progress;

pub(crate) fn run(arguments: &SynthArguments) -> Result<(), Failure> {
    let [smallest, largest] = [arguments.min_side, arguments.max_side];
    if smallest < 32 || smallest > largest || largest > 8192 {
        return Err(anyhow!("--min-side and --max-side must be 32 to 8192 and in order, got {smallest} and {largest}"))
            .bad_input();
    }
    if arguments.train + arguments.val == 0 {
        return Err(anyhow!("--train and --val are both 0: there is nothing to make")).bad_input();
    }
    if !(0.0..=64.0).contains(&arguments.noise) {
        return Err(anyhow!("--noise must be 0 to 64 grey levels, got {}", arguments.noise)).bad_input();
    }
    let occupied = arguments.out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !arguments.force {
        return Err(anyhow!(
            "{} is not empty; give another --out, or --force to write into it",
            arguments.out.display()
        ))
        .bad_input();
    }
    let options = SynthOptions {
        side_px_min: smallest,
        side_px_max: largest,
        noise_levels: arguments.noise,
        ..SynthOptions::default()
    };
    let mut out = output();
    // Training scenes come first, validation scenes follow; no scene is in both.
    let splits =
        [("train", arguments.first, arguments.train), ("val", arguments.first + arguments.train as u64, arguments.val)];
    for (split, first_index, n_scenes) in splits.into_iter().filter(|(_, _, count)| *count > 0) {
        let scenes = SynthScenes { seed: arguments.seed, first_index, n_scenes, options };
        let mut objects = 0;
        let mut progress = Progress::new("drawing scenes", n_scenes as u64);
        let samples = (0..n_scenes).map(|index| {
            let sample: Sample = scenes.scene(index).sample;
            objects += sample.objects.len();
            progress.set(index as u64 + 1);
            sample
        });
        match arguments.format {
            SynthFormat::Coco => write_coco(&arguments.out, split, samples, &class_names())?,
            SynthFormat::Sa1b => write_sa1b(&arguments.out.join(split), samples, first_index + 1)?,
        }
        drop(progress);
        writeln!(out, "{split}: {n_scenes} scenes with {objects} objects in {}", arguments.out.join(split).display())?;
    }
    Ok(())
}
