//! Evaluations and probes: configurations and command lines.

use clap::Parser;
use sam_data::{Intensity, OnBad, Void};
use sam_eval::{Categories, FirstClick};

use super::super::evaluate::{DetectionUse, EvaluatePlan, ProtocolKind};
use super::*;
use crate::cli::{Arguments, Command};

fn read_plan(text: &str) -> Result<Plan, ConfigError> {
    Plan::read(&Document::parse("c.toml", PathBuf::new(), text, &[])?, Paths::MayBeMissing)
}

fn evaluation(text: &str) -> EvaluatePlan {
    match read_plan(&format!("task = \"evaluate\"\n{text}")).expect("valid") {
        Plan::Evaluate(plan) => *plan,
        other => panic!("an evaluation: {other:?}"),
    }
}

/// The errors of an evaluation, whose first line is 2.
fn errors(text: &str) -> Vec<String> {
    read_plan(&format!("task = \"evaluate\"\n{text}")).expect_err("rejected").lines().to_vec()
}

/// The plan of a command line.
fn of_command(arguments: &[&str]) -> Result<Plan, ConfigError> {
    let arguments = Arguments::try_parse_from([&["sam-train"], arguments].concat()).expect("valid arguments");
    let document = match arguments.command {
        Some(Command::Eval(arguments)) => arguments.document()?,
        Some(Command::Probe(arguments)) => arguments.document(),
        other => panic!("{other:?}"),
    };
    Plan::read(&document, Paths::MayBeMissing)
}

#[test]
fn a_command_line_and_its_configuration_have_the_same_plan() {
    let gate = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        gate.path(),
        "[gate]\nnoc_90 = 8.5\n\"photos/small/noc_90\" = 9.5\nmax_drop = 0.1\nbaseline = \"b\"\n",
    )
    .expect("written");
    let gate = gate.path().display().to_string();
    for (command, text) in [
        ("eval --checkpoint a.pth --data d", "[model]\ncheckpoint = \"a.pth\"\n[data]\npath = \"d\"\n"),
        (
            "eval --checkpoint a --checkpoint b --data d --data e --part val --drop-bad --max-images 3 --clicks 2 \
             --boundary --refine 1 --box-clicks 3 --first-click random:7 --workers 0 --batch-objects 4 --gallery 0 \
             --device cuda:1 --out o --void 255 --crowd drop --format label_images",
            "model.checkpoint = [\"a\", \"b\"]\nprotocol = { clicks = 2, boundary = \"measure\", refinements = 1, \
             box_clicks = 3, first_click = { random = { seed = 7 } } }\nrun = { workers = 0, batch_objects = 4, \
             gallery = 0, device = \"cuda:1\", out = \"o\" }\n[[data]]\npath = \"d\"\npart = \"val\"\nbad = \"drop\"\n\
             max_images = 3\nvoid = 255\ncrowd = \"drop\"\nformat = \"label_images\"\n[[data]]\npath = \"e\"\n\
             part = \"val\"\nbad = \"drop\"\nmax_images = 3\nvoid = 255\ncrowd = \"drop\"\nformat = \"label_images\"\n",
        ),
        (
            "eval --checkpoint a --data d --protocol click --noc --stop-at 0.9 --split s.json --baseline c.json \
             --max-drop 0.2 --intensity {\"window\":{\"level\":40,\"width\":400}} --gate GATE",
            "model.checkpoint = \"a\"\ndata = { path = \"d\", split_file = \"s.json\", intensity = { window = { \
             level = 40, width = 400 } } }\nprotocol = { kind = \"click\", noc_percent = [80, 85, 90], \
             stop_at_iou = 0.9 }\n[gate]\nnoc_90 = 8.5\n\"photos/small/noc_90\" = 9.5\nbaseline = \"c.json\"\n\
             max_drop = 0.2\n",
        ),
        (
            "eval --data d.json --segmentations s.json --proposals",
            "data.path = \"d.json\"\nprotocol.kind = \"none\"\n[detections]\nfile = \"s.json\"\n\
             use_as = \"segmentations\"\ncategories = \"agnostic\"\nmax_dets = [10, 100, 1000]\n",
        ),
        ("probe --checkpoint a --data d", "task = \"probe\"\nmodel.checkpoint = \"a\"\ndata.path = \"d\"\n"),
        (
            "probe --checkpoint a --checkpoint b --data d --hold-out 0.3 --of images --token class --neighbours 5 \
             --image-size 64 --min-samples 2 --max-images 9 --seed 3 --no-random --out o --device vulkan \
             --batch-images 1 --workers 0 --drop-bad",
            "task = \"probe\"\nmodel = { checkpoint = [\"a\", \"b\"], image_size = 64 }\ndata = { path = \"d\", \
             hold_out = 0.3, min_samples = 2, max_images = 9, bad = \"drop\" }\nprobe = { of = \"images\", \
             token = \"class\", neighbours = 5, random = false }\nrun = { seed = 3, out = \"o\", device = \"vulkan\", \
             batch_images = 1, workers = 0 }\n",
        ),
    ] {
        let command = command.replace("GATE", &gate);
        let words: Vec<&str> = command.split_whitespace().collect();
        let text = if text.starts_with("task") { text.to_owned() } else { format!("task = \"evaluate\"\n{text}") };
        let plan = of_command(&words).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(plan, read_plan(&text).unwrap_or_else(|error| panic!("{text}: {error}")), "{command}");
        // Printed, it is a configuration again.
        let printed = plan.to_toml().expect("fits into TOML");
        assert_eq!(read_plan(&printed).unwrap_or_else(|error| panic!("{printed}: {error}")), plan, "{printed}");
    }
}

