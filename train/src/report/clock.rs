//! Timestamps for names of folders and files.
use jiff::Timestamp;

/// The current time in UTC, as `YYYYMMDD-HHMMSS`.
pub fn timestamp() -> String {
    Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string()
}
