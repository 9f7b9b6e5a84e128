//! Text files of annotations: UTF-8 with or without a byte order mark, or UTF-16 with one.
//!
//! Windows tools write both. Any other encoding is an error with its line: guessing a code page would invent class names.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::DataError;
use crate::formats::signature;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a text of at most [`sam_files::MAX_TEXT_BYTES`].
pub(crate) fn read(path: &Path) -> Result<String, DataError> {
    read_within(path, sam_files::MAX_TEXT_BYTES)
}

/// Reads a text file of at most `max_bytes`: UTF-8 with or without a byte order mark, or UTF-16 with one.
///
/// # Errors
///
/// When it cannot be read, is larger, is of another encoding (with the line), or is no text (a Git LFS pointer, an HTML page).
pub fn read_within(path: &Path, max_bytes: u64) -> Result<String, DataError> {
    let bytes = sam_files::read_regular(path, max_bytes).map_err(|error| DataError::io(path, error))?;
    decode(bytes, path)
}

/// Decodes a text; `path` is for messages.
pub(crate) fn decode(bytes: Vec<u8>, path: &Path) -> Result<String, DataError> {
    if let Some(text) = decode_utf16(&bytes) {
        return Ok(text);
    }
    if !bytes.is_empty() {
        signature::check(&bytes, path, "a text file")?;
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.starts_with(BYTE_ORDER_MARK) => Ok(text[BYTE_ORDER_MARK.len_utf8()..].to_owned()),
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
            Err(not_utf8(path, error.as_bytes()[at], line))
        }
    }
}

/// The text of bytes that start with a byte order mark of UTF-16.
pub(crate) fn decode_utf16(bytes: &[u8]) -> Option<String> {
    let read: fn([u8; 2]) -> u16 = match bytes {
        [0xFF, 0xFE, ..] => u16::from_le_bytes,
        [0xFE, 0xFF, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let units = bytes[2..].chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
    Some(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// The whole text of a file that starts with a byte order mark of UTF-16; `None` for another file.
pub(crate) fn read_utf16(path: &Path) -> Result<Option<String>, DataError> {
    let io = |error| DataError::io(path, error);
    let mut head = Vec::new();
    sam_files::open_regular(path).map_err(io)?.take(2).read_to_end(&mut head).map_err(io)?;
    if decode_utf16(&head).is_none() {
        return Ok(None);
    }
    Ok(decode_utf16(&sam_files::read_regular(path, sam_files::MAX_FILE_BYTES).map_err(io)?))
}

/// The error for an invalid byte at an offset of a file.
pub(crate) fn invalid_at(path: &Path, at: u64) -> DataError {
    let read = || -> std::io::Result<(u8, usize)> {
        let mut file = sam_files::open_regular(path)?;
        let mut before = Vec::new();
        file.by_ref().take(at).read_to_end(&mut before)?;
        file.seek(SeekFrom::Start(at))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok((byte[0], 1 + before.iter().filter(|&&byte| byte == b'\n').count()))
    };
    match read() {
        Ok((byte, line)) => not_utf8(path, byte, line),
        Err(error) => DataError::io(path, error),
    }
}

fn not_utf8(path: &Path, byte: u8, line: usize) -> DataError {
    DataError::Content {
        path: path.to_path_buf(),
        what: "the text".to_owned(),
        expected: "UTF-8, or UTF-16 with a byte order mark".to_owned(),
        got: format!("byte 0x{byte:02x} in line {line}, as Latin-1 or another code page writes it"),
        fix: "save the file as UTF-8".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_read_and_code_pages_are_errors() {
        let text = "a: caf\u{e9}\n";
        let utf16 = |units: Vec<[u8; 2]>, mark: [u8; 2]| [vec![mark], units].concat().concat();
        let little = utf16(text.encode_utf16().map(u16::to_le_bytes).collect(), [0xFF, 0xFE]);
        let big = utf16(text.encode_utf16().map(u16::to_be_bytes).collect(), [0xFE, 0xFF]);
        let marked = [&b"\xEF\xBB\xBF"[..], text.as_bytes()].concat();
        for bytes in [text.as_bytes().to_vec(), marked, little, big] {
            assert_eq!(decode(bytes, Path::new("t")).expect("decodes"), text);
        }
        let error = decode(b"x\ny: caf\xE9".to_vec(), Path::new("t.yaml")).expect_err("Latin-1").to_string();
        assert!(
            error.contains("t.yaml") && error.contains("byte 0xe9 in line 2") && error.contains("Latin-1"),
            "{error}"
        );
    }

    #[test]
    fn pointers_and_pages_are_named() {
        for (bytes, name) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "a Git LFS pointer"),
            (b"\n<!DOCTYPE html><html>", "an HTML page"),
            (b"PK\x03\x04..", "a compressed archive"),
        ] {
            let error = decode(bytes.to_vec(), Path::new("t.json")).expect_err("no text").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
