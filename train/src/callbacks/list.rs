//! Several callbacks as one.
use super::{
    BatchBegin, Callback, EpochBegin, EpochEnd, Rollback, RunSnapshot, SaveReason, TestBegin, TestSummary,
    TrainBegin, TrainEnd, TrainSummary,
};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::data::header_check::HeaderCheckProgress;
use crate::error::ErrorKind;
use crate::experiment::RunPlan;
use crate::report::UpdateMetrics;

/// Callbacks that are called one after the other. If a file cannot be written, training continues: the first failure of a callback is
/// reported as a message, and the callback is called again at the next event.
#[derive(Default)]
pub struct CallbackList<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    callback: Box<dyn Callback + 'a>,
    /// A failed write was reported.
    reported: bool,
}

impl<'a> CallbackList<'a> {
    /// Creates an empty list.
    pub fn new() -> CallbackList<'a> {
        CallbackList::default()
    }

    /// Adds a callback; it is called after the others.
    pub fn push(&mut self, callback: impl Callback + 'a) {
        self.push_boxed(Box::new(callback));
    }

    /// Adds a boxed callback.
    pub fn push_boxed(&mut self, callback: Box<dyn Callback + 'a>) {
        self.entries.push(Entry { callback, reported: false });
    }

    /// Adds all callbacks of another list.
    pub fn append(&mut self, mut other: CallbackList<'a>) {
        self.entries.append(&mut other.entries);
    }

    /// Number of callbacks.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes the callbacks from index `at` on, and returns them.
    pub(crate) fn split_off(&mut self, at: usize) -> CallbackList<'a> {
        CallbackList { entries: self.entries.split_off(at) }
    }

    /// Calls a hook of every callback.
    fn each(&mut self, hook: &mut dyn FnMut(&mut dyn Callback) -> Result<()>) -> Result<()> {
        let mut messages: Vec<String> = vec![];
        for entry in &mut self.entries {
            match hook(&mut *entry.callback) {
                Err(error) if error.kind() == ErrorKind::Disk => {
                    if !entry.reported {
                        messages.push(format!("warning: training continues, but {error}"));
                    }
                    entry.reported = true;
                }
                other => other?,
            }
            messages.extend(entry.callback.take_message());
        }
        self.deliver(messages)
    }

    /// Passes messages to every callback.
    fn deliver(&mut self, messages: Vec<String>) -> Result<()> {
        for text in messages {
            for entry in &mut self.entries {
                match entry.callback.on_message(&text) {
                    // The failed callback cannot write this either.
                    Err(error) if error.kind() == ErrorKind::Disk => entry.reported = true,
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

impl Callback for CallbackList<'_> {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.each(&mut |callback| callback.on_train_begin(event))
    }

    fn on_train_end(&mut self, event: &TrainEnd) -> Result<()> {
        self.each(&mut |callback| callback.on_train_end(event))
    }

    fn on_epoch_begin(&mut self, event: &EpochBegin) -> Result<()> {
        self.each(&mut |callback| callback.on_epoch_begin(event))
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        self.each(&mut |callback| callback.on_epoch_end(event))
    }

    fn on_batch_begin(&mut self, event: &BatchBegin) -> Result<()> {
        self.each(&mut |callback| callback.on_batch_begin(event))
    }

    fn on_batch_end(&mut self, metrics: &UpdateMetrics) -> Result<()> {
        self.each(&mut |callback| callback.on_batch_end(metrics))
    }

    fn on_train_summary(&mut self, summary: &TrainSummary) -> Result<()> {
        self.each(&mut |callback| callback.on_train_summary(summary))
    }

    fn on_test_begin(&mut self, event: &TestBegin) -> Result<()> {
        self.each(&mut |callback| callback.on_test_begin(event))
    }

    fn on_test_end(&mut self, event: &TestBegin) -> Result<()> {
        self.each(&mut |callback| callback.on_test_end(event))
    }

    fn on_test_summary(&mut self, summary: &TestSummary) -> Result<()> {
        self.each(&mut |callback| callback.on_test_summary(summary))
    }

    fn on_rollback(&mut self, event: &Rollback) -> Result<()> {
        self.each(&mut |callback| callback.on_rollback(event))
    }

    fn on_plan(&mut self, plan: &RunPlan) -> Result<()> {
        self.each(&mut |callback| callback.on_plan(plan))
    }

    fn on_header_check(&mut self, progress: &HeaderCheckProgress) -> Result<()> {
        self.each(&mut |callback| callback.on_header_check(progress))
    }

    fn on_message(&mut self, text: &str) -> Result<()> {
        self.each(&mut |callback| callback.on_message(text))
    }

    /// Errors if a checkpoint cannot be written: the trainer decides whether the run can go on without.
    fn on_save(&mut self, snapshot: &RunSnapshot, reason: SaveReason) -> Result<()> {
        let saved = self.entries.iter_mut().try_for_each(|entry| entry.callback.on_save(snapshot, reason));
        let messages = self.entries.iter_mut().filter_map(|entry| entry.callback.take_message()).collect();
        let delivered = self.deliver(messages);
        saved.and(delivered)
    }

    fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        for entry in &self.entries {
            if let Some(checkpoint) = entry.callback.last_checkpoint()? {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    fn take_message(&mut self) -> Option<String> {
        self.entries.iter_mut().find_map(|entry| entry.callback.take_message())
    }

    fn stop_reason(&self) -> Option<String> {
        self.entries.iter().find_map(|entry| entry.callback.stop_reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Fails with a kind of error in every `on_train_summary`, and records messages.
    struct Failing(ErrorKind, Rc<RefCell<Vec<String>>>);

    impl Callback for Failing {
        fn on_train_summary(&mut self, _: &TrainSummary) -> Result<()> {
            Err(Error::new(self.0, "it fails"))
        }

        fn on_message(&mut self, text: &str) -> Result<()> {
            self.1.borrow_mut().push(text.into());
            Ok(())
        }
    }

    #[test]
    fn full_disk_is_reported_once_and_other_errors_end_the_run() {
        let messages = Rc::new(RefCell::new(vec![]));
        let summary = TrainSummary { epoch: 0, loss: 1.0, lr: 0.1 };
        let mut list = CallbackList::new();
        list.push(Failing(ErrorKind::Disk, messages.clone()));
        list.on_train_summary(&summary).expect("training continues");
        list.on_train_summary(&summary).expect("training continues");
        assert_eq!(messages.borrow().len(), 1);
        assert!(messages.borrow()[0].contains("it fails"), "{messages:?}");
        list.push(Failing(ErrorKind::Data, messages));
        assert_eq!(list.on_train_summary(&summary).expect_err("ends").kind(), ErrorKind::Data);
    }
}
