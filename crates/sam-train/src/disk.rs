//! Free space of the disk that holds a folder.

use std::path::Path;

/// Bytes that this user may still write below `folder`, which need not exist yet; `None` where the system does not say.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(existing).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = existing;
        None
    }
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let exponent = (bytes.max(1).ilog2() / 10).min(UNITS.len() as u32 - 1);
    let value = bytes as f64 / 1024f64.powi(exponent as i32);
    let unit = UNITS[exponent as usize];
    if exponent == 0 || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        let sizes = [0, 999, 1024, 1536, 200 << 20, 5 << 30, 3 << 50].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KiB", "1.5 KiB", "200 MiB", "5.0 GiB", "3072 TiB"]);
    }

    #[cfg(unix)]
    #[test]
    fn the_disk_of_a_folder_that_does_not_exist_yet_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let free = free_bytes(&folder.path().join("a/b/c")).expect("known");
        assert!(free > 0);
        assert!(free_bytes(Path::new("relative/that/is/not/there")).is_some());
    }
}
