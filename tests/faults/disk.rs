//! A disk that is full after any number of bytes.

use std::process::Command;

use super::{Results, draws, finish_as_a_user, prepared, repetitions, report, start, wait};

/// Upper bound of the file size limit, in the blocks of `ulimit`.
const BLOCKS: usize = 160;

/// A run on a full disk fails with a message; once there is space, it ends as the uninterrupted run.
#[test]
fn a_full_disk_loses_nothing() {
    let expected = Results::uninterrupted();
    let mut n_full = 0;
    for repetition in 0..repetitions(6) {
        let run = prepared();
        let log = run.path("log.txt");
        // No file may grow beyond this, which fails as a full disk does.
        let blocks = draws(4, repetition).index(BLOCKS);
        let mut command = Command::new("bash");
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_sam-train"), "--config", "train.toml", "--plain"]);
        command.current_dir(run.path(""));
        let ended = wait(start(command, &log), &log, None);
        ended.assert_sound(&format!("{blocks} blocks"));
        n_full += usize::from(ended.code != Some(0));
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "{blocks} blocks");
    }
    report(&format!("{n_full} full disks"));
}
