//! NVIDIA's libraries, opened at run time: their functions as plain pointers, and what can go wrong with them.
//!
//! cudarc's own loader panics where a library is missing, and its bindings return statuses as Rust enums, in which a value of a
//! newer library would be undefined behaviour. So the libraries whose calls may fail in ordinary use are bound here: cudarc
//! gives the names and numbers, statuses stay integers.
use cudarc::driver::sys::CUdeviceptr;
use libloading::Library;
use std::error::Error;

/// An error of one of NVIDIA's libraries.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The library, or one that it needs, cannot be opened.
    #[error("{library} cannot be opened ({why}); {remedy}")]
    Missing {
        /// The library's name.
        library: &'static str,
        /// What the dynamic loader said.
        why: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// A call failed.
    #[error("{library}: {call} failed with status {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Call {
        /// The library's name.
        library: &'static str,
        /// What was being done.
        call: String,
        /// The library's status.
        status: i32,
        /// The library's own words, where it has any.
        message: String,
    },
    /// The library has nothing for this problem: another way must be taken.
    #[error("{library} supports no {what}")]
    Unsupported {
        /// The library's name.
        library: &'static str,
        /// The problem.
        what: String,
    },
    /// The problem has no plan yet, and none can be made while work is being recorded.
    #[error(
        "{library}: no plan was made yet for the {what}, and none can be while work is recorded; run it once before"
    )]
    Unplanned {
        /// The library's name.
        library: &'static str,
        /// The problem.
        what: String,
    },
    /// The memory that a call works in could not be had.
    #[error("no memory for a workspace of {bytes} bytes: {why}")]
    Workspace {
        /// Bytes asked for.
        bytes: usize,
        /// What the allocator said.
        why: String,
    },
}

/// Gives device memory of at least so many bytes, aligned to 256, that no other work uses until what is queued on the stream
/// now has run.
pub type Workspace<'a> = dyn FnMut(usize) -> Result<CUdeviceptr, LibraryError> + 'a;

/// Opens the first of `names` that the dynamic loader, CUDA_HOME or a Python environment has.
pub(crate) fn open(
    library: &'static str,
    names: &[&str],
    remedy: &'static str,
) -> Result<Library, LibraryError> {
    let opened = fornax_kernels::library::open(names);
    opened.map(|(found, _)| found).map_err(|why| LibraryError::Missing { library, why, remedy })
}

/// What the dynamic loader said: the error itself only names the call.
pub(crate) fn words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Declares a struct of C functions, and how to find them by their names in an open library.
macro_rules! c_functions {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident = $symbol:ident($($arg:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$meta])*
        pub(super) struct $name {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl $name {
            /// Finds every function; the library stays open for good.
            fn bind(library: libloading::Library, name: &'static str, remedy: &'static str) -> Result<$name, LibraryError> {
                let missing = |e: libloading::Error| LibraryError::Missing { library: name, why: $crate::cuda::library::words(&e), remedy };
                let library = Box::leak(Box::new(library));
                Ok($name {
                    $($field: {
                        // SAFETY: the type is the one of the library's C header.
                        let function = unsafe {
                            library.get::<unsafe extern "C" fn($($arg),*) $(-> $result)?>(stringify!($symbol))
                        };
                        *function.map_err(missing)?
                    },)*
                })
            }
        }
    };
}
pub(crate) use c_functions;

#[cfg(test)]
mod tests {
    use super::*;

    const REMEDY: &str = "look elsewhere";

    mod math {
        use super::*;

        c_functions! {
            /// Functions that every C library has, and one that none has.
            struct Known { absolute = abs(i32) -> i32; seed = srand(u32); }
        }
        c_functions! {
            /// One function that no library has.
            struct Unknown { nothing = fornax_has_no_such_function() -> i32; }
        }

        pub(super) fn absolute(of: i32) -> i32 {
            let known = Known::bind(open("C", &["libc.so.6"], REMEDY).unwrap(), "C", REMEDY).unwrap();
            // SAFETY: the types are those of the C library.
            unsafe {
                (known.seed)(1);
                (known.absolute)(of)
            }
        }

        pub(super) fn unknown() -> Result<(), LibraryError> {
            Unknown::bind(open("C", &["libc.so.6"], REMEDY)?, "C", REMEDY).map(|unknown| {
                // SAFETY: never reached.
                unsafe { (unknown.nothing)() };
            })
        }
    }

    #[test]
    fn says_what_is_missing_and_how_to_get_it() {
        let names = ["libfornax-nothing.so.1", "libfornax-nothing.so"];
        let text = open("Nothing", &names, REMEDY).unwrap_err().to_string();
        assert!(text.starts_with("Nothing cannot be opened (") && text.ends_with(REMEDY), "{text}");
        assert!(text.contains(names[0]), "{text}");
    }

    #[test]
    fn opens_the_first_name_that_is_there_and_binds_its_functions() {
        assert!(open("C", &["libfornax-nothing.so", "libc.so.6"], REMEDY).is_ok());
        assert_eq!(math::absolute(-3), 3);
        let text = math::unknown().unwrap_err().to_string();
        assert!(text.contains("fornax_has_no_such_function"), "{text}");
    }

    #[test]
    fn names_the_call_and_the_librarys_words() {
        let failed = |message: &str| LibraryError::Call {
            library: "cuDNN",
            call: "setting X".into(),
            status: 2000,
            message: message.into(),
        };
        assert_eq!(failed("").to_string(), "cuDNN: setting X failed with status 2000");
        assert_eq!(failed("no X").to_string(), "cuDNN: setting X failed with status 2000: no X");
    }
}
