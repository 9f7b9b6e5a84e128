//! The data engine through the real program: a simulated annotator labels over HTTP, rounds retrain, a better model is taken and a
//! worse one refused; proposals, automatic masks and their review; and a server that is killed again and again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sam_model::weights::StateDict;
use serde_json::{Value, json};

use crate::annotate_cli::Served;
use crate::cli::{Run, fixture};

/// Scenes with their truth, and a project of them with a small model that was trained on others.
pub(crate) fn project(n_scenes: usize, round: &str) -> Run {
    let run = Run::new();
    let n = n_scenes.to_string();
    run.ok(&["data", "synth", "--out", "scenes", "--train", &n, "--val", "1", "--seed", "5"]);
    let checkpoint = fixture("automatic/weights.safetensors");
    let base = ["annotate", "init", "--images", "scenes/train", "--checkpoint", &checkpoint, "--out", "project"];
    run.ok(&[&base[..], &["--validation", "0.3"]].concat());
    let path = run.path("project/engine.toml");
    let settings = std::fs::read_to_string(&path).expect("written");
    let (before, _) = settings.split_once("[round]").expect("a section");
    std::fs::write(&path, format!("{before}[round]\n{round}")).expect("written");
    run
}

/// Few masks and steps.
const QUICK: &str = "min_validation_masks = 4\nmin_validation_images = 2\nmax_drop = 1.0\n";

pub(crate) fn training(lr: f64, steps: u32) -> String {
    format!(
        "{QUICK}set = [\"schedule.steps={steps}\", \"schedule.warmup_steps=1\", \"validation.every_steps={steps}\", \
         \"optimiser.lr={lr}\", \"loss.focal_alpha=0.5\", \"loss.focal_weight=1.0\", \"prompts.correction_clicks=1\", \"prompts.mask_only_passes=0\", \"log.tensorboard=false\"]\n"
    )
}

pub(crate) fn simulate(run: &Run, more: &[&str]) -> Value {
    let base = ["annotate", "simulate", "project", "--truth", "scenes/annotations", "--clicks", "2", "--json"];
    serde_json::from_str(&run.ok(&[&base[..], more].concat())).expect("JSON")
}

