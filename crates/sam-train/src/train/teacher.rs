//! The teacher of a distillation: opened, compared with its student, and its masks as validation data.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use sam_eval::EvalSet;
use sam_learn::{Distillation, TeacherMasks};
use sam_model::Sam;
use sam_model::weights::Checkpoint;

use crate::config::also::ALSO;
use crate::config::distil::DistilPlan;
use crate::config::model::ModelPlan;
use crate::config::{TEACHER, TrainPlan};
use crate::train::inputs::{checkpoint_file, describe};

/// Name of the validation data whose truth is the teacher's masks.
const NAME: &str = "teacher";

/// A student and its teacher.
pub(super) struct Taught {
    pub(super) student: Sam,
    pub(super) teacher: Sam,
}

/// The teacher, with the image size of its student. A student without a decoder of its own, from scratch or from an encoder alone,
/// gets the teacher's: with the teacher's embeddings it is as good.
pub(super) fn open_teacher(
    plan: &TrainPlan,
    distil: &DistilPlan,
    student: Sam,
    notes: &mut Vec<String>,
) -> Result<Taught> {
    if plan.also.iter().any(|also| also.name == NAME) {
        bail!(
            "{ALSO}: the name \"{NAME}\" is that of the teacher's masks in a distillation; give the data set another `name`"
        );
    }
    let file = checkpoint_file(&distil.teacher);
    let checkpoint = Checkpoint::open(&file).context(TEACHER)?;
    if !checkpoint.is_segmenter() {
        bail!("{TEACHER}: {}: must be a segmenter, got {}", file.display(), checkpoint.kind());
    }
    let mut options = checkpoint.default_options();
    let (own_side, side) = (options.config.image_encoder.image_size(), student.image_size());
    options.config.image_encoder.set_image_size(side);
    options.config.check().with_context(|| format!("{}: the teacher with the student's image size", file.display()))?;
    let (teacher, _) = checkpoint.load_with(&options, &student.device()).context(TEACHER)?;
    notes.push(format!("teacher: {}, {}", file.display(), describe(&teacher)));
    if own_side != side {
        notes.push(format!("teacher: made for {own_side} px, runs at the {side} px of the student"));
    }
    let [own, teachers] = [&student, &teacher].map(|sam| sam.config().image_encoder.multiply_adds());
    let [own_size, teachers_size] = [&student, &teacher].map(|sam| sam.image_encoder.num_params());
    notes.push(format!(
        "student: its encoder has {:.1} % of the teacher's parameters and {:.1} % of its operations",
        100.0 * own_size as f64 / teachers_size as f64,
        100.0 * own / teachers
    ));
    if own > teachers {
        notes.push(format!(
            "warning: the student's encoder is slower than its teacher's: {own:.2e} operations, and {teachers:.2e}"
        ));
    }
    let student = match plan.model {
        ModelPlan::Checkpoint(_) => student,
        ModelPlan::Mae(_) | ModelPlan::TinyVit(_) | ModelPlan::Scratch(_) => {
            notes.push("student: begins with the teacher's prompt encoder and mask decoder".to_owned());
            student.with_decoder_of(&teacher).context("model.sizes: the student takes the teacher's decoder")?
        }
    };
    let distillation = Distillation { teacher, options: distil.options.clone(), embeddings: None };
    distillation.check(&student).context("The keys are model.image_size, model.sizes and distil.teacher")?;
    Ok(Taught { student, teacher: distillation.teacher })
}

/// The validation data with the teacher's masks as the truth.
pub(super) fn teachers_sets(sets: &[EvalSet], teacher: &Sam) -> Vec<EvalSet> {
    let name = |set: &EvalSet| if sets.len() > 1 { format!("{NAME} {}", set.name) } else { NAME.to_owned() };
    let masks = |set: &EvalSet| Arc::new(TeacherMasks::new(Arc::clone(&set.samples), teacher));
    sets.iter().map(|set| EvalSet { name: name(set).into(), samples: masks(set), ..set.clone() }).collect()
}
