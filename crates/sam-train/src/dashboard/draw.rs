//! The screen of the dashboard: everything important at 80 x 24, more of the same where there is room.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph, Wrap};
use sam_learn::record::{Scores, ValidationRecord, duration, rate};

use super::plot::Plot;
use super::state::{State, Stop, Validations};
use crate::disk::size;

/// On a smaller terminal the dashboard is one line.
const MIN_WIDTH: u16 = 60;
const MIN_HEIGHT: u16 = 15;

/// From here on there is room for a table of validations, four charts and several warnings.
const TALL: u16 = 34;
const WIDE: u16 = 110;

/// Colours, or none (`NO_COLOR`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    pub(super) has_colour: bool,
}

impl Palette {
    /// See <https://no-color.org>.
    pub(super) fn from_environment() -> Self {
        Self { has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn colour(self, colour: Color) -> Style {
        if self.has_colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn faint(self) -> Style {
        if self.has_colour { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    fn label(self) -> Style {
        self.colour(Color::Gray)
    }

    fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn baseline(self) -> Style {
        self.colour(Color::Yellow)
    }

    fn good(self) -> Style {
        self.colour(Color::Green)
    }

    fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn curve(self, at: usize) -> Style {
        self.colour([Color::Cyan, Color::Magenta, Color::Green][at % 3])
    }
}

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Instant, palette: Palette) {
    let area = frame.area();
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        draw_small(frame, area, state, now);
        return;
    }
    let is_tall = area.height >= TALL;
    let n_validations = if is_tall { 12 } else { 2 };
    let n_warnings = if is_tall { 5 } else { 2 };
    let rows = [1, 1, 1, 6].map(Constraint::Length);
    let below = [n_validations, n_warnings, 1].map(Constraint::Length);
    let constraints = rows.into_iter().chain([Constraint::Fill(1)]).chain(below);
    let [head, phase, bar, numbers, charts, validations, warnings, keys] = Layout::vertical(constraints).areas(area);
    frame.render_widget(heading(state, head.width), head);
    frame.render_widget(phase_line(state, now, phase.width), phase);
    frame.render_widget(progress_bar(state, bar.width, palette), bar);
    draw_numbers(frame, numbers, state, palette);
    draw_charts(frame, charts, state, palette);
    draw_validations(frame, validations, state, palette);
    draw_warnings(frame, warnings, state, palette);
    frame.render_widget(Paragraph::new(Span::styled(keys_text(state), palette.label())), keys);
    if state.stop == Stop::Asked {
        draw_question(frame, area, palette);
    }
}

/// One line, wrapped, on a terminal that is too small for more.
fn draw_small(frame: &mut Frame<'_>, area: Rect, state: &State, now: Instant) {
    let loss = state.last.as_ref().map_or(String::new(), |last| format!(", loss {:.4}", last.loss));
    let question = match state.stop {
        Stop::Asked => "Save and stop? y / n. ",
        Stop::No | Stop::Requested => "",
    };
    let (step, of_steps) = (state.step, state.of_steps);
    let text =
        format!("{question}step {step} of {of_steps}{loss}, {}, {}", eta_text(state, now), state.phase_text(now));
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
}

fn heading(state: &State, width: u16) -> Line<'static> {
    let name = sam_files::printable(&state.heading.name).into_owned();
    let folder = sam_files::printable(&state.heading.folder).into_owned();
    let room = usize::from(width).saturating_sub(name.chars().count() + 3);
    spread(Span::styled(name, Palette::strong()), Span::raw(end_of(&folder, room)), width)
}

fn phase_line(state: &State, now: Instant, width: u16) -> Line<'static> {
    let times = format!("elapsed {}   {}", duration(state.elapsed_s(now)), eta_text(state, now));
    let style = if state.stop == Stop::Requested { Palette::strong() } else { Style::new() };
    let room = usize::from(width).saturating_sub(times.chars().count() + 2);
    spread(Span::styled(beginning_of(&state.phase_text(now), room), style), Span::raw(times), width)
}

fn eta_text(state: &State, now: Instant) -> String {
    match state.eta_s(now) {
        _ if state.step >= state.of_steps => "the last step is made".to_owned(),
        Some(eta_s) => format!("ETA {}", duration(eta_s)),
        None => "ETA after step 1".to_owned(),
    }
}

fn progress_bar(state: &State, width: u16, palette: Palette) -> Line<'static> {
    let left = format!("step {} of {} ", state.step, state.of_steps);
    let right = format!(" {:>3.0} %", (100.0 * state.fraction()).floor());
    let room = usize::from(width).saturating_sub(left.chars().count() + right.chars().count());
    let done = ((room as f64 * state.fraction()) as usize).min(room);
    Line::from(vec![
        Span::styled(left, Palette::strong()),
        Span::styled("█".repeat(done), palette.curve(0)),
        Span::styled("░".repeat(room - done), palette.faint()),
        Span::raw(right),
    ])
}

