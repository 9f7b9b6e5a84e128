//! Several ranks compute the run of one: the same batches, gradients, scores and saves, whatever their number; and a run is resumed with
//! another number of them. Here the ranks are threads; as processes of MPI they are tested in `ranks_mpi_cli.rs`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use burn::train::Interrupter;
use sam_data::Sample;
use sam_data::loader::{SampleError, Samples};
use sam_learn::ranks::{Ranks, ThreadRank, thread_ranks};
use sam_learn::record::SavedState;
use sam_learn::{Ending, LearnError, Outcome, RunInputs, train, train_on};
use sam_model::Sam;
use sam_model::init::initialise;
use sam_model::weights::{Checkpoint, named_tensors};

use crate::fixture::cpu;
use crate::training_runs::{SIDE, Setting, small_sam_with};

/// Four batches of an image in each of six steps.
fn setting() -> Setting {
    let mut setting = Setting::new(6);
    setting.options.optimiser.accumulation = 4;
    setting.loader.n_images = NonZeroUsize::MIN;
    setting
}

/// With dropped paths, which are the step's, whichever rank computes it.
fn sam() -> Sam {
    small_sam_with(SIDE, 16, 16, 0.4)
}

fn run_in_ranks(mut setting: Setting, n_ranks: usize, folder: &Path) -> Result<Outcome, LearnError> {
    setting.options.run.dir = folder.to_owned();
    let resume = SavedState::newest(&folder.join("checkpoints"))?.intact;
    let devices = vec![cpu().autodiff(); n_ranks];
    train_on(&devices, &sam(), setting.training(Interrupter::new()), resume.as_ref())
}

fn run(n_ranks: usize, folder: &Path) -> Outcome {
    run_in_ranks(setting(), n_ranks, folder).expect("a run")
}

/// Two ranks, of which the second has other inputs: the errors of both.
fn errors_of_two(folder: &Path, second: impl Fn(Sam, RunInputs) -> (Sam, RunInputs) + Sync) -> Vec<String> {
    let interrupter = Interrupter::new();
    std::thread::scope(|scope| {
        let start = |rank: ThreadRank| {
            let (second, interrupter) = (&second, interrupter.clone());
            let mut setting = setting();
            setting.options.run.dir = folder.to_owned();
            scope.spawn(move || {
                let is_second = rank.rank() == 1;
                let mut training = setting.training(interrupter);
                training.inputs.ranks = Arc::new(rank);
                let mut sam = sam();
                if is_second {
                    (sam, training.inputs) = second(sam, training.inputs);
                }
                train(sam, training, None).expect_err("the ranks differ").to_string()
            })
        };
        let threads: Vec<_> = thread_ranks(2, &interrupter).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Samples that cannot be read.
struct Broken;

impl Samples for Broken {
    fn n_samples(&self) -> usize {
        5
    }

    fn sample(&self, _index: usize) -> Result<Sample, SampleError> {
        Err("broken on purpose".into())
    }
}

fn weights(path: &Path) -> Vec<(String, Vec<f32>)> {
    let (sam, _) = Checkpoint::open(path).expect("a checkpoint").load(&cpu()).expect("loaded");
    named_tensors(&sam).iter().map(|tensor| (tensor.key.clone(), tensor.values())).collect()
}

#[test]
fn ranks_make_the_steps_of_one() {
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let outcomes: Vec<Outcome> = [1, 2, 4].into_iter().zip(&folders).map(|(n, folder)| run(n, folder.path())).collect();
    // They add the gradients of four batches in one order.
    for outcome in &outcomes[1..] {
        assert!(weights(&outcomes[0].last) == weights(&outcome.last), "bit for bit");
    }
    // The scores of a divided validation, and all that is logged of a step.
    let log = |at: usize| std::fs::read_to_string(folders[at].path().join("metrics.jsonl")).expect("a log");
    let lines = |at: usize| -> Vec<serde_json::Value> {
        log(at).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    assert_eq!(lines(0).len(), lines(2).len());
    for (one, four) in lines(0).into_iter().zip(lines(2)) {
        for key in ["step", "loss", "segmentation", "grad_norm", "n_images", "metrics", "focal", "dice", "n_objects"] {
            assert_eq!(one[key], four[key], "{key}: {one} {four}");
        }
    }
    let best = |at: usize| outcomes[at].progress.best.as_ref().map(|scores| scores.metrics.clone());
    assert!(best(0).is_some() && best(0) == best(2));
    for name in ["best.safetensors", "checkpoints", "validation", "previews"] {
        let count = |at: usize| {
            let path = folders[at].path().join(name);
            if path.is_dir() { path.read_dir().expect("a folder").count() } else { usize::from(path.is_file()) }
        };
        assert!(count(0) > 0 && count(0) == count(2), "{name}");
    }
}

#[test]
fn a_run_is_resumed_with_another_number_of_ranks() {
    let [whole, parts] = std::array::from_fn(|_| tempfile::tempdir().expect("a folder"));
    let uninterrupted = run(1, whole.path());
    for (n_ranks, stop_after) in [(4, Some(1)), (1, Some(4)), (2, None)] {
        let setting = Setting { stop_after, ..setting() };
        let outcome = run_in_ranks(setting, n_ranks, parts.path()).expect("a part");
        match stop_after {
            // The others learn of it with the next step.
            Some(step) => {
                assert_eq!(outcome.ending, Ending::Interrupted);
                assert!((step..=step + 1).contains(&outcome.progress.step), "{}", outcome.progress.step);
            }
            None => assert_eq!(outcome.ending, Ending::Finished),
        }
    }
    let last = parts.path().join("last.safetensors");
    assert!(weights(&uninterrupted.last) == weights(&last), "bit for bit");
}

#[test]
fn what_ranks_cannot_do_is_an_error_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = run_in_ranks(setting(), 3, folder.path()).expect_err("4 batches, 3 ranks");
    assert!(matches!(error, LearnError::BatchesOfRanks { accumulation: 4, n_ranks: 3 }), "{error}");
    assert!(error.to_string().contains("a multiple of 3"), "{error}");
    let errors = errors_of_two(folder.path(), |sam, inputs| (initialise(sam, 99), inputs));
    for error in errors {
        assert!(error.starts_with("a hash of the weights: ") && error.contains("rank 1 has"), "{error}");
    }
    let errors = errors_of_two(folder.path(), |sam, inputs| (sam, RunInputs { samples: Arc::new(Broken), ..inputs }));
    assert!(errors[0].starts_with("rank 1: ") && errors[0].contains("broken on purpose"), "{errors:?}");
    assert!(errors[1].contains("broken on purpose") && !errors[1].contains("rank"), "{errors:?}");
}
