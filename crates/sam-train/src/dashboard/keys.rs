//! Keys of the dashboard.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{State, Stop};

/// What a key asks for, beyond the screen itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Ctrl-C: finish the step and save; a second one exits immediately.
    Interrupt,
    /// The answer "save and stop".
    SaveAndStop,
}

/// Handles a key.
pub(super) fn on_key(state: &mut State, key: KeyEvent) -> Option<Request> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let is_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
    match (key.code, state.stop) {
        (KeyCode::Char('c' | 'C'), _) if is_ctrl => return Some(Request::Interrupt),
        (KeyCode::Enter | KeyCode::Char('y' | 'Y'), Stop::Asked) => return Some(Request::SaveAndStop),
        (KeyCode::Esc | KeyCode::Char('n' | 'N' | 'q' | 'Q'), Stop::Asked) => state.stop = Stop::No,
        (KeyCode::Esc | KeyCode::Char('q' | 'Q'), Stop::No) => state.stop = Stop::Asked,
        _ => {}
    }
    None
}
