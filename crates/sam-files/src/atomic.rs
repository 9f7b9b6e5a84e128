//! Files and folders that appear complete or not at all.
//!
//! The content is written under a temporary name in the target's folder and then renamed, so a reader never sees half a
//! file and a failure leaves what was there before.

use std::fs::{DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Start of the names of folders that hold unfinished content, before the id of the process that writes it. A crash leaves
/// one behind: see [`sweep_unfinished`].
pub const UNFINISHED_PREFIX: &str = ".writing-";

/// Without `/proc`, unfinished content of this age is considered abandoned.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Replaces the file at `path` by `contents`, durably; returns its size in bytes.
///
/// If `path` is a symbolic link, its target is replaced and the link stays.
///
/// # Errors
///
/// When the file cannot be written; the old file is then still there.
pub fn write_atomically(path: &Path, contents: impl AsRef<[u8]>) -> io::Result<u64> {
    write_atomically_with(path, |error| error, |temporary| std::fs::write(temporary, contents))
}

/// Replaces the file at `path` by what `write` puts into a temporary file, durably; returns its size in bytes.
///
/// `io` converts the system's errors to the caller's error type. Links are followed as by [`write_atomically`].
///
/// # Errors
///
/// When `write` fails or the file cannot be written; the old file is then still there.
pub fn write_atomically_with<E>(
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

/// Replaces the file at `path` by `contents` without waiting for the disk, for the many small files of a data set. After a
/// power failure the file may be missing or empty; after a crash of the program it is complete or absent.
///
/// # Errors
///
/// When the file cannot be written; the old file is then still there.
pub fn write_unsynced(path: &Path, contents: impl AsRef<[u8]>) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let inside = temporary.path().join("file");
    std::fs::write(&inside, contents)?;
    std::fs::rename(&inside, path)
}

/// Creates the folder `path` with what `write` puts into a temporary folder. The caller syncs the files inside where that
/// matters.
///
/// # Errors
///
/// When `write` fails or the folder cannot be written; nothing is left behind then.
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

/// As [`write_folder_atomically`]; where the folder exists, the files that `write` makes replace those of the same name, one by
/// one and durably, and files in `ours` that it does not make are removed. Others stay.
///
/// # Errors
///
/// When `write` fails, nothing is replaced; when a file cannot be moved, those before it are.
pub fn write_into_folder<E>(
    path: &Path,
    ours: &[String],
    io: impl Fn(io::Error) -> E,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let sync_all = |folder: &Path| {
        let files = sorted_files(folder)?;
        files.iter().try_for_each(|file| File::open(file)?.sync_all()).map(|()| files)
    };
    if !path.exists() {
        return write_folder_atomically(path, &io, |temporary| {
            write(temporary)?;
            sync_all(temporary).map(|_| ()).map_err(&io)
        });
    }
    let path = std::fs::canonicalize(path).map_err(&io)?;
    let temporary = temporary_beside(&path.join("file")).map_err(&io)?;
    write(temporary.path())?;
    let replace = || -> io::Result<()> {
        let files = sync_all(temporary.path())?;
        for stale in ours.iter().filter(|name| !temporary.path().join(name).exists()) {
            remove_if_there(&path.join(stale))?;
        }
        files.iter().try_for_each(|file| std::fs::rename(file, path.join(file.file_name().unwrap_or_default())))
    };
    replace().map_err(&io)?;
    sync_folder(&path);
    Ok(())
}

fn sorted_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// Removes a file; none there is no error.
///
/// # Errors
///
/// When it is there and cannot be removed.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes unfinished content of ended processes from `folder`; returns the number of removed entries. Errors are ignored,
/// because leftovers only take space.
pub fn sweep_unfinished(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let stale = entries.flatten().filter(is_stale);
    stale.filter(|entry| std::fs::remove_dir_all(entry.path()).is_ok()).count()
}

fn is_stale(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED_PREFIX)) else { return false };
    let writer = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
    match writer {
        Some(pid) if Path::new("/proc/self").exists() => {
            pid != std::process::id() && !Path::new("/proc").join(pid.to_string()).exists()
        }
        _ => {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            modified.ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age > STALE_AFTER)
        }
    }
}

fn temporary_beside(path: &Path) -> io::Result<tempfile::TempDir> {
    let prefix = format!("{UNFINISHED_PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(folder_of(path))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A rename is durable once its folder is synced; where a folder cannot be opened, the system takes care of it.
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
        let failed = write_atomically_with(
            &path,
            |error| error,
            |temporary| {
                std::fs::write(temporary, "half")?;
                Err(io::Error::other("the disk is full"))
            },
        );
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        let bytes = write_atomically(&path, "newer").expect("written");
        assert_eq!((bytes, std::fs::read_to_string(&path).expect("there").as_str()), (5, "newer"));
        write_unsynced(&path, "newest").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "newest");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn an_existing_folder_keeps_what_is_not_ours() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("graphs");
        let ours = ["a", "b"].map(str::to_owned);
        let write = |names: &'static [&'static str]| {
            write_into_folder(
                &folder,
                &ours,
                |error| error,
                |temporary| {
                    names
                        .iter()
                        .try_for_each(|name| std::fs::write(temporary.join(name), format!("{name} of {}", names.len())))
                },
            )
        };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        write(&["a", "b"]).expect("created");
        std::fs::write(folder.join("mine"), "mine").expect("written");
        write(&["b"]).expect("replaced");
        assert_eq!([read("a"), read("b"), read("mine")], [None, Some("b of 1".into()), Some("mine".into())]);
        let failed = write_into_folder(
            &folder,
            &ours,
            |error| error,
            |temporary| {
                std::fs::write(temporary.join("b"), "half")?;
                Err(io::Error::other("the disk is full"))
            },
        );
        assert!(failed.is_err());
        assert_eq!(read("b").as_deref(), Some("b of 1"));
        let names = std::fs::read_dir(&folder).expect("listed").count();
        assert_eq!(
            (names, std::fs::read_dir(parent.path()).expect("listed").count()),
            (2, 1),
            "nothing is left behind"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_leftovers_of_ended_processes_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        // Larger than any process id of Linux (2^22).
        let names = [".writing-99999999-a", ".writing-1-b", ".writing-x", "other"];
        names.iter().for_each(|name| std::fs::create_dir(folder.path().join(name)).expect("created"));
        assert_eq!(sweep_unfinished(folder.path()), 1);
        assert_eq!(names.map(|name| folder.path().join(name).exists()), [false, true, true, true]);
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
        write_atomically(&link, "new").expect("written");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(std::fs::read_to_string(&target).expect("there"), "new");
        assert_eq!(std::fs::metadata(&target).expect("there").permissions().mode(), usual);
    }
}