/// Loss and its terms; speed and memory; scores.
fn draw_numbers(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let middle = if area.width >= WIDE { Constraint::Fill(1) } else { Constraint::Length(22) };
    let columns = Layout::horizontal([Constraint::Fill(1), middle, Constraint::Fill(1)]).spacing(2);
    let [losses, speed, scores] = columns.areas(area);
    let mut rows: Vec<(&str, Span<'static>)> = Vec::new();
    if let Some(last) = &state.last {
        rows.push(("total", Span::styled(format!("{:.4}", last.loss), Palette::strong())));
        let mse = last.distillation.embedding_mse;
        rows.extend(mse.map(|mse| ("embedding MSE", Span::raw(format!("{mse:.4}")))));
        match &last.segmentation {
            Some(terms) => rows.extend([
                ("focal", Span::raw(format!("{:.4}", terms.focal))),
                ("dice", Span::raw(format!("{:.4}", terms.dice))),
                ("IoU error", Span::raw(format!("{:.4}", terms.iou_error))),
                ("train mIoU", Span::raw(format!("{:.3} → {:.3}", terms.miou_first, terms.miou_last))),
            ]),
            None => rows.push(("gradient norm", Span::raw(format!("{:.3}", last.grad_norm)))),
        }
    }
    let loss_title = match &state.last {
        Some(last) if last.segmentation.is_none() && last.distillation.embedding_mse.is_some() => "embedding loss",
        Some(last) if last.segmentation.is_none() => "reconstruction loss",
        _ => "loss",
    };
    draw_rows(frame, losses, loss_title, rows, palette);
    let rows = state.last.as_ref().map_or_else(Vec::new, |last| {
        vec![
            ("learning rate", Span::raw(format!("{:.2e}", last.lr))),
            ("images/s", Span::raw(rate(last.images_per_s))),
            ("data wait", Span::raw(format!("{:.0} %", 100.0 * last.data_wait_share))),
            ("memory", Span::raw(size((last.memory_mib * f64::from(1 << 20)) as u64))),
            ("gradient norm", Span::raw(format!("{:.3}", last.grad_norm))),
        ]
    });
    draw_rows(frame, speed, "speed", rows, palette);
    let title = state.validations.metric.as_deref().unwrap_or("no validation");
    draw_rows(frame, scores, title, score_rows(state, palette), palette);
}

fn score_rows(state: &State, palette: Palette) -> Vec<(&'static str, Span<'static>)> {
    let validations = &state.validations;
    if validations.metric.is_none() {
        return vec![("best", Span::raw("the last checkpoint"))];
    }
    let shown = |scores: &Scores| {
        validations.value_of(scores).map_or_else(|| "-".to_owned(), |value| format!("{value:.4}, step {}", scores.step))
    };
    let dash = || Span::styled("-", palette.faint());
    let best = validations.best.as_ref().map_or_else(dash, |best| Span::styled(shown(best), Palette::strong()));
    let baseline = validations.baseline.as_ref().and_then(|baseline| validations.value_of(baseline));
    let baseline = baseline.map_or_else(dash, |value| Span::styled(format!("{value:.4}"), palette.baseline()));
    let change = validations.change().map_or_else(dash, |change| {
        let style = if change.is_improvement { palette.good() } else { palette.bad() };
        let note = if change.is_improvement { "" } else { " (worse)" };
        Span::styled(format!("{:+.4}{note}", change.difference), style)
    });
    let last = validations.records.back().map_or_else(dash, |record| Span::raw(shown(&record.scores)));
    let next = match state.step >= state.of_steps {
        true => dash(),
        false => Span::raw(format!("step {}", validations.next_step(state.step, state.of_steps))),
    };
    vec![("best", best), ("baseline", baseline), ("change", change), ("last", last), ("next", next)]
}

/// A title and rows of a name and a value.
fn draw_rows(frame: &mut Frame<'_>, area: Rect, title: &str, rows: Vec<(&str, Span<'static>)>, palette: Palette) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let title = Line::styled(title.to_owned(), palette.label().add_modifier(Modifier::UNDERLINED));
    let lines = rows
        .into_iter()
        .map(|(name, value)| Line::from(vec![Span::styled(format!("{name:<width$}  "), palette.label()), value]));
    frame.render_widget(Paragraph::new(Vec::from_iter(std::iter::once(title).chain(lines))), area);
}

