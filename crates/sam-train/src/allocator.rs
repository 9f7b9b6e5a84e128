//! The memory of tensors. mimalloc, which gives freed memory back to the system after a second, and a step of a training then takes the
//! same pages again: 65,000 page faults in a masked autoencoder's step of `vit_b`, a tenth of its time. So freed memory is kept for
//! longer than a step.

#![expect(unsafe_code, reason = "mimalloc has this option in its C interface only")]

use std::ffi::c_long;

/// `mi_option_purge_delay` of mimalloc 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long freed memory is kept, in milliseconds; mimalloc takes ten times as long for the memory that its heaps share.
const KEPT_MS: c_long = 60_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps freed memory, unless the environment says how long (`MIMALLOC_PURGE_DELAY`).
pub(crate) fn keep_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: the option exists in the version that is linked, and may be set at any time.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT_MS) }
    }
}