fn status(run: &Run) -> Value {
    serde_json::from_str(&run.ok(&["annotate", "status", "project", "--json"])).expect("JSON")
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_better_model_is_taken_by_the_running_server() {
    let run = project(20, &training(3e-3, 60));
    let server = Served::start(&run.path("project"), 0);
    let refused = ["annotate", "round", "project", "--quiet"];
    run.refused(&refused, &["there are no masks to learn from"]);
    let labelled = simulate(&run, &["--masks", "60"]);
    assert_eq!(labelled["masks"], 60, "{labelled}");
    let (_, before) = server.get("/api/pulse");
    assert_eq!((&before["model_name"], &before["new_masks"]), (&json!("the first model"), &json!(60)), "{before}");

    // As the button does, in a process of its own.
    let (started, answer) = server.post("/api/rounds", &json!({}));
    assert_eq!(started, 200, "{answer}");
    let (again, _) = server.post("/api/rounds", &json!({}));
    assert_eq!(again, 409, "one at a time");
    let rounds = until("the round ends", || {
        let (_, rounds) = server.get("/api/rounds");
        let has_ended = rounds["running"].is_null() && rounds["rounds"].as_array().is_some_and(|all| !all.is_empty());
        has_ended.then_some(rounds)
    });
    let round = &rounds["rounds"][0];
    assert_eq!(round["decision"], "promoted", "{round}");
    let difference = round["difference"]["value"].as_f64().expect("a number");
    let [before_miou, after_miou] =
        ["miou_before", "miou_after"].map(|key| round[key]["value"].as_f64().expect("a number"));
    assert!(difference > 0.005 && (after_miou - before_miou - difference).abs() < 1e-9, "{round}");
    assert!(round["seconds_per_mask"].as_f64().is_some_and(|seconds| seconds > 3.0), "{round}");
    let pulse = until("the model is swapped", || {
        let (_, pulse) = server.get("/api/pulse");
        (pulse["model_name"] == "round 1").then_some(pulse)
    });
    assert!(pulse["model"] != before["model"] && pulse["new_masks"].as_u64().is_some());
    let (_, project) = server.get("/api/project");
    let image = &project["images"][0]["id"];
    let ask = json!({"image": image, "tab": "tab-00001", "number": 1, "prompt": {"points": [[20, 20, 1]]}});
    assert_eq!(server.post("/api/predict", &ask).1["model"], pulse["model"]);
    // And by the next server.
    drop(server);
    let server = Served::start(&run.path("project"), 0);
    assert_eq!(server.get("/api/pulse").1["model"], pulse["model"]);
    let status = status(&run);
    assert_eq!(
        (&status["model"], &status["rounds"][0]["decision"]["verdict"]),
        (&json!("round 1"), &json!("promoted"))
    );
    // The project stands for its model.
    run.ok(&["export", "--checkpoint", "project", "--format", "safetensors", "--out", "exported.safetensors"]);
    let weights = |path: PathBuf| {
        let file = StateDict::open(&path).expect("a checkpoint");
        file.read_f32("mask_decoder.iou_prediction_head.layers.0.weight").expect("there")
    };
    let exported = weights(run.path("exported.safetensors"));
    assert_eq!(exported, weights(run.path("project/rounds/0001/model.safetensors")));
    assert_ne!(exported, weights(fixture("automatic/weights.safetensors").into()));
}

/// The kill comes in the middle of the training.
#[test]
fn a_killed_round_is_resumed_and_a_worse_model_is_refused() {
    let run = project(12, &training(0.3, 400));
    let server = Served::start(&run.path("project"), 0);
    simulate(&run, &[]);
    let saves = ["--set", "validation.every_steps=4", "--set", "schedule.steps=40"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
        .args(["annotate", "round", "--quiet"])
        .args(saves)
        .arg(run.path("project"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let round = run.path("project/rounds/0001");
    until("a save", || round.join("run/checkpoints").read_dir().ok()?.next()?.ok());
    run.refused(&["annotate", "round", "project"], &["another program works here", "process "]);
    child.kill().expect("killed");
    child.wait().expect("ended");
    let (_, rounds) = server.get("/api/rounds");
    assert_eq!((&rounds["running"], &rounds["rounds"][0]["decision"]), (&Value::Null, &json!("stopped")), "{rounds}");
    let steps = |run: &PathBuf| {
        let text = std::fs::read_to_string(run.join("run/metrics.jsonl")).expect("there");
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["step"].as_u64()).collect::<Vec<_>>()
    };
    assert!(!steps(&round).is_empty());
    let data = std::fs::read(round.join("collected.json")).expect("there");
    let out = run.ok(&["annotate", "round", "project", "--quiet"]);
    assert!(out.contains("round 1: the model before stays in use"), "{out}");
    assert_eq!(std::fs::read(round.join("collected.json")).expect("there"), data, "it resumes with what it began with");
    assert!(!run.path("project/model.json").exists() && !run.path("project/rounds/0002").exists());
    assert_eq!(server.get("/api/pulse").1["model_name"], "the first model");
}

#[test]
fn rounds_follow_new_masks() {
    let run = project(8, &training(1e-4, 2));
    let _server = Served::start(&run.path("project"), 0);
    let mut child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
        .args(["annotate", "round", "--quiet", "--auto", "10"])
        .arg(run.path("project"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    simulate(&run, &["--masks", "4"]);
    assert!(!run.path("project/rounds/0001").exists(), "too few");
    simulate(&run, &[]);
    until("a round", || run.path("project/rounds/0001/decision.json").is_file().then_some(()));
    assert!(child.try_wait().expect("asked").is_none(), "it waits for more");
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(!run.path("project/rounds/0002").exists());
}

#[test]
fn a_round_says_what_is_missing() {
    let run = project(6, "min_validation_masks = 1000\n");
    let server = Served::start(&run.path("project"), 0);
    simulate(&run, &[]);
    run.refused(
        &["annotate", "round", "project"],
        &["and a round needs 1000 masks in 3 images", "annotate more of them"],
    );
    let (status, refused) = server.post("/api/rounds", &json!({}));
    assert!(status == 409 && refused["error"].as_str().is_some_and(|why| why.contains("1000 masks")), "{refused}");
    let (_, rounds) = server.get("/api/rounds");
    assert_eq!((&rounds["can_start"], &rounds["rounds"]), (&json!(false), &json!([])));
    run.refused(&["annotate", "round", "scenes"], &["engine.toml"]);
    run.refused(&["annotate", "simulate", "project", "--truth", "nowhere"], &["nowhere"]);
    run.refused(&["annotate", "simulate", "project", "--truth", "scenes/annotations", "--iou", "2"], &["--iou"]);
    drop(server);
    std::fs::remove_file(run.path("project/session.port")).expect("removed");
    run.refused(&["annotate", "simulate", "project", "--truth", "scenes/annotations"], &["is not open"]);
}

const OPEN: [&str; 6] = ["--pred-iou", "0.3", "--stability", "0.3", "--points-per-side", "6"];

#[test]
fn automatic_masks_are_never_in_validation_and_are_reviewed() {
    let run = project(6, QUICK);
    let auto = [&["annotate", "auto", "project", "--quiet"][..], &OPEN].concat();
    let out = run.ok(&auto);
    let again = run.ok(&auto);
    assert!(again.starts_with("0 automatic masks in 0 images"), "{again}");
    let status = status(&run);
    let n = status["masks"]["automatic"].as_u64().expect("a number");
    assert!(n >= 6 && out.starts_with(&format!("{n} automatic masks")), "{out}");
    assert_eq!((&status["counts"]["train"], &status["counts"]["validation"]), (&json!(0), &json!(0)), "{status}");
    run.refused(&["annotate", "round", "project"], &["there are no masks to learn from"]);

    let server = Served::start(&run.path("project"), 0);
    run.refused(&auto, &["another program works here"]);
    let (_, project) = server.get("/api/project");
    for image in project["images"].as_array().expect("a list") {
        let (_, there) = server.get(&format!("/api/images/{}", image["id"].as_str().expect("text")));
        assert!(there["is_validation"] == false || there["masks"] == json!([]), "{}", image["name"]);
    }
    assert_eq!(server.get("/api/review"), (200, Value::Null));
    let (_, review) = server.post("/api/review", &json!({"n": 3}));
    let items = review["items"].as_array().expect("a list").clone();
    assert_eq!((items.len(), &review["share"]), (3, &Value::Null), "{review}");
    let judge = |item: &Value| server.post("/api/review/judge", &json!({"image": item["image"], "uuid": item["uuid"]}));
    let operate = |item: &Value, op: &str, change: Value| {
        let (_, there) = server.get(&format!("/api/images/{}", item["image"].as_str().expect("text")));
        let operation = json!({"op": op, "image": item["image"], "base": there["revision"], "change": change});
        let (status, answer) = server.post("/api/operations", &operation);
        assert_eq!(status, 200, "{answer}");
    };
    let (_, review) = judge(&items[0]);
    assert_eq!((&review["items"][0]["verdict"], &review["share"]), (&json!("good"), &json!(1.0)), "{review}");
    operate(&items[1], "op-000001", json!({"kind": "delete", "uuid": items[1]["uuid"]}));
    let (_, review) = judge(&items[1]);
    assert_eq!((&review["items"][1]["iou"], &review["share"]), (&json!(0.0), &json!(0.5)), "{review}");
    let (_, there) = server.get(&format!("/api/images/{}", items[2]["image"].as_str().expect("text")));
    let mask =
        there["masks"].as_array().into_iter().flatten().find(|mask| mask["uuid"] == items[2]["uuid"]).expect("there");
    let other = json!({"uuid": mask["uuid"], "segmentation": one_pixel(mask), "source": "corrected"});
    operate(&items[2], "op-000002", json!({"kind": "replace", "mask": other}));
    let (_, review) = judge(&items[2]);
    let item = &review["items"][2];
    assert!(item["verdict"] == "corrected" && item["iou"].as_f64().is_some_and(|iou| iou < 0.2), "{item}");
    assert!(review["share"].as_f64().is_some_and(|share| (share - 1.0 / 3.0).abs() < 1e-12));
    let (wrong, _) = server.post("/api/review/judge", &json!({"image": items[0]["image"], "uuid": "nobody-000"}));
    assert_eq!(wrong, 400);
}

/// A mask of the first pixel of an image.
fn one_pixel(mask: &Value) -> Value {
    let size = &mask["segmentation"]["size"];
    let [height, width] = [0, 1].map(|axis| size[axis].as_u64().expect("a number") as usize);
    let rle = sam_image::Rle::new([height, width], &[0, 1, (height * width - 1) as u32]).expect("fits");
    json!({"size": size, "counts": rle.to_coco_string()})
}

#[test]
fn proposals_are_what_is_missing() {
    let run = project(4, QUICK);
    let server = Served::start(&run.path("project"), 0);
    let (_, project) = server.get("/api/project");
    let id = project["images"][0]["id"].as_str().expect("text").to_owned();
    let path = format!("/api/images/{id}/proposals");
    assert_eq!(server.get(&path).1["state"], "absent");
    let ready = |server: &Served| {
        server.post(&path, &json!({}));
        until("proposals", || {
            let (_, proposals) = server.get(&path);
            assert_ne!(proposals["state"], "failed", "{proposals}");
            (proposals["state"] == "ready").then(|| proposals["masks"].as_array().expect("a list").clone())
        })
    };
    let masks = ready(&server);
    let scores: Vec<f64> = masks.iter().map(|mask| mask["predicted_iou"].as_f64().expect("a number")).collect();
    assert!(masks.len() > 2 && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let operate = |op: &str, base: u64, change: Value| {
        let (status, answer) =
            server.post("/api/operations", &json!({"op": op, "image": id, "base": base, "change": change}));
        assert_eq!(status, 200, "{answer}");
    };
    let segmentation = |mask: &Value| json!({"uuid": mask["uuid"], "segmentation": mask["segmentation"]});
    let mut accepted = segmentation(&masks[0]);
    accepted["source"] = json!("accepted");
    operate("op-000001", 0, json!({"kind": "add", "mask": accepted}));
    let left = |server: &Served| -> Vec<Value> { ready(server).iter().map(|mask| mask["uuid"].clone()).collect() };
    let others = left(&server);
    assert!(!others.contains(&masks[0]["uuid"]) && others.len() < masks.len());
    let rejected = masks.iter().find(|mask| mask["uuid"] == others[0]).expect("one of them");
    operate("op-000002", 1, json!({"kind": "reject", "mask": segmentation(rejected)}));
    assert!(!left(&server).contains(&others[0]));
    operate("op-000003", 2, json!({"kind": "note", "text": "<b>half</b> in shadow"}));
    drop(server);
    let server = Served::start(&run.path("project"), 0);
    let after = left(&server);
    assert!(!after.contains(&others[0]) && !after.contains(&masks[0]["uuid"]), "it is kept");
    let (_, there) = server.get(&format!("/api/images/{id}"));
    assert_eq!(
        (&there["note"], there["rejected"].as_array().map(Vec::len)),
        (&json!("<b>half</b> in shadow"), Some(1))
    );
    let undo = json!({"op": "op-000004", "image": id, "base": 3, "change": {"kind": "unreject", "uuid": others[0]}});
    assert_eq!(server.post("/api/operations", &undo).0, 200);
    assert!(left(&server).contains(&others[0]));
}

/// Later clicks see the mask before them, whatever the server remembers, and a mask can be corrected.
#[test]
fn clicks_refine_and_classes_are_added() {
    let run = project(3, QUICK);
    let ask = |server: &Served, number: u64, more: Value| {
        let (_, project) = server.get("/api/project");
        let mut ask = json!({"image": project["images"][0]["id"], "tab": "tab-00001", "number": number});
        ask.as_object_mut().expect("an object").extend(more.as_object().cloned().into_iter().flatten());
        server.post("/api/predict", &ask)
    };
    let server = Served::start(&run.path("project"), 0);
    let hover = json!({"prompt": {"points": [[20, 20, 1]]}, "hover": true});
    assert_eq!(ask(&server, 1, hover.clone()).0, 503, "a preview never waits");
    let (_, first) = ask(&server, 2, json!({"prompt": {"points": [[20, 20, 1]]}}));
    assert_eq!(first["candidates"].as_array().map(Vec::len), Some(3));
    let (status, preview) = ask(&server, 3, hover);
    let best = first["candidates"].as_array().into_iter().flatten();
    let best =
        best.max_by(|a, b| a["predicted_iou"].as_f64().partial_cmp(&b["predicted_iou"].as_f64()).expect("numbers"));
    assert_eq!((status, preview["candidates"].as_array().map(Vec::len)), (200, Some(1)));
    assert_eq!(Some(&preview["candidates"][0]), best);
    let points = json!([[20, 20, 1], [30, 25, 1], [5, 5, 0]]);
    let third = |choice: Option<u8>| json!({"prompt": {"points": points}, "choice": choice});
    let (_, remembered) = ask(&server, 4, third(None));
    let of_choices: Vec<Value> =
        (0..3).map(|choice| ask(&server, 5 + choice, third(Some(choice as u8))).1["candidates"].clone()).collect();
    assert!(of_choices.contains(&remembered["candidates"]), "the most confident is one of the three");
    assert!(of_choices.iter().any(|other| *other != of_choices[0]), "the choice matters");
    let refined = json!({"prompt": {"points": [[5, 5, 0]]}, "mask": first["candidates"][0]["segmentation"]});
    let (_, refined) = ask(&server, 9, refined);
    assert_eq!(refined["candidates"].as_array().map(Vec::len), Some(1));
    let wrong = json!({"prompt": {"points": [[5, 5, 0]]}, "mask": {"size": [2, 2], "counts": "04"}});
    assert_eq!(ask(&server, 10, wrong).0, 400);
    assert_eq!(server.post("/api/classes", &json!({"name": "<i>ring</i>"})).1["classes"], json!(["<i>ring</i>"]));
    for name in ["<i>ring</i>", "", " x"] {
        assert_eq!(server.post("/api/classes", &json!({"name": name})).0, 400, "{name:?}");
    }
    drop(server);
    let server = Served::start(&run.path("project"), 0);
    assert_eq!(server.get("/api/project").1["classes"], json!(["<i>ring</i>"]));
    let (_, fresh) = ask(&server, 1, third(None));
    assert_eq!(fresh["candidates"], remembered["candidates"], "a function of the prompts alone");
}

/// SAM_TRAIN_KILLS sets their number.
#[test]
fn nothing_acknowledged_is_lost_over_kills() {
    let n_kills: usize = std::env::var("SAM_TRAIN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let run = project(3, QUICK);
    let mut server = Served::start(&run.path("project"), 0);
    let (_, project) = server.get("/api/project");
    let images: Vec<String> = (0..3).map(|at| project["images"][at]["id"].as_str().expect("text").to_owned()).collect();
    let wholes = [0, 1, 2].map(|at| whole(&run, at));
    let mut acknowledged: BTreeMap<String, usize> = BTreeMap::new();
    let mut random = sam_data::random::RandomStream::named(7, &[b"kills"]);
    let mut number = 0;
    for _ in 0..n_kills {
        // Once the server has answered, a process of its own kills it after a while, at whatever it is then.
        let wait = Duration::from_micros(1000 + random.below(60_000));
        let (pid, begun, mut killer) = (server.pid(), Instant::now(), None);
        while begun.elapsed() < Duration::from_secs(30) {
            number += 1;
            let (image, uuid) = (&images[number % 3], format!("mask-{number:06}"));
            let mask = json!({"uuid": uuid, "segmentation": wholes[number % 3], "source": "manual"});
            let operation = json!({
                "op": format!("op-{number:06}"), "image": image, "base": number, "change": {"kind": "add", "mask": mask},
            });
            match server.try_post("/api/operations", &operation) {
                Some((200, _)) => drop(acknowledged.insert(uuid, number % 3)),
                Some((status, answer)) => panic!("{status}: {answer}"),
                None => break,
            }
            killer.get_or_insert_with(|| {
                std::thread::spawn(move || {
                    std::thread::sleep(wait);
                    Command::new("kill").args(["-9", &pid.to_string()]).status().expect("killed")
                })
            });
        }
        let killer = killer.expect("the server has answered");
        assert!(killer.join().expect("ended").success());
        server.kill();
        server = Served::start(&run.path("project"), 0);
        let mut there: BTreeMap<String, usize> = BTreeMap::new();
        for (at, image) in images.iter().enumerate() {
            let (_, annotations) = server.get(&format!("/api/images/{image}"));
            let masks = annotations["masks"].as_array().expect("whole files");
            there.extend(masks.iter().map(|mask| (mask["uuid"].as_str().expect("text").to_owned(), at)));
        }
        let lost: Vec<_> = acknowledged.iter().filter(|(uuid, at)| there.get(*uuid) != Some(at)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    assert!(acknowledged.len() >= n_kills, "{} masks", acknowledged.len());
    let check = run.ok(&["data", "check", "project"]);
    assert!(check.contains("sa1b"), "{check}");
}

/// A mask of a whole image.
fn whole(run: &Run, at: usize) -> Value {
    let mut names: Vec<PathBuf> =
        run.path("scenes/train").read_dir().expect("there").flatten().map(|entry| entry.path()).collect();
    names.sort();
    let image = sam_image::decode_rgb(&names[at]).expect("an image");
    let (height, width) = (image.height() as usize, image.width() as usize);
    let rle = sam_image::Rle::new([height, width], &[0, (height * width) as u32]).expect("fits");
    json!({"size": [height, width], "counts": rle.to_coco_string()})
}
