//! End of a run: results on stdout, or an error with instructions for resuming.
use super::FinishedRun;
use crate::Error;
use crate::error::{ErrorKind, Signal};
use crate::experiment::Experiment;
use crate::trainer::Evaluation;
use serde_json::{Value, json};

/// The results as a JSON object.
pub fn json(run: &FinishedRun) -> Value {
    let FinishedRun { result, epochs, best, hash, .. } = run;
    let Evaluation { loss, top1, top5, .. } = &result.evaluation;
    let mut object = json!({
        "top1": top1,
        "top5": top5,
        "loss": loss,
        "epochs": epochs,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "output": result.folder.as_ref().map(|folder| folder.display().to_string()),
        "best_epoch": best.as_ref().map(|row| row.epoch),
        "best_top1": best.as_ref().map(|row| row.eval_top1),
    });
    if let Some(hash) = hash {
        object["sha256"] = hash.clone().into();
    }
    object
}

/// The results in a few lines.
pub fn text(run: &FinishedRun) -> String {
    let FinishedRun { result, epochs, best, hash, .. } = run;
    let Evaluation { loss, top1, top5, .. } = &result.evaluation;
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

/// The error of a failed run; an interruption gets the saved checkpoint and the way to resume it.
pub fn explain(error: Error, experiment: &Experiment, is_one_of_several: bool) -> Error {
    match (error.kind(), &experiment.folder) {
        (ErrorKind::Interrupted(signal), Some(path)) => {
            let what = match signal {
                Signal::Interrupt => "Interrupted (Ctrl-C)",
                Signal::Terminate => "Terminated (SIGTERM)",
            };
            let update = experiment.state.update;
            let remedy = match is_one_of_several {
                true => "continue with the same command and `--resume auto`".to_string(),
                false => format!("resume with `fornax train --resume {}`", path.display()),
            };
            Error::new(error.kind(), format!("{what}; checkpoint saved at update {update}"))
                .at_path(path)
                .remedy(remedy)
        }
        _ => error,
    }
}
