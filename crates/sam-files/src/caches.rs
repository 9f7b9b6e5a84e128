//! Where this user's caches are.

use std::path::PathBuf;

/// The folder `name` among the caches of this program: below `XDG_CACHE_HOME` or `~/.cache`, on macOS `~/Library/Caches`, on Windows
/// `LOCALAPPDATA`. `None` where the environment names none.
#[must_use]
pub fn cache_folder(name: &str) -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || of("HOME");
    let caches = match std::env::consts::OS {
        "windows" => of("LOCALAPPDATA"),
        "macos" => home().map(|home| home.join("Library/Caches")),
        _ => of("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache"))),
    };
    caches.map(|caches| caches.join("sam-train").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_lie_in_a_folder_of_this_program() {
        // The environment of tests has a home, as that of users.
        let folder = cache_folder("shards").expect("a folder");
        assert!(folder.is_absolute() && folder.ends_with("sam-train/shards"), "{}", folder.display());
    }
}
