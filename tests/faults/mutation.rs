//! Mutated input of every reader: bytes flipped, cut, repeated, numbers at the limits of their types.

use std::path::PathBuf;
use std::process::Command;

use sam_data::random::RandomStream;

use super::{draws, program, repetitions, report, start, wait};
use crate::cli::Run;
use crate::data_cli::datasets;
use crate::fixture::path;

/// The documented bound for a process that reads small input.
const PEAK_MIB: u64 = 2048;

/// Numbers that break what was not checked.
const EXTREMES: [&str; 12] = [
    "-1",
    "0",
    "1e308",
    "-1e308",
    "NaN",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "4294967296",
    "-9223372036854775808",
    "1e-320",
    "99999999999999999999999999",
];

/// A file and the command that reads it; `@` stands for its mutated copy.
struct Reader {
    file: PathBuf,
    arguments: Vec<String>,
}

fn readers() -> Vec<Reader> {
    let tiny = path("tiny_sam.safetensors").display().to_string();
    let photo = first_image();
    let checkpoint = |name: &str| Reader { file: path(name), arguments: texts(&["inspect", "@"]) };
    let data = |file: &str| Reader { file: PathBuf::from(datasets(file)), arguments: texts(&["data", "check", "@"]) };
    let mut readers: Vec<Reader> = [
        "tiny_sam.safetensors",
        "tiny_sam.pth",
        "tiny_sam_legacy.pth",
        "tiny_sam_wrapped_f16.pth",
        "tiny_mae.pth",
        "tiny_sam_bf16.safetensors",
    ]
    .map(checkpoint)
    .into();
    readers.push(data("photos/annotations/instances_val.json"));
    readers.push(Reader {
        file: PathBuf::from(photo),
        arguments: texts(&["predict", "--checkpoint", &tiny, "--image", "@", "--point", "5,5", "--out", "masks"]),
    });
    readers.push(Reader { file: PathBuf::from("quickstart.toml"), arguments: texts(&["--check", "--config", "@"]) });
    readers
}

fn texts(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn first_image() -> String {
    let folder = datasets("photos/val");
    let mut names: Vec<_> = std::fs::read_dir(folder).expect("committed").flatten().map(|entry| entry.path()).collect();
    names.sort();
    names[0].display().to_string()
}

fn mutated(bytes: &[u8], draws: &mut RandomStream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + draws.index(4) {
        if bytes.is_empty() {
            break;
        }
        // Headers decide most, so half of the mutations are near the beginning.
        let reach = if draws.index(2) == 0 { bytes.len().min(512) } else { bytes.len() };
        let at = draws.index(reach);
        match draws.index(6) {
            0 => bytes[at] ^= 1 << draws.index(8),
            1 => bytes[at] = draws.index(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + draws.index(64)).min(bytes.len());
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => drop(bytes.drain(at..(at + 1 + draws.index(16)).min(bytes.len()))),
            _ => number(&mut bytes, at, EXTREMES[draws.index(EXTREMES.len())]),
        }
    }
    bytes
}

/// Puts an extreme in the place of the next number in a text; of a file without one, four bytes become 0xFF.
fn number(bytes: &mut Vec<u8>, from: usize, extreme: &str) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    match bytes[from..].iter().position(is_digit) {
        Some(begin) if std::str::from_utf8(bytes).is_ok() => {
            let begin = from + begin;
            let end = bytes[begin..].iter().position(|byte| !is_digit(byte)).map_or(bytes.len(), |n| begin + n);
            bytes.splice(begin..end, extreme.bytes());
        }
        _ => bytes[from..].iter_mut().take(4).for_each(|byte| *byte = 0xFF),
    }
}

/// Every mutation is read, or refused with a message.
#[test]
fn mutated_input_is_read_or_refused() {
    let readers = readers();
    let mut codes = [0; 3];
    let mut peak_mib = 0;
    for repetition in 0..repetitions(90) {
        let reader = &readers[repetition % readers.len()];
        let mut draws = draws(6, repetition);
        let run = Run::new();
        let name = reader.file.file_name().expect("a file").to_string_lossy().into_owned();
        let original = match reader.file.is_absolute() {
            true => std::fs::read(&reader.file).expect("committed"),
            false => std::fs::read(path("../../configs").join(&reader.file)).expect("committed"),
        };
        let file = run.path(&name);
        std::fs::write(&file, mutated(&original, &mut draws)).expect("written");
        let arguments: Vec<&str> =
            reader.arguments.iter().map(|argument| if argument == "@" { name.as_str() } else { argument }).collect();
        let log = run.path("log.txt");
        let command: Command = program(&run, &arguments);
        let ended = wait(start(command, &log), &log, None);
        ended.assert_sound(&format!("{arguments:?}, repetition {repetition}"));
        assert!(ended.peak_mib <= PEAK_MIB, "{arguments:?} took {} MiB, repetition {repetition}", ended.peak_mib);
        peak_mib = peak_mib.max(ended.peak_mib);
        codes[ended.code.unwrap_or_default() as usize] += 1;
    }
    report(&format!("{} read, {} refused, peak {peak_mib} MiB", codes[0], codes[1] + codes[2]));
}