#[test]
fn errors_of_a_command_line_name_its_options() {
    let eval =
        |arguments: &[&str]| of_command(&[&["eval"], arguments].concat()).expect_err("rejected").lines().to_vec();
    assert_eq!(
        eval(&["--clicks", "0", "--data", "d", "--crowd", "no", "--max-images", "0"]),
        [
            "sam-train eval: model.checkpoint must be given: a checkpoint, or a list of them (--checkpoint FILE)",
            "--crowd no: data.crowd must be \"auto\", \"ignore\", \"instances\" or \"drop\", got \"no\"",
            "--max-images 0: data.max_images must be a whole number of at least 1, got 0",
            "--clicks 0: protocol.clicks must be a whole number of at least 1, got 0",
        ]
    );
    assert_eq!(
        eval(&["--checkpoint", "a"]),
        ["sam-train eval: data.path must be given: a folder, COCO .json, YOLO data.yaml or SA-1B .tar (--data PATH)"]
    );
}

#[test]
fn an_evaluation_has_one_data_set_or_several() {
    let one = evaluation("[model]\ncheckpoint = \"a\"\n[data]\npath = \"d\"\nmax_images = 3\nvoid = { id = 7 }\n");
    assert_eq!(one.model.checkpoints.checkpoint, [PathBuf::from("a")]);
    assert_eq!((one.data.len(), one.data[0].selection.max_images), (1, Some(3)));
    assert_eq!(one.data[0].files.options.void, Void::Id(7));
    let two = evaluation(
        "[model]\ncheckpoint = [\"a\", \"b\"]\n[[data]]\npath = \"d\"\nintensity = \"percentile\"\n[[data]]\n\
         path = \"e\"\npart = \"val\"\nbad = \"drop\"\n",
    );
    assert_eq!((two.model.checkpoints.checkpoint.len(), two.data.len()), (2, 2));
    assert_eq!(two.data[0].files.options.intensity, Intensity::Percentile);
    assert_eq!(two.data[1].files.options.split.as_deref(), Some("val"));
    assert_eq!(two.data[1].files.options.bad, OnBad::Drop);
    assert_eq!(
        errors("model.checkpoint = 3\n[[data]]\npath = \"d\"\n[[data]]\nparth = \"e\"\n"),
        [
            "c.toml:2: model.checkpoint must be a text that is not empty, got 3",
            "c.toml:5: data[1].path must be given: a folder, COCO .json, YOLO data.yaml or SA-1B .tar (--data PATH)",
            "c.toml:6: there is no key `parth` in [data[1]]; did you mean `part`?",
        ]
    );
}

#[test]
fn keys_of_earlier_versions_are_rejected_with_their_new_names() {
    let text = "model.checkpoint = \"a\"\nrun.force = true\n[data]\npath = \"d\"\n\
                options = { split = \"val\", format = \"coco\" }\n";
    assert_eq!(
        errors(text),
        [
            "c.toml:3: unknown key `run.force`; it is the option --force now",
            "c.toml:6: unknown key `data.options.format`; it is `data.format` now",
            "c.toml:6: unknown key `data.options.split`; it is `data.part` now",
        ]
    );
}

