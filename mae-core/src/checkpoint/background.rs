//! Writing off the training thread.

use std::thread::{Builder, JoinHandle};

/// Runs one job at a time on a thread of its own. The next job waits for the one before, so that no more than one copy
/// of a model is held and files are published in their order.
#[derive(Debug)]
pub struct Background<E> {
    running: Option<JoinHandle<Result<(), E>>>,
}

impl<E> Default for Background<E> {
    fn default() -> Self {
        Background { running: None }
    }
}

impl<E: Send + 'static> Background<E> {
    /// Starts `job` when the one before has ended. Where no thread can be had, the job runs at once.
    ///
    /// # Errors
    /// That of the job before; `job` is not started then.
    pub fn start(&mut self, job: impl FnOnce() -> Result<(), E> + Send + 'static) -> Result<(), E> {
        self.wait()?;
        let cell = std::sync::Arc::new(std::sync::Mutex::new(Some(job)));
        let take = std::sync::Arc::clone(&cell);
        let run = move || match take.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            Some(job) => job(),
            None => Ok(()),
        };
        match Builder::new().name("checkpoint".into()).spawn(run) {
            Ok(handle) => {
                self.running = Some(handle);
                Ok(())
            }
            Err(_) => match cell.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
                Some(job) => job(),
                None => Ok(()),
            },
        }
    }

    /// Waits until the job that runs, if any, has ended.
    ///
    /// # Errors
    /// The job's.
    pub fn wait(&mut self) -> Result<(), E> {
        match self.running.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            // A defect in the job is a defect here.
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Gives the error of a job that has ended, and does not wait for one that has not.
    ///
    /// # Errors
    /// The job's.
    pub fn poll(&mut self) -> Result<(), E> {
        if self.is_busy() { Ok(()) } else { self.wait() }
    }

    /// Whether a job runs and has not ended.
    pub fn is_busy(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.is_finished())
    }
}

/// What was handed over is finished, whatever ends the owner.
impl<E> Drop for Background<E> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Its result has nobody to go to any more.
            let _ = running.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[test]
    fn jobs_run_in_order_and_errors_come_back() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut background: Background<&str> = Background::default();
        let (go, wait) = mpsc::channel::<()>();
        let first = Arc::clone(&done);
        background
            .start(move || {
                wait.recv().map_err(|_| "closed")?;
                first.lock().unwrap().push(1);
                Ok(())
            })
            .unwrap();
        assert!(background.is_busy() && done.lock().unwrap().is_empty());
        go.send(()).unwrap();
        background.start(|| Err("full")).unwrap();
        assert_eq!(*done.lock().unwrap(), [1]);
        assert_eq!(background.start(|| Ok(())), Err("full"));
        assert_eq!(background.wait(), Ok(()));
    }
}
