//! SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal): the first signal stops the run after the current update, the second ends the
//! process at once. SIGUSR1 saves a checkpoint.
use crate::error::{ErrorKind, Signal};
use crate::report::ProgressMode;
use crate::trainer::RunSignals;
use crate::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals as SignalStream;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Signals that interrupt a run.
const INTERRUPTS: [(i32, Signal); 3] =
    [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate), (SIGHUP, Signal::HangUp)];

/// Handler of the signals. Clones share what was received.
#[derive(Clone)]
pub struct Signals {
    last: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers for the rest of the process. `acknowledge` is called once, on a thread of its own, as soon as the first signal
    /// arrives.
    pub fn listen(acknowledge: impl FnOnce(Signal) + Send + 'static) -> Result<Signals> {
        let last = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        let heard: Vec<(i32, Signal)> =
            INTERRUPTS.into_iter().filter(|(number, _)| !is_ignored(*number)).collect();
        for (number, signal) in &heard {
            let code = i32::from(ErrorKind::Interrupted(*signal).exit_code());
            // Actions run in the order of registration: the first signal arms the shutdown by the second.
            flag::register_conditional_shutdown(*number, code, armed.clone())
                .and_then(|_| flag::register(*number, armed.clone()))
                .and_then(|_| flag::register_usize(*number, last.clone(), *number as usize))
                .map_err(uninstallable)?;
        }
        let save = Arc::new(AtomicBool::new(false));
        flag::register(SIGUSR1, save.clone()).map_err(uninstallable)?;
        let mut stream = SignalStream::new(heard.iter().map(|(number, _)| number)).map_err(uninstallable)?;
        let wait = move || {
            if let Some(signal) = stream.forever().next().and_then(interrupt) {
                acknowledge(signal);
            }
        };
        std::thread::Builder::new().name("fornax-signals".into()).spawn(wait).map_err(uninstallable)?;
        Ok(Signals { last, save })
    }
}

/// Makes a write above the limit of the size of files (`ulimit -f`) fail as on a full disk: by default, SIGXFSZ ends the process without a
/// message. Best effort: a failure keeps the default.
pub fn report_file_size_limit() {
    flag::register(SIGXFSZ, Arc::default()).ok();
}

/// The signal of a number, if it interrupts a run.
pub fn interrupt(number: i32) -> Option<Signal> {
    INTERRUPTS.into_iter().find(|(of, _)| *of == number).map(|(_, signal)| signal)
}

/// True if this process was started with the signal ignored, as `nohup` does with SIGHUP: it stays ignored.
pub fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (number - 1) != 0
}

/// Says at once that a signal has arrived, as the current update may take long.
pub fn acknowledge(signal: Signal, progress: ProgressMode) {
    let text = match signal {
        Signal::Interrupt => "finishing this update, then saving; Ctrl-C again ends now".to_string(),
        other => format!("{}: finishing this update, then saving; a second signal ends now", other.name()),
    };
    match progress {
        ProgressMode::None => {}
        ProgressMode::Json => message!("{}", serde_json::json!({ "event": "note", "text": text })),
        // A bar leaves the cursor at the start of its line.
        _ if io::stderr().is_terminal() => message!("\x1b[J{text}"),
        _ => message!("{text}"),
    }
}

impl RunSignals for Signals {
    fn interrupt(&self) -> Option<Signal> {
        interrupt(self.last.load(Ordering::Relaxed) as i32)
    }

    fn take_save_request(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

fn uninstallable(error: io::Error) -> Error {
    Error::new(ErrorKind::Bug, "the signal handlers cannot be installed").because(error)
}
