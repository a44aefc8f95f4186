//! Timestamps for names of folders and files.
use time::UtcDateTime;

/// The current time in UTC, as `YYYY-MM-DD HH:MM:SS`.
pub fn date_time() -> String {
    let now = UtcDateTime::now();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.as_hms();
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// The current time in UTC, as `YYYYMMDD-HHMMSS`.
pub fn timestamp() -> String {
    let now = UtcDateTime::now();
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.as_hms();
    format!("{year:04}{:02}{day:02}-{hour:02}{minute:02}{second:02}", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_the_same_digits() {
        let digits = |text: String| text.chars().filter(char::is_ascii_digit).collect::<String>();
        // Unless a second passes between the calls.
        let equal = (0..3).any(|_| digits(date_time()) == digits(timestamp()));
        assert!(equal && date_time().len() == 19);
    }
}
