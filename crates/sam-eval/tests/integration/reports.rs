//! From records to files: results, CSV, comparisons, the gate, Markdown, HTML, JUnit.

use std::collections::BTreeMap;

use sam_eval::{
    Bootstrap, Click, ClickMetricsConfig, Gallery, GalleryItem, Gate, GateConfig, Metric, Metrics, Model, ObjectRecord,
    Protocol, Report, Results, Round, RoundPrompt, Run, SizeBucket, compare, junit_xml,
};

/// An object with these IoUs after its clicks.
fn record(data_set: &str, image: &str, object_id: u64, area_px: usize, ious: [f64; 2]) -> ObjectRecord {
    let round = |iou| Round {
        prompt: RoundPrompt::Click(Click { column: 3, row: 4, is_positive: true }),
        iou,
        predicted_iou: 0.5,
        oracle_iou: Some((iou + 0.1f64).min(1.0)),
        boundary_iou: None,
    };
    ObjectRecord {
        data_set: data_set.to_owned(),
        image: image.to_owned(),
        object_id,
        class: (object_id % 2 == 1).then(|| "odd, \"one\"".to_owned()),
        area_px,
        size: SizeBucket::of(area_px),
        // The image a/1.png has two objects.
        is_selective: (data_set == "a" && image == "1.png").then_some(object_id == 1),
        rounds: ious.map(round).to_vec(),
    }
}

fn protocol() -> Protocol {
    Protocol { n_clicks: 2, ..Protocol::default() }
}

/// Two data sets: "a" with IoUs 0.2, 0.4, 0.6 (+ shift) at click 1, "b" with 0.8.
fn results(shift: f64) -> Results {
    let records = vec![
        record("b", "x.png", 1, 10_000, [0.8 + shift, 0.9]),
        record("a", "2.png", 1, 100, [0.6 + shift, 0.7]),
        record("a", "1.png", 2, 100, [0.4 + shift, 0.5]),
        record("a", "1.png", 1, 2000, [0.2 + shift, 0.3]),
    ];
    let run = Run::new(protocol(), ClickMetricsConfig::for_protocol(&protocol()), records).expect("fine");
    let mut ap = Metrics::default();
    ap.insert("mask_ap", Metric::fraction(0.25, 3)).expect("new");
    let about = BTreeMap::from([("checkpoint".to_owned(), "vit_b <1> | x".to_owned())]);
    Results::new(about, vec![run], &[("b".to_owned(), ap)]).expect("fine")
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() < 1e-12, "{got} {expected}");
}

#[test]
fn means_are_over_objects_then_over_data_sets() {
    let results = results(0.0);
    let value = |name: &str| results.metric(name).unwrap_or_else(|error| panic!("{error}")).value;
    close(value("a/miou_1"), 0.4);
    close(value("b/miou_1"), 0.8);
    close(value("miou_1"), 0.6);
    close(value("miou_1_oracle"), 0.7);
    // Of the two objects of a/1.png; the other images have one.
    close(value("prompt_selectivity"), 0.5);
    assert_eq!(results.metric("a/prompt_selectivity").expect("computed").n_objects, 2);
    assert!(results.metric("b/prompt_selectivity").is_err(), "there is no other object");
    close(value("a/small/miou_1"), 0.5);
    close(value("a/medium/miou_2"), 0.3);
    close(value("large/miou_1"), 0.8);
    close(value("a/class:odd, \"one\"/miou_1"), 0.4);
    close(value("mask_ap"), 0.25);
    assert_eq!(results.metric("miou_1").expect("computed").n_objects, 4);
    assert_eq!((results.data_sets[0].n_images, results.data_sets[0].n_objects), (2, 3));
    let error = results.metric("small/miou_3").expect_err("not computed").to_string();
    assert!(error.contains("small/miou_1") && error.contains("small/miou_3"), "{error}");
}

#[test]
fn results_round_trip() {
    let results = results(0.0123);
    let text = results.to_json().expect("fine");
    assert_eq!(Results::from_json("results.json", &text).expect("fine"), results);
    let error = Results::from_json("old.json", &text.replacen("\"format\": 1", "\"format\": 2", 1)).expect_err("other");
    assert!(error.to_string().contains("old.json: format must be 1, got 2"), "{error}");
    let error = Results::from_json("old.json", "{}").expect_err("none").to_string();
    assert!(error.contains("old.json: must be a results.json"), "{error}");
    let twice = vec![record("a", "1.png", 1, 5, [0.1, 0.2]), record("a", "1.png", 1, 5, [0.1, 0.2])];
    let error = Run::new(protocol(), ClickMetricsConfig::for_protocol(&protocol()), twice).expect_err("twice");
    assert!(error.to_string().contains("data set a, image 1.png, object 1 must occur once"), "{error}");
}

