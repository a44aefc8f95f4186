//! SIGINT (Ctrl-C) and SIGTERM: the first signal stops the run after the current update, the second ends the process at once. SIGUSR1
//! saves a checkpoint.
use crate::error::{ErrorKind, Signal};
use crate::trainer::RunSignals;
use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Handler of the signals. Clones share what was received.
#[derive(Clone)]
pub struct Signals {
    last: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers for the rest of the process.
    pub fn listen() -> Result<Signals> {
        let last = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        for (number, signal) in [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate)] {
            let code = i32::from(ErrorKind::Interrupted(signal).exit_code());
            // Actions run in the order of registration: the first signal arms the shutdown by the second.
            flag::register_conditional_shutdown(number, code, armed.clone())
                .and_then(|_| flag::register(number, armed.clone()))
                .and_then(|_| flag::register_usize(number, last.clone(), number as usize))
                .map_err(uninstallable)?;
        }
        let save = Arc::new(AtomicBool::new(false));
        flag::register(SIGUSR1, save.clone()).map_err(uninstallable)?;
        Ok(Signals { last, save })
    }
}

impl RunSignals for Signals {
    fn interrupt(&self) -> Option<Signal> {
        match self.last.load(Ordering::Relaxed) as i32 {
            SIGINT => Some(Signal::Interrupt),
            SIGTERM => Some(Signal::Terminate),
            _ => None,
        }
    }

    fn take_save_request(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

fn uninstallable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Bug, "the signal handlers cannot be installed").because(error)
}
