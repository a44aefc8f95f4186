//! Ctrl-C and SIGTERM: the first asks the run to stop after its update, the second ends it at once.
use crate::error::{Kind, Signal};
use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The signals that have arrived.
pub struct Signals {
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Takes over both signals for the rest of the process.
    pub fn listen() -> Result<Signals> {
        let last = Arc::new(AtomicUsize::new(0));
        let armed = Arc::new(AtomicBool::new(false));
        for (number, signal) in [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate)] {
            let code = i32::from(Kind::Interrupted(signal).exit_code());
            // Actions run in the order of registration: the first signal arms what ends the process at the second.
            flag::register_conditional_shutdown(number, code, armed.clone())
                .and_then(|_| flag::register(number, armed.clone()))
                .and_then(|_| flag::register_usize(number, last.clone(), number as usize))
                .map_err(|e| Error::new(Kind::Bug, "signals cannot be handled").because(e))?;
        }
        Ok(Signals { last })
    }

    /// The signal that arrived last, if any did.
    pub fn last(&self) -> Option<Signal> {
        match self.last.load(Ordering::Relaxed) as i32 {
            SIGINT => Some(Signal::Interrupt),
            SIGTERM => Some(Signal::Terminate),
            _ => None,
        }
    }
}
