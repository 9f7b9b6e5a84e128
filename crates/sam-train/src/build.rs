//! The build of this program, as the build script (`build.rs` of the crate) found it.

/// For `--version`: "0.1.0 (0123456789ab, features: cuda, release, x86_64-unknown-linux-gnu)".
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SAM_TRAIN_BUILD"), ")");
/// The version alone.
pub(crate) const NUMBER: &str = env!("CARGO_PKG_VERSION");
/// The first digits of the commit; empty when it was not built from a git checkout.
pub(crate) const COMMIT: &str = env!("SAM_TRAIN_COMMIT");
/// "cuda, wgpu" or "none".
pub(crate) const FEATURES: &str = env!("SAM_TRAIN_FEATURES");
/// "release" or "debug".
pub(crate) const PROFILE: &str = env!("SAM_TRAIN_PROFILE");
/// The target triple.
pub(crate) const TARGET: &str = env!("SAM_TRAIN_TARGET");
