//! The parsing of everything, which waits until no more changes come.

use crate::model::Whole;

/// What is to be done when there is time for it.
pub(super) enum Later {
    None,
    At(tokio::time::Instant),
    /// Outdated by the next change of files.
    Running(tokio::task::JoinHandle<Whole>),
}

pub(super) enum Due {
    Start,
    Done(Box<Whole>),
}

impl Later {
    /// Never ends where there is nothing to do.
    pub(super) async fn next(&mut self) -> Due {
        match self {
            Later::None => std::future::pending().await,
            Later::At(time) => {
                tokio::time::sleep_until(*time).await;
                Due::Start
            }
            Later::Running(task) => match task.await {
                Ok(whole) => Due::Done(Box::new(whole)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }
}
