//! The proxy's own side: confine itself, hand sockets to workers, and do what the agent says for as long as there is one.

use super::{
    Sockets,
    channel::Channel,
    confine::{self, ConfineError, Root},
    message::{FromProxy, Hello, PROTOCOL, Program, Revision, ToProxy},
};
use crate::proxy::{self, Figures, Phase, Prepared, Statistics, Worker};
use std::{
    io,
    os::{fd::AsFd, unix::net::UnixListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

#[derive(Debug, Error)]
pub enum ChildError {
    #[error("this command is started by `meltemi run`, with its control socket as standard input: {0}")]
    NoControl(io::Error),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("control socket: {0}")]
    Control(io::Error),
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

#[derive(Clone, Debug)]
pub struct ChildOptions {
    pub root: Root,
    /// Time for connections to end after SIGTERM.
    pub drain: Duration,
    pub proxy: proxy::Options,
}

/// Serves agents, one after the other, until it is told to end. Never returns after that: the process ends with its last
/// connection.
pub fn run(options: ChildOptions) -> Result<(), ChildError> {
    let control = io::stdin().as_fd().try_clone_to_owned().map(UnixListener::from).map_err(ChildError::NoControl)?;
    control.local_addr().map_err(ChildError::NoControl)?;
    let program = Program::own().ok();
    confine::confine(options.root)?;
    let (phase, _) = watch::channel(Phase::Serving);
    follow_signals(phase.clone(), options.drain)?;
    let mut child = Child {
        program,
        phase,
        options: Arc::new(options.proxy),
        sockets: None,
        prepared: None,
        statistics: Vec::new(),
    };
    loop {
        let (stream, _) = control.accept().map_err(ChildError::Control)?;
        let served = Channel::new(stream).and_then(|channel| child.serve(&channel));
        if let Err(error) = served {
            tracing::warn!("the agent's connection: {error}");
        }
    }
}

/// Said by the agent where it runs as root itself.
const ALLOW_ROOT: &str = "--allow-root";

struct Child {
    program: Option<Program>,
    phase: watch::Sender<Phase>,
    options: Arc<proxy::Options>,
    sockets: Option<Sockets>,
    /// There since the workers are.
    prepared: Option<watch::Sender<Arc<Prepared>>>,
    /// Of each worker.
    statistics: Vec<Arc<Statistics>>,
}

impl Child {
    /// Does what one agent says, until that is gone.
    fn serve(&mut self, channel: &Channel) -> io::Result<()> {
        let hello = Hello {
            protocol: PROTOCOL,
            pid: std::process::id(),
            program: self.program,
            arguments: std::env::args().skip(2).filter(|argument| argument != ALLOW_ROOT).collect(),
            workers: self.sockets.as_ref().map_or(0, Sockets::workers),
            is_draining: self.is_draining(),
        };
        let sockets = self.sockets.as_ref().map(Sockets::descriptors).unwrap_or_default();
        channel.send(&FromProxy::Hello(hello), &sockets)?;
        while let Some((order, descriptors)) = channel.receive()? {
            match order {
                ToProxy::Listen { workers } => self.sockets = Sockets::taken_over(workers, descriptors),
                ToProxy::Apply(next) => channel.send(&self.apply(next), &[])?,
                ToProxy::Count => {
                    let figures = Figures::merge(self.statistics.iter().map(|one| one.read()));
                    channel.send(&FromProxy::Counted(figures), &[])?;
                }
                ToProxy::Drain { within } => self.drain(within),
            }
        }
        Ok(())
    }

    fn apply(&mut self, next: Arc<Revision>) -> FromProxy {
        let revision = next.snapshot.revision;
        match self.put(&next) {
            Ok(problems) => FromProxy::Applied { revision, problems },
            Err(reason) => FromProxy::Refused { revision, reason },
        }
    }

    /// Gives what is bad without harm to the rest.
    fn put(&mut self, next: &Revision) -> Result<Vec<String>, String> {
        let old = self.prepared.as_ref().map(|sender| sender.borrow().clone());
        let made = Prepared::new(next.snapshot.clone(), next.material.clone(), old.as_deref());
        let (prepared, refused) = made.map_err(|error| error.to_string())?;
        match &self.prepared {
            Some(sender) => drop(sender.send_replace(Arc::new(prepared))),
            None => self.start(Arc::new(prepared)).map_err(|error| error.to_string())?,
        }
        Ok(refused.iter().map(ToString::to_string).collect())
    }

    /// Starts the workers on their sockets.
    fn start(&mut self, first: Arc<Prepared>) -> Result<(), ChildError> {
        let none = || ChildError::Worker(io::Error::other("no listening sockets were handed over"));
        let sockets = self.sockets.as_ref().ok_or_else(none)?;
        let (sender, receiver) = watch::channel(first);
        let mut workers = Vec::new();
        for sockets in sockets.by_worker().map_err(ChildError::Worker)? {
            let statistics = Arc::<Statistics>::default();
            self.statistics.push(statistics.clone());
            let worker = Worker {
                sockets,
                prepared: receiver.clone(),
                phase: self.phase.subscribe(),
                options: self.options.clone(),
                statistics,
            };
            let name = format!("worker-{}", workers.len());
            workers.push(thread::Builder::new().name(name).spawn(move || work(worker)).map_err(ChildError::Worker)?);
        }
        self.prepared = Some(sender);
        self.end_with(workers);
        Ok(())
    }

    /// Ends the process when all workers have ended; as a failure where nobody told them to.
    fn end_with(&self, workers: Vec<JoinHandle<io::Result<()>>>) {
        let phase = self.phase.subscribe();
        thread::spawn(move || {
            for worker in workers {
                let ended = worker.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
                if let Err(error) = ended {
                    tracing::error!("a worker of the proxy ended: {error}");
                    std::process::exit(1);
                }
            }
            std::process::exit(i32::from(*phase.borrow() == Phase::Serving));
        });
    }

    fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    fn drain(&mut self, within: Duration) {
        // Ours too, or connections would wait in them for nobody where no other process has them.
        self.sockets = None;
        if self.prepared.is_none() {
            std::process::exit(0);
        }
        self.phase.send_replace(Phase::Draining { deadline: Instant::now() + within });
    }
}

fn work(worker: Worker) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, proxy::serve(worker))
}

/// SIGTERM drains, a second one ends at once.
fn follow_signals(phase: watch::Sender<Phase>, drain: Duration) -> Result<(), ChildError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ChildError::Worker)?;
    let mut terminate = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate()).map_err(ChildError::Worker)?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            terminate.recv().await;
            let is_serving = phase.receiver_count() > 0;
            phase.send_replace(Phase::Draining { deadline: Instant::now() + drain });
            if is_serving {
                terminate.recv().await;
            }
            std::process::exit(0);
        });
    });
    Ok(())
}
