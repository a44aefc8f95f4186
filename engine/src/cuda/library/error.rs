//! Errors of NVIDIA's libraries.

/// Error of one of NVIDIA's libraries.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The library, or a dependency of it, cannot be opened.
    #[error("{library} cannot be opened ({why}); {remedy}")]
    Missing {
        /// Name of the library.
        library: &'static str,
        /// Message of the dynamic loader.
        why: String,
        /// How to install it.
        remedy: &'static str,
    },
    /// A call failed.
    #[error("{library}: {call} failed with status {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Call {
        /// Name of the library.
        library: &'static str,
        /// Description of the call.
        call: String,
        /// Status that it returned.
        status: i32,
        /// The library's error message, if any.
        message: String,
    },
    /// The library does not support this problem: use a fallback.
    #[error("{library} does not support {what}")]
    Unsupported {
        /// Name of the library.
        library: &'static str,
        /// Description of the problem.
        what: String,
    },
    /// The problem has no plan yet, and none can be made during a capture.
    #[error(
        "{library}: no plan was made yet for {what}, and none can be made during a CUDA graph capture; run it once before the capture"
    )]
    Unplanned {
        /// Name of the library.
        library: &'static str,
        /// Description of the problem.
        what: String,
    },
    /// A stored plan cannot be used.
    #[error(
        "{library}: the restored plan of {what} cannot be used: {why}; without it results may differ in the last bits"
    )]
    Restore {
        /// Name of the library.
        library: &'static str,
        /// Description of the problem.
        what: String,
        /// Error of building or running it.
        why: String,
    },
    /// Another call of the same operation failed.
    #[error("{why}")]
    Dependency {
        /// Error of that call.
        why: String,
    },
    /// A call of the CUDA driver failed.
    #[error("{why}")]
    Driver {
        /// The call and its error.
        why: String,
    },
    /// The workspace of a call could not be allocated.
    #[error("no memory for a workspace of {bytes} bytes: {why}")]
    Workspace {
        /// Requested bytes.
        bytes: usize,
        /// Error of the allocator.
        why: String,
    },
}

/// Workspace allocator: returns device memory of at least the given number of bytes, aligned to 256 bytes, for the exclusive use of a call
/// until the work queued on the stream is done.
pub type WorkspaceAllocator<'a> = dyn FnMut(usize) -> Result<u64, LibraryError> + 'a;