fn draw_charts(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    if area.height < 3 {
        return;
    }
    let is_segmentation = state.last.as_ref().is_some_and(|last| last.segmentation.is_some());
    let validations = &state.validations;
    let legend = |text: &str, at: usize| Span::styled(text.to_owned(), palette.curve(at));
    let baseline = validations.baseline.as_ref().and_then(|baseline| validations.value_of(baseline));
    let loss = Plot {
        title: Line::from(" loss "),
        curves: vec![&state.curves.loss],
        baseline: None,
        empty: "after the first step",
    };
    let metric = validations.metric.as_deref().unwrap_or("validation");
    let mut title = vec![Span::raw(format!(" {metric} "))];
    if baseline.is_some() {
        title.push(Span::styled("- - baseline ", palette.baseline()));
    }
    let score = Plot {
        title: Line::from(title),
        curves: vec![&validations.curve],
        baseline,
        empty: if validations.metric.is_some() { "after the first validation" } else { "nothing is validated" },
    };
    let (rows, has_four) = match area.width >= WIDE && area.height >= 18 {
        true => (Layout::vertical([Constraint::Fill(1); 2]).areas::<2>(area), true),
        false => ([area, Rect::ZERO], false),
    };
    let columns = |row: Rect| Layout::horizontal([Constraint::Fill(1); 2]).areas::<2>(row);
    let [left, right] = columns(rows[0]);
    loss.draw(frame, left, palette);
    score.draw(frame, right, palette);
    if !has_four {
        return;
    }
    let [left, right] = columns(rows[1]);
    let rates = |area: Rect, frame: &mut Frame<'_>| {
        let curves = vec![&state.curves.lr];
        Plot { title: Line::from(" learning rate "), curves, baseline: None, empty: "" }.draw(frame, area, palette);
    };
    if !is_segmentation {
        rates(rows[1], frame);
        return;
    }
    let title = vec![Span::raw(" loss terms: "), legend("focal ", 0), legend("dice ", 1), legend("IoU error ", 2)];
    let curves = state.curves.terms.iter().collect();
    Plot { title: Line::from(title), curves, baseline: None, empty: "" }.draw(frame, left, palette);
    let [iou, lr] = columns(right);
    let title = vec![Span::raw(" train mIoU: "), legend("first ", 0), legend("last ", 1)];
    let curves = state.curves.train_iou.iter().collect();
    Plot { title: Line::from(title), curves, baseline: None, empty: "" }.draw(frame, iou, palette);
    rates(lr, frame);
}

