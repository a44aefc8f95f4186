//! End of a run: results on stdout, or an error with instructions for resuming.
use crate::error::{ErrorKind, Signal};
use crate::trainer::{Evaluation, Trainer, TrainerState};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The results of a run.
pub struct Outcome {
    /// Validation results of the last epoch.
    pub evaluation: Evaluation,
    /// Wall-clock time of this process from the first update to the last evaluation.
    pub seconds: f64,
    /// Training images per second of `seconds`.
    pub images_per_second: f64,
    /// The run's folder.
    pub path: PathBuf,
}

impl Outcome {
    /// The text for stdout.
    pub fn text(&self, trainer: &Trainer, json: bool, print_hash: bool) -> Result<String> {
        let best = trainer.state.best(trainer.eval_metric);
        let hash = if print_hash { Some(trainer.hash()?) } else { None };
        let Evaluation { loss, top1, top5, .. } = &self.evaluation;
        if json {
            let mut object = serde_json::json!({
                "top1": top1,
                "top5": top5,
                "loss": loss,
                "epochs": trainer.state.epoch,
                "seconds": self.seconds,
                "images_per_second": self.images_per_second,
                "output": self.path,
                "best_epoch": best.map(|row| row.epoch),
                "best_top1": best.map(|row| row.eval_top1),
            });
            if let Some(hash) = hash {
                object["sha256"] = hash.into();
            }
            return Ok(format!("{object}\n"));
        }
        let mut text = format!(
            "top-1 {top1:.2}%  top-5 {top5:.2}%  loss {loss:.4}  after {} epochs in {:.1} s\n",
            trainer.state.epoch, self.seconds
        );
        if let Some(row) = best {
            text.push_str(&format!("best epoch {}: top-1 {:.2}%\n", row.epoch + 1, row.eval_top1));
        }
        text.push_str(&format!("{}\n", self.path.display()));
        if let Some(hash) = hash {
            text.push_str(&format!("{hash}\n"));
        }
        Ok(text)
    }
}

/// The error of a failed run; an interruption gets the saved checkpoint and the command that resumes it.
pub fn explain(error: Error, state: &TrainerState, path: &Path) -> Error {
    match error.kind() {
        ErrorKind::Interrupted(signal) => {
            let what = match signal {
                Signal::Interrupt => "Interrupted (Ctrl-C)",
                Signal::Terminate => "Terminated (SIGTERM)",
            };
            Error::new(error.kind(), format!("{what}; checkpoint saved at update {}", state.update))
                .at_path(path)
                .remedy(format!("resume with `fornax train --resume {}`", path.display()))
        }
        _ => error,
    }
}