#[test]
fn csv_is_quoted_and_complete() {
    let results = results(0.0);
    let rounds = results.rounds_csv();
    assert_eq!(rounds.lines().count(), 1 + 4 * 2);
    let first = rounds.lines().nth(1).expect("a row");
    assert!(first.starts_with("0,a,1.png,1,\"odd, \"\"one\"\"\",medium,2000,1,click,3,4,true,0.2,0.5,0.30"), "{first}");
    let metrics = results.metrics_csv();
    assert!(metrics.contains("\na/miou_2,0.5,higher,share,3\n"), "{metrics}");
    assert!(metrics.contains("\n\"a/class:odd, \"\"one\"\"/miou_1\","), "{metrics}");
}

#[test]
fn paired_differences_have_narrower_intervals() {
    let (before, after) = (results(0.0), results(0.05));
    let rows = compare(&[&before, &after], &Bootstrap::default()).expect("fine");
    let row = rows.iter().find(|row| row.metric == "miou_1").expect("compared");
    close(row.intervals[0].value, 0.6);
    close(row.intervals[1].value, 0.65);
    assert!(row.intervals[0].low < row.intervals[0].high);
    // Every object gained the same, so every resample has the same difference.
    let difference = row.differences[0];
    for end in [difference.value, difference.low, difference.high] {
        close(end, 0.05);
    }
    assert!(difference.excludes_zero());
    let same = compare(&[&before, &before], &Bootstrap::default()).expect("fine");
    assert!(same.iter().all(|row| !row.differences[0].excludes_zero()));

    let fewer = Run::new(
        protocol(),
        ClickMetricsConfig::for_protocol(&protocol()),
        vec![record("a", "1.png", 1, 5, [0.1, 0.2])],
    );
    let fewer = Results::new(BTreeMap::new(), vec![fewer.expect("fine")], &[]).expect("fine");
    let error = compare(&[&before, &fewer], &Bootstrap::default()).expect_err("others").to_string();
    assert!(error.contains("same images and objects") && error.contains("4 and 1 objects"), "{error}");
}

fn config(text: &str) -> GateConfig {
    serde_json::from_str(text).expect("a gate")
}