#[test]
fn an_evaluation_is_read_with_its_protocols() {
    let plan = evaluation(
        "model.checkpoint = \"a\"\ndata.path = \"d.json\"\n[protocol]\nkind = \"click\"\nnoc_percent = [80, 90]\n\
         first_click = { random = { seed = 7 } }\n[detections]\nfile = \"x.json\"\n[gate]\nmiou_1 = 1\n\
         \"d/small/miou_1\" = 0.5\n",
    );
    let protocols = plan.protocols();
    assert_eq!((protocols.len(), protocols[0].protocol.n_clicks), (1, 20), "NoC needs 20 clicks");
    assert_eq!(protocols[0].click_metrics.noc_percent, [80, 90]);
    assert_eq!(protocols[0].protocol.first_click, FirstClick::Random { seed: 7 });
    let detections = plan.detections.expect("given");
    assert_eq!((detections.use_as, detections.categories), (DetectionUse::Boxes, Categories::PerClass));
    let bounds = plan.gate.expect("given").bounds;
    assert_eq!((bounds["miou_1"], bounds["d/small/miou_1"]), (1.0, 0.5));
    assert_eq!(evaluation("model.checkpoint = \"a\"\ndata.path = \"d\"\n").protocol.kind, ProtocolKind::Both);
}

#[test]
fn rules_between_keys_of_a_measurement_are_checked() {
    let least = "model.checkpoint = \"a\"\ndata.path = \"d\"\n";
    for (more, expected) in [
        ("protocol.kind = \"none\"\n", "c.toml:4: protocol.kind must be click, box or both without detections"),
        ("protocol.noc_percent = [80]\nprotocol.clicks = 5\n", "c.toml:5: [protocol]: "),
        ("detections.file = \"f.json\"\n", "c.toml:3: data.path must be one COCO or LVIS .json"),
        ("gate.max_drop = 0.1\n", "c.toml:4: gate.max_drop must be given together with gate.baseline"),
        ("[gate]\n", "c.toml:4: gate must be at least one bound"),
        ("gate.miou_1 = \"high\"\n", "c.toml:4: gate.miou_1 must be a number, got \"high\""),
    ] {
        let found = errors(&format!("{least}{more}"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{more}: {found:?}");
    }
    let segmentations = "detections = { file = \"f.json\", use_as = \"segmentations\" }\n";
    let found = errors(&format!("{}{segmentations}", least.replace("\"d\"", "\"d.json\"")));
    assert_eq!(found.len(), 2, "{found:?}");
    let probe = |more: &str| {
        let text = format!("task = \"probe\"\n{least}{more}");
        read_plan(&text).expect_err("rejected").lines().to_vec()
    };
    for (more, expected) in [
        ("data.hold_out = 1\n", "c.toml:4: data.hold_out must be a number above 0 and below 1, got 1"),
        (
            "data.hold_out = 0.5\ndata.validation = \"v\"\n",
            "c.toml:5: data.validation must be given alone: validation data comes from one of data.validation",
        ),
        (
            "probe = { of = \"objects\", token = \"class\" }\n",
            "c.toml:4: probe.token must be \"mean\" with probe.of = \"objects\"",
        ),
    ] {
        let found = probe(more);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{more}: {found:?}");
    }
}

#[test]
fn the_configurations_of_this_repository_are_valid() {
    for (name, text) in [
        ("evaluate", include_str!("../../../../../configs/evaluate.toml")),
        ("ci-gate", include_str!("../../../../../configs/ci-gate.toml")),
        ("probe", include_str!("../../../../../configs/probe.toml")),
        ("zero-shot-points", include_str!("../../../../../configs/zero-shot-points.toml")),
        ("zero-shot-proposals", include_str!("../../../../../configs/zero-shot-proposals.toml")),
        ("zero-shot-edges", include_str!("../../../../../configs/zero-shot-edges.toml")),
    ] {
        let plan = read_plan(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read_plan(&plan.to_toml().expect("fits")), Ok(plan), "{name}");
        assert!(text.contains(&format!("--config configs/{name}.toml")), "{name} says how it is run");
        // Keys below a commented section are keys of that section.
        check_commented_keys(name, &text.replace("# [", "["), &|text| read_plan(text).err());
    }
}
