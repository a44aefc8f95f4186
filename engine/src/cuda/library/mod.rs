//! NVIDIA's libraries, opened at run time: functions as plain pointers, and their errors.
//!
//! cudarc's loader panics if a library is missing, and its bindings return statuses as Rust enums, in which a value of a newer library
//! would be undefined behaviour. Libraries whose calls may fail in ordinary use are therefore bound here, with cudarc's constants and
//! statuses as integers.
pub(crate) mod error;
pub(crate) mod info;
pub(crate) mod versions;

use crate::cuda::LibraryError;
use libloading::Library;
use std::error::Error;
use std::io::Write;

/// Opens the first of `names` that is found by the dynamic loader, in CUDA_HOME or in a Python environment.
pub(crate) fn open(
    library: &'static str,
    names: &[&str],
    remedy: &'static str,
) -> Result<Library, LibraryError> {
    let opened = fornax_kernels::library::open(names);
    opened.map(|(found, _)| found).map_err(|why| LibraryError::Missing { library, why, remedy })
}

/// Writes a warning to stderr. A closed stderr does not end the program.
pub(in crate::cuda) fn warn(text: std::fmt::Arguments) {
    writeln!(std::io::stderr().lock(), "warning: {text}").ok();
}

/// Message of the dynamic loader; the error itself only names the call.
pub(crate) fn loader_message(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Declares a struct of C functions, with a constructor that looks them up by name in an open library.
macro_rules! c_functions {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident = $symbol:ident($($arg:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$meta])*
        pub(in crate::cuda) struct $name {
            $(pub(in crate::cuda) $field: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl $name {
            /// Looks up every function; the library is never closed.
            fn bind(library: libloading::Library, name: &'static str, remedy: &'static str) -> Result<$name, LibraryError> {
                let missing = |e: libloading::Error| LibraryError::Missing { library: name, why: $crate::cuda::library::loader_message(&e), remedy };
                let library = Box::leak(Box::new(library));
                Ok($name {
                    $($field: {
                        // SAFETY: the type is that of the library's C header.
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
            /// Functions of the C library.
            struct Known { absolute = abs(i32) -> i32; seed = srand(u32); }
        }
        c_functions! {
            /// A function that does not exist.
            struct Unknown { nothing = fornax_has_no_such_function() -> i32; }
        }

        pub(in crate::cuda) fn absolute(of: i32) -> i32 {
            let known = Known::bind(open("C", &["libc.so.6"], REMEDY).unwrap(), "C", REMEDY).unwrap();
            // SAFETY: the types are those of the C library.
            unsafe {
                (known.seed)(1);
                (known.absolute)(of)
            }
        }

        pub(in crate::cuda) fn unknown() -> Result<(), LibraryError> {
            Unknown::bind(open("C", &["libc.so.6"], REMEDY)?, "C", REMEDY).map(|unknown| {
                // SAFETY: never reached.
                unsafe { (unknown.nothing)() };
            })
        }
    }

    #[test]
    fn missing_library_error_has_a_remedy() {
        let names = ["libfornax-nothing.so.1", "libfornax-nothing.so"];
        let text = open("Nothing", &names, REMEDY).unwrap_err().to_string();
        assert!(text.starts_with("Nothing cannot be opened (") && text.ends_with(REMEDY), "{text}");
        assert!(text.contains(names[0]), "{text}");
    }

    #[test]
    fn first_existing_library_is_opened_and_bound() {
        assert!(open("C", &["libfornax-nothing.so", "libc.so.6"], REMEDY).is_ok());
        assert_eq!(math::absolute(-3), 3);
        let text = math::unknown().unwrap_err().to_string();
        assert!(text.contains("fornax_has_no_such_function"), "{text}");
    }

    #[test]
    fn call_error_has_call_status_and_message() {
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