#[test]
fn the_gate_names_metric_bound_and_value() {
    let results = results(0.0);
    let check = |text: &str| Gate::new(&config(text), None).expect("a gate").check(&results);
    assert!(check(r#"{"miou_1": 0.59, "predicted_iou_error": 1, "a/small/miou_1": 0.5}"#).expect("fine").is_pass());
    let verdict = check(r#"{"miou_1_oracle": 0.75, "miou_2": 0.1, "predicted_iou_error": 0.1}"#).expect("fine");
    let misses: Vec<String> = verdict.misses().map(ToString::to_string).collect();
    assert_eq!(misses[0], "miou_1_oracle must be at least 0.7500, got 0.7000");
    assert!(misses[1].starts_with("predicted_iou_error must be at most 0.1000, got 0."), "{}", misses[1]);
    assert_eq!(misses.len(), 2);
    // A narrow miss is not formatted as equality.
    let verdict = check(r#"{"a/miou_1": 0.4000001}"#).expect("fine");
    assert_eq!(
        verdict.misses().next().expect("a miss").to_string(),
        "a/miou_1 must be at least 0.4000001, got 0.4000000"
    );

    let error = check(r#"{"miou_1_orcale": 0.75}"#).expect_err("unknown").to_string();
    assert!(error.contains("metric miou_1_orcale") && error.contains("are miou_1_oracle"), "{error}");
    let rejected = |text: &str, baseline| Gate::new(&config(text), baseline).expect_err("invalid").to_string();
    assert!(rejected("{}", None).contains("[gate] must be at least one bound or a baseline"));
    assert!(rejected(r#"{"max_drop": 0.1}"#, None).contains("baseline must be given together with max_drop"));
    assert!(rejected("{}", Some(results.clone())).contains("max_drop must be given together with baseline"));
    assert!(rejected(r#"{"max_drop": -0.1}"#, Some(results.clone())).contains("got -0.1"));
}

#[test]
fn a_baseline_bounds_every_fraction() {
    let (before, after) = (results(0.0), results(-0.02));
    let gate =
        |drop: f64| Gate::new(&config(&format!(r#"{{"max_drop": {drop}}}"#)), Some(before.clone())).expect("fine");
    assert!(gate(0.021).check(&after).expect("fine").is_pass());
    let verdict = gate(0.01).check(&after).expect("fine");
    let misses: Vec<String> = verdict.misses().map(ToString::to_string).collect();
    assert_eq!(misses.len(), 2, "{misses:?}");
    assert_eq!(misses[0], "miou_1 must be at least 0.5900 (baseline 0.6000), got 0.5800");
    let without_ap = Results::new(BTreeMap::new(), after.runs, &[]).expect("fine");
    let error = gate(0.5).check(&without_ap).expect_err("mask_ap is not computed").to_string();
    assert!(error.contains("metric mask_ap"), "{error}");
}

#[test]
fn reports_are_complete_and_self_contained() {
    let (before, after) = (results(0.0), results(0.05));
    let rows = compare(&[&before, &after], &Bootstrap { n_draws: 100, ..Bootstrap::default() }).expect("fine");
    let gate = Gate::new(&config(r#"{"miou_1": 0.9, "miou_2": 0.1}"#), None).expect("a gate");
    let verdict = gate.check(&after).expect("fine");
    let item = GalleryItem {
        caption: "<worst> & \"co\"".to_owned(),
        data_uri: "data:image/png;base64,iVBORw0KGgo=".to_owned(),
    };
    let galleries = [Gallery { title: "Worst at click 1".to_owned(), items: vec![item] }];
    let models = [Model { name: "before", results: &before }, Model { name: "after <2>", results: &after }];
    let report = Report {
        title: "A | B",
        models: &models,
        comparison: &rows,
        verdict: Some(&verdict),
        galleries: &galleries,
        tables: &[],
        focus: None,
    };

    let markdown = report.markdown().expect("fine");
    assert!(markdown.starts_with("# A \\| B\n"));
    assert!(markdown.contains("| miou_1 | 0.6000 | 0.6500 | higher | 4 |"), "{markdown}");
    assert!(markdown.contains("| miou_1 | MISSED | miou_1 must be at least 0.9000, got 0.6500 |"), "{markdown}");
    // Every object gained, but the smaller data set has one image.
    assert!(markdown.contains("0.0500 (0.0500 to 0.0500) |"), "{markdown}");
    assert!(markdown.contains("too few images (1) to tell a difference from chance"), "{markdown}");
    assert!(markdown.contains("vit_b &lt;1&gt; \\| x"), "{markdown}");

    let html = report.html().expect("fine");
    for part in ["<svg", "IoU per click", "Worst at click 1", "data:image/png;base64,iVBORw0KGgo=", "after &lt;2&gt;"] {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.contains("&lt;worst&gt; &amp; &quot;co&quot;"));
    for outside in ["http:", "https:", "<script", "<link", "url(", "@import", "NaN"] {
        assert!(!html.contains(outside), "{outside}");
    }
    for tag in ["svg", "table", "figure", "section", "div", "span", "text", "p"] {
        let open = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert_eq!(html, report.html().expect("fine"));
    if let Ok(path) = std::env::var("SAM_EVAL_REPORT") {
        std::fs::write(path, &html).expect("written");
    }

    let linked = [Gallery {
        title: "x".to_owned(),
        items: vec![GalleryItem { caption: String::new(), data_uri: "worst.png\" onerror=\"".to_owned() }],
    }];
    let error = Report { galleries: &linked, ..report }.html().expect_err("a link").to_string();
    assert!(error.contains("data_uri must be an inline image"), "{error}");
    let error = Report { models: &models[..1], ..report }.markdown().expect_err("one too few").to_string();
    assert!(error.contains("comparison must be an interval for each of 1 models"), "{error}");
}

#[test]
fn junit_has_one_case_per_bound() {
    let results = results(0.0);
    let gate = Gate::new(&config(r#"{"miou_1": 0.9, "miou_2": 0.1}"#), None).expect("a gate");
    let xml = junit_xml("vit_b & <co>", &gate.check(&results).expect("fine"), 1.5);
    assert!(xml.contains("<testsuites tests=\"2\" failures=\"1\" time=\"1.500\">"), "{xml}");
    assert!(xml.contains("<failure type=\"gate\" message=\"miou_1 must be at least 0.9000, got 0.6000\">"), "{xml}");
    assert!(xml.contains("name=\"miou_2\" time=\"0\"></testcase>") && xml.contains("vit_b &amp; &lt;co&gt;"), "{xml}");
}
