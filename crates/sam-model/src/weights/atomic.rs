//! Files that appear whole or not at all.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Runs `write` on a temporary name in the folder of `path`, syncs the result to the disk and gives it its final name.
/// Returns the file's size. On any failure what stood at `path` stands there still.
///
/// A link is followed: its target is replaced, the link stays. `io` turns the system's errors into the caller's.
pub fn write_atomically<E>(
    path: &Path,
    io: impl Fn(io::Error) -> E,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<u64, E> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = temporary_beside(&path).map_err(&io)?;
    let inside = temporary.path().join(path.file_name().unwrap_or_else(|| "file".as_ref()));
    write(&inside)?;
    let finish = || -> io::Result<u64> {
        let file = File::open(&inside)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        std::fs::rename(&inside, &path)?;
        Ok(bytes)
    };
    let bytes = finish().map_err(&io)?;
    sync_folder(&folder_of(&path));
    Ok(bytes)
}

/// The same for a whole folder that does not exist yet.
pub fn write_folder_atomically<E>(
    path: &Path,
    io: impl Fn(io::Error) -> E,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary_beside(path).map_err(&io)?;
    let inside = temporary.path().join(path.file_name().unwrap_or_else(|| "folder".as_ref()));
    std::fs::create_dir(&inside).map_err(&io)?;
    write(&inside)?;
    std::fs::rename(&inside, path).map_err(&io)?;
    sync_folder(&folder_of(path));
    Ok(())
}

fn temporary_beside(path: &Path) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(".writing-").tempdir_in(folder_of(path))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A rename is durable once its folder is synced; where a folder cannot be opened, the system does it alone.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kept");
        std::fs::write(&path, "old").expect("written");
        let same = |error: io::Error| error;
        let failed = write_atomically(&path, same, |temporary| {
            std::fs::write(temporary, "half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        let bytes = write_atomically(&path, same, |temporary| std::fs::write(temporary, "newer")).expect("written");
        assert_eq!((bytes, std::fs::read_to_string(&path).expect("there").as_str()), (5, "newer"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_files_have_the_usual_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").expect("written");
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        let usual = std::fs::metadata(&target).expect("there").permissions().mode();
        write_atomically(&link, |error| error, |temporary| std::fs::write(temporary, "new")).expect("written");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(std::fs::read_to_string(&target).expect("there"), "new");
        assert_eq!(std::fs::metadata(&target).expect("there").permissions().mode(), usual);
    }
}
