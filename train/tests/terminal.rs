//! The progress bar on a pseudo-terminal of 80 columns that becomes narrower.
#![cfg(unix)]
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

/// Both ends of a pseudo-terminal of 80 columns: the test's and the program's.
fn pseudo_terminal() -> (File, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&controller).expect("it is ours");
    unlockpt(&controller).expect("it is ours");
    let name = ptsname(&controller, vec![]).expect("it has a name");
    let user = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.to_bytes()));
    let controller = File::from(controller);
    set_columns(&controller, 80);
    (controller, user.expect("opens"))
}

fn set_columns(terminal: &File, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("it is a terminal");
}

/// Drawings of the last line: texts that end with a carriage return and no line feed. The last one may be incomplete.
fn drawings(output: &str) -> Vec<String> {
    let text = output.replace("\r\n", "\n");
    let mut drawn = vec![];
    for part in text.split("\x1b[J") {
        // A line that stays has replaced this one, or the program has ended.
        if let Some((line, _)) = part.split_once('\r') {
            drawn.push(line.replace("\x1b[36m", "").replace("\x1b[0m", ""));
        }
    }
    drawn
}

#[test]
fn bar_fits_a_terminal_that_becomes_narrower() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut terminal, user) = pseudo_terminal();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fornax"));
    command.current_dir(folder.path()).args(["train", "--epochs", "10000", "--output", "out"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(user).env_remove("NO_COLOR");
    let mut child = command.spawn().expect("the binary starts");
    // The program's end is closed with the command.
    drop(command);
    let (mut output, mut buffer, mut is_narrow) = (vec![], [0; 4096], false);
    let lines = loop {
        match terminal.read(&mut buffer) {
            Ok(0) | Err(_) => panic!("the run ended: {}", String::from_utf8_lossy(&output)),
            Ok(count) => output.extend(&buffer[..count]),
        }
        let lines = drawings(&String::from_utf8_lossy(&output));
        if !is_narrow && lines.len() > 8 {
            set_columns(&terminal, 60);
            is_narrow = true;
        }
        if lines.iter().filter(|line| is_narrow && line.chars().count() < 60).count() > 20 {
            break lines;
        }
    };
    child.kill().expect("it is a child");
    child.wait().expect("it is a child");
    let columns: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
    assert!(columns.iter().all(|count| *count < 80), "{lines:?}");
    // Batches have the time left; validation has a shorter line.
    let bars: Vec<&String> = lines.iter().filter(|line| line.ends_with(" left")).collect();
    let is_wide = |line: &str| line.chars().count() >= 60;
    let wide = bars.iter().take_while(|line| is_wide(line)).count();
    assert!(wide > 0, "{lines:?}");
    assert!(bars.len() > wide && bars[wide..].iter().all(|line| !is_wide(line)), "{lines:?}");
    // The time left is that of the run: an epoch takes less than a minute, 10,000 epochs more.
    let left: Vec<&str> =
        bars.iter().filter_map(|line| line.strip_suffix(" left")?.rsplit("  ").next()).collect();
    assert!(left.iter().all(|left| !left.starts_with("0:")), "{left:?}");
}
