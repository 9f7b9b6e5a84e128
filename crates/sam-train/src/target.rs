//! Output paths, checked before any work is done.

use std::path::Path;

use anyhow::{Result, bail};

/// What is written to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    File,
    Folder,
}

/// Rejects a path that cannot be written, or that exists and may not be replaced.
pub(crate) fn check_target(path: &Path, option: &str, target: Target, force: bool) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        bail!("{option} {}: there is no folder {}; create it first", path.display(), parent.display());
    }
    // A dangling link also exists.
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    let is_folder = path.is_dir();
    match target {
        Target::File if is_folder => bail!("{option} {} is a folder; it must be a file", path.display()),
        Target::Folder if !is_folder => bail!("{option} {} is a file; it must be a folder", path.display()),
        _ if !force => bail!("{option} {} exists; choose another, or use --force to replace it", path.display()),
        _ if there.is_symlink() && !path.exists() => {
            bail!("{option} {} is a dangling link; remove it first", path.display())
        }
        _ => Ok(()),
    }
}

/// Rejects a folder for results that cannot be written, or that contains one of these files, which may not be replaced.
pub(crate) fn check_results(out: &Path, files: &[&str], force: bool) -> Result<()> {
    if !out.exists() && out.symlink_metadata().is_err() {
        // It is created with its parents once there is something to write.
        return Ok(());
    }
    if !out.is_dir() {
        return check_target(out, "--out", Target::Folder, force);
    }
    match files.iter().map(|name| out.join(name)).find(|path| path.exists()) {
        Some(path) if !force => {
            bail!(
                "{} is from an earlier run; choose another --out (run.out), or use --force to replace it",
                path.display()
            )
        }
        _ => Ok(()),
    }
}
