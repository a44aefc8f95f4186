//! Progress of a download.
use super::super::bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};

/// Progress of a download: a bar on a terminal, one line at the start otherwise.
pub struct DownloadProgress(ProgressBar);

impl DownloadProgress {
    /// Starts the display for a file with this name and, if known, size in bytes.
    pub fn start(name: &str, size: Option<u64>) -> DownloadProgress {
        if !io::stderr().is_terminal() {
            let size = size.map_or(String::new(), |size| format!(", {}", bytes(size)));
            message!("downloading {name}{size}");
            return DownloadProgress(ProgressBar::hidden());
        }
        let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar =
            ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr_with_hz(10)).with_style(style);
        bar.set_message(name.to_string());
        DownloadProgress(bar)
    }

    /// Sets the number of bytes received.
    pub fn set_received(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for DownloadProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
