//! The terminal while the dashboard is on it, and as it was afterwards, however the program ends.

use std::io::{self, BufWriter, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::{Frame, Terminal, backend::CrosstermBackend};

/// A frame at 200 x 50 in colour has some 20 KiB, written at once.
const BUFFER_BYTES: usize = 1 << 16;

static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Held while a frame is written, so that nothing is drawn after the terminal is restored.
static DRAWING: Mutex<()> = Mutex::new(());

/// Whether the dashboard is on the terminal: nothing else may be printed there then.
pub(crate) fn is_open() -> bool {
    IS_OPEN.load(Ordering::SeqCst)
}

/// Leaves the terminal as it was before the dashboard; without a dashboard, nothing happens.
pub(crate) fn restore() {
    const WAIT: Duration = Duration::from_millis(5);
    const TRIES: usize = 40;
    // A thread that panics or hangs while it draws never frees the lock: the terminal is restored all the same.
    let _lock = (0..TRIES).find_map(|_| {
        let lock = DRAWING.try_lock().ok();
        if lock.is_none() {
            std::thread::sleep(WAIT);
        }
        lock
    });
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        // There is no use for an error at the end.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// The opened screen.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Opens the alternate screen; a panic of any thread closes it before its message is printed.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
            }));
        });
        let (width, height) = size()?;
        if width == 0 || height == 0 {
            // Some programs give a terminal without a size to those they start.
            return Err(io::Error::other("the terminal has no size"));
        }
        enable_raw_mode()?;
        IS_OPEN.store(true, Ordering::SeqCst);
        let opened = execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All))
            .and_then(|()| Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER_BYTES, stdout()))));
        opened.map(|terminal| Self { terminal }).inspect_err(|_| restore())
    }

    /// Draws a frame; `false` when the screen is closed.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<bool> {
        let Ok(_lock) = DRAWING.lock() else { return Ok(false) };
        if !is_open() {
            return Ok(false);
        }
        self.terminal.draw(draw)?;
        Ok(true)
    }
}
