//! The dashboard of a run on a terminal: an observer of the run's events with a thread of its own, which draws a few times a
//! second and reacts to keys and to a new size of the terminal while a step takes a minute.

mod curve;
mod draw;
mod keys;
mod plot;
mod state;
mod terminal;
#[cfg(test)]
mod tests;

pub(crate) use state::Heading;
pub(crate) use terminal::{is_open, restore};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};
use sam_learn::LearnError;
use sam_learn::record::{Observer, RunEvent};

use crate::train::StopSwitch;
use draw::Palette;
use keys::{Request, on_key};
use state::{State, Stop};
use terminal::Screen;

/// How long the thread waits for a key.
const POLL: Duration = Duration::from_millis(100);

/// Time between two frames, when no key is pressed.
const FRAME: Duration = Duration::from_millis(200);

/// Times and ETA count even when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// Opens the screen with the first event, and closes it when it is dropped.
pub(crate) struct Dashboard {
    heading: Heading,
    switch: StopSwitch,
    opened: Option<Opened>,
}

struct Opened {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What the run writes and the thread draws.
struct Shared {
    state: Mutex<State>,
    has_changed: AtomicBool,
    is_closing: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dashboard {
    /// A dashboard that stops the run by `switch`.
    pub(crate) fn new(heading: Heading, switch: StopSwitch) -> Self {
        Self { heading, switch, opened: None }
    }

    fn open(&mut self, state: State) {
        // Without a screen the run prints lines.
        let Ok(screen) = Screen::open() else { return };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            has_changed: AtomicBool::new(true),
            is_closing: AtomicBool::new(false),
        });
        let (of_thread, switch) = (Arc::clone(&shared), self.switch.clone());
        let thread = std::thread::Builder::new().name("dashboard".to_owned());
        match thread.spawn(move || show(screen, &of_thread, &switch)) {
            Ok(thread) => self.opened = Some(Opened { shared, thread }),
            Err(_) => restore(),
        }
    }
}

impl Observer for Dashboard {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        match (event, &self.opened) {
            (RunEvent::Started(start), None) => self.open(State::new(self.heading.clone(), start, Instant::now())),
            (_, Some(Opened { shared, .. })) => {
                shared.state().on(event, Instant::now());
                shared.has_changed.store(true, Ordering::Relaxed);
            }
            (_, None) => {}
        }
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        if let Some(Opened { shared, thread }) = self.opened.take() {
            shared.is_closing.store(true, Ordering::Relaxed);
            // A panic of the thread has printed its message.
            let _ = thread.join();
            restore();
        }
    }
}

/// Draws and reads keys until the dashboard is dropped or the screen is closed.
fn show(mut screen: Screen, shared: &Shared, switch: &StopSwitch) {
    let palette = Palette::from_environment();
    let mut drawn: Option<Instant> = None;
    while !shared.is_closing.load(Ordering::Relaxed) {
        let is_due = match drawn.map(|at| at.elapsed()) {
            None => true,
            Some(since) => since >= TICK || (since >= FRAME && shared.has_changed.load(Ordering::Relaxed)),
        };
        if is_due {
            shared.has_changed.store(false, Ordering::Relaxed);
            let mut state = shared.state().clone();
            if switch.is_requested() {
                state.stop = Stop::Requested;
            }
            match screen.draw(|frame| draw::draw(frame, &state, Instant::now(), palette)) {
                Ok(true) => drawn = Some(Instant::now()),
                // Taken back after a panic.
                Ok(false) => break,
                // Without a screen the run prints lines, and Ctrl-C is a signal again.
                Err(_) => {
                    restore();
                    break;
                }
            }
        }
        match event::poll(POLL) {
            Ok(true) => {
                react(shared, switch);
                drawn = None;
            }
            Ok(false) => {}
            Err(_) => std::thread::sleep(POLL),
        }
    }
    // Keys that were typed for the dashboard are not for the shell.
    while event::poll(Duration::ZERO).unwrap_or(false) && event::read().is_ok() {}
}

/// Handles one event of the terminal. A new size needs no more than the next frame.
fn react(shared: &Shared, switch: &StopSwitch) {
    let Ok(Event::Key(key)) = event::read() else { return };
    let request = {
        let mut state = shared.state();
        if switch.is_requested() {
            state.stop = Stop::Requested;
        }
        on_key(&mut state, key)
    };
    match request {
        Some(Request::Interrupt) => switch.interrupt(),
        Some(Request::SaveAndStop) => switch.stop(),
        None => {}
    }
}
