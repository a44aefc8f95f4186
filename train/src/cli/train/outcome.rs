//! End of a run: results on stdout, or an error with instructions for resuming.
use crate::Error;
use crate::error::{ErrorKind, Signal};
use crate::experiment::{Experiment, RunResult};
use crate::report::EpochMetrics;
use crate::trainer::Evaluation;

/// The text for stdout: results after `epochs` epochs, and the best epoch.
pub fn text(
    result: &RunResult,
    epochs: u32,
    best: Option<&EpochMetrics>,
    json: bool,
    hash: Option<String>,
) -> String {
    let Evaluation { loss, top1, top5, .. } = &result.evaluation;
    if json {
        let mut object = serde_json::json!({
            "top1": top1,
            "top5": top5,
            "loss": loss,
            "epochs": epochs,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "output": result.folder.as_ref().map(|folder| folder.display().to_string()),
            "best_epoch": best.map(|row| row.epoch),
            "best_top1": best.map(|row| row.eval_top1),
        });
        if let Some(hash) = hash {
            object["sha256"] = hash.into();
        }
        return format!("{object}\n");
    }
    let mut text = format!(
        "top-1 {top1:.2}%  top-5 {top5:.2}%  loss {loss:.4}  after {epochs} epochs in {:.1} s\n",
        result.seconds
    );
    if let Some(row) = best {
        text.push_str(&format!("best epoch {}: top-1 {:.2}%\n", row.epoch, row.eval_top1));
    }
    if let Some(folder) = &result.folder {
        text.push_str(&format!("{}\n", folder.display()));
    }
    if let Some(hash) = hash {
        text.push_str(&format!("{hash}\n"));
    }
    text
}

/// The error of a failed run; an interruption gets the saved checkpoint and the command that resumes it.
pub fn explain(error: Error, experiment: &Experiment) -> Error {
    match (error.kind(), &experiment.folder) {
        (ErrorKind::Interrupted(signal), Some(path)) => {
            let what = match signal {
                Signal::Interrupt => "Interrupted (Ctrl-C)",
                Signal::Terminate => "Terminated (SIGTERM)",
            };
            let update = experiment.state.update;
            Error::new(error.kind(), format!("{what}; checkpoint saved at update {update}"))
                .at_path(path)
                .remedy(format!("resume with `fornax train --resume {}`", path.display()))
        }
        _ => error,
    }
}
