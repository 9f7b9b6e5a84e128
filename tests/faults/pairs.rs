//! Two processes on one run folder.

use std::time::Duration;

use super::{Results, draws, finish, finish_as_a_user, prepared, program, repetitions, report, start, wait};

/// The run that holds the folder ends as if it were alone; the other process is rejected with the id of the holder.
#[test]
fn the_second_of_two_processes_is_refused() {
    let expected = Results::uninterrupted();
    let mut n_refused = 0;
    for repetition in 0..repetitions(3) {
        let mut draws = draws(5, repetition);
        let run = prepared();
        if draws.index(2) == 0 {
            let stopped = finish(&run, &["--config", "train.toml", "--plain", "--set", "schedule.steps=8"]);
            assert_eq!(stopped.code, Some(0), "{}", stopped.text);
        }
        let is_there = run.path("run").exists();
        let sessions: [&[&str]; 3] = [
            &["--config", "train.toml", "--plain"],
            &["--resume", "run", "--plain"],
            &["--config", "train.toml", "--plain", "--force"],
        ];
        let first = if is_there { sessions[1 + draws.index(2)] } else { sessions[0] };
        let second = sessions[draws.index(3)];
        let (first_log, second_log) = (run.path("first.txt"), run.path("second.txt"));
        let child = start(program(&run, first), &first_log);
        std::thread::sleep(Duration::from_millis(draws.index(400) as u64));
        let other = wait(start(program(&run, second), &second_log), &second_log, None);
        let one = wait(child, &first_log, None);
        for (ended, arguments) in [(&one, first), (&other, second)] {
            ended.assert_sound(&format!("{arguments:?}"));
            if ended.text.contains("another process") {
                assert_eq!(ended.code, Some(2), "{}", ended.text);
                n_refused += 1;
            }
        }
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "{first:?} and {second:?}");
    }
    report(&format!("{n_refused} were refused"));
}