/// The metrics of the last validation, or a table of the last ones.
fn draw_validations(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let validations = &state.validations;
    let Some(last) = validations.records.back() else { return };
    if area.height <= 2 {
        let mut spans = vec![Span::styled(format!("validation after step {}: ", last.scores.step), palette.label())];
        let metrics =
            last.scores.headlines().into_iter().map(|(name, value)| Span::raw(format!("{name} {value:.4}  ")));
        spans.extend(metrics);
        frame.render_widget(Paragraph::new(Line::from(spans)).wrap(Wrap { trim: true }), area);
        return;
    }
    let names: Vec<&str> = last.scores.headlines().into_iter().map(|(name, _)| name).collect();
    let widths: Vec<usize> = names.iter().map(|name| name.len().max(8)).collect();
    let n_columns = columns_that_fit(&widths, usize::from(area.width).saturating_sub(28));
    let header: String =
        names.iter().zip(&widths).take(n_columns).map(|(name, width)| format!("{name:>width$}  ")).collect();
    let mut lines = vec![Line::styled(format!("{:>10}  {header}", "step"), palette.label())];
    let room = usize::from(area.height) - 1;
    for record in validations.records.iter().rev().take(room).rev() {
        lines.push(validation_row(record, &names[..n_columns], &widths, validations, palette));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn validation_row(
    record: &ValidationRecord,
    names: &[&str],
    widths: &[usize],
    validations: &Validations,
    palette: Palette,
) -> Line<'static> {
    let values: String = names
        .iter()
        .zip(widths)
        .map(|(name, width)| {
            let value = record.scores.metrics.get(*name);
            value.map_or_else(|| format!("{:>width$}  ", "-"), |value| format!("{value:>width$.4}  "))
        })
        .collect();
    let is_best = validations.best.as_ref().is_some_and(|best| best.step == record.scores.step);
    let (mark, style) = match (record.is_baseline, is_best) {
        (true, _) => ("before training", palette.baseline()),
        (false, true) => ("best", Palette::strong()),
        (false, false) => ("", Style::new()),
    };
    Line::styled(format!("{:>10}  {values}{mark}", record.scores.step), style)
}

fn columns_that_fit(widths: &[usize], room: usize) -> usize {
    let ends = widths.iter().scan(0, |end, width| {
        *end += width + 2;
        Some(*end)
    });
    ends.take_while(|&end| end <= room).count()
}

fn draw_warnings(frame: &mut Frame<'_>, area: Rect, state: &State, palette: Palette) {
    let warnings = &state.warnings;
    let skipped = match state.n_skipped() {
        0 => String::new(),
        n => format!(", {n} images skipped"),
    };
    let head = match warnings.n {
        0 => Line::styled("no warnings", palette.faint()),
        n => Line::styled(format!("warnings: {n}{skipped}"), palette.baseline()),
    };
    let room = usize::from(area.height) - 1;
    let last = warnings.lines.iter().rev().take(room).rev();
    let lines = last.map(|line| Line::raw(sam_files::printable(line).replace('\n', " ")));
    frame.render_widget(Paragraph::new(Vec::from_iter(std::iter::once(head).chain(lines))), area);
}

fn keys_text(state: &State) -> &'static str {
    match state.stop {
        Stop::No => "q or Ctrl-C: save and stop",
        Stop::Asked => "Enter or y: save and stop   Esc or n: keep running",
        Stop::Requested => "stopping; Ctrl-C exits at once, without saving",
    }
}

fn draw_question(frame: &mut Frame<'_>, area: Rect, palette: Palette) {
    let [row] = Layout::vertical([Constraint::Length(7)]).flex(ratatui::layout::Flex::Center).areas(area);
    let [box_area] = Layout::horizontal([Constraint::Length(50)]).flex(ratatui::layout::Flex::Center).areas(row);
    let lines = vec![
        Line::raw(""),
        Line::raw("The step is finished and the run is saved."),
        Line::raw("It can be resumed later."),
        Line::raw(""),
        Line::styled("Enter/y  save and stop     Esc/n  keep running", Palette::strong()),
    ];
    let block = Block::bordered().border_type(BorderType::Double).title(" Stop the run? ").style(palette.baseline());
    frame.render_widget(Clear, box_area);
    frame.render_widget(Paragraph::new(lines).alignment(Alignment::Center).block(block), box_area);
}

/// A text at the left end of a line and one at its right end.
fn spread(left: Span<'static>, right: Span<'static>, width: u16) -> Line<'static> {
    let gap = usize::from(width).saturating_sub(left.width() + right.width());
    Line::from(vec![left, Span::raw(" ".repeat(gap)), right])
}

fn beginning_of(text: &str, room: usize) -> String {
    match text.chars().count() > room {
        true => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// The end of a path says more than its beginning.
fn end_of(text: &str, room: usize) -> String {
    let n = text.chars().count();
    match n > room {
        true => std::iter::once('…').chain(text.chars().skip(n + 1 - room.min(n))).collect(),
        false => text.to_owned(),
    }
}
