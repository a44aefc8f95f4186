//! End of a run: results on stdout, or an error with instructions for resuming.
use super::resume_command::resume_command;
use super::{FinishedRun, TrainArgs};
use crate::Error;
use crate::checkpoint::files::CheckpointName;
use crate::error::{ErrorKind, Signal};
use crate::experiment::Experiment;
use crate::message::count;
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
        "skipped_images": result.evaluation.skipped.len(),
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
        "top-1 {top1:.2}%  top-5 {top5:.2}%  loss {loss:.4}{}  after {} in {:.1} s\n",
        result.evaluation.skipped_note(),
        count((*epochs).into(), "epoch"),
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

/// The error of a failed run, with the way to resume it from a checkpoint that was saved.
pub fn explain(error: Error, experiment: &Experiment, args: &TrainArgs) -> Error {
    let Some(path) = &experiment.folder else { return error };
    let has_checkpoint = CheckpointName::Last.path(&path.join("checkpoints")).exists();
    let resume = || match args.is_one_of_several {
        true => "the same command and `--resume auto`".to_string(),
        false => format!("`{}`", resume_command(args, path)),
    };
    match error.kind() {
        ErrorKind::Interrupted(signal) => {
            let what = match signal {
                Signal::Interrupt => "Interrupted (Ctrl-C)",
                Signal::Terminate => "Terminated (SIGTERM)",
                Signal::HangUp => "Terminated (SIGHUP)",
            };
            match has_checkpoint {
                true => {
                    let update = experiment.state.update;
                    Error::new(error.kind(), format!("{what}; checkpoint saved at update {update}"))
                        .at_path(path)
                        .remedy(format!("resume with {}", resume()))
                }
                false => {
                    Error::new(error.kind(), format!("{what} before the first update; nothing is saved"))
                        .at_path(path)
                }
            }
        }
        ErrorKind::Disk if has_checkpoint => {
            let help = error.help().unwrap_or("make the folder writable").to_string();
            error.remedy(format!("{help}, then resume with {}", resume()))
        }
        _ => error,
    }
}
