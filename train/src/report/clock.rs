//! Timestamps for names of folders and files.
use time::UtcDateTime;

/// The current time in UTC, as `YYYYMMDD-HHMMSS`.
pub fn timestamp() -> String {
    let now = UtcDateTime::now();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.as_hms();
    format!("{year:04}{:02}{day:02}-{hour:02}{minute:02}{second:02}", u8::from(month))
}
