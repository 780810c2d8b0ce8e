//! The agent's side: one thread that keeps a proxy running. It starts one when there is something to serve, takes over the one
//! of a former agent, starts another where one dies or is of another version, and has every revision acknowledged.

use super::{
    Directory, ProcessError, Sockets, User,
    channel::Channel,
    directory::Found,
    message::{FromProxy, OWN_PROGRAM, PROTOCOL, Program, Revision, ToProxy},
};
use crate::proxy::Figures;
use serde::Serialize;
use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

#[derive(Clone, Debug)]
pub struct Options {
    pub directory: Directory,
    pub user: User,
    pub workers: u32,
    /// Time that connections of a replaced proxy get.
    pub drain: Duration,
    pub output: Output,
    /// More arguments of the `proxy` command.
    pub arguments: Vec<String>,
}

/// Where the proxy's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Nowhere,
    /// Where the agent's goes.
    Inherited,
}

/// What is known of the proxy, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `None`: none runs.
    pub pid: Option<u32>,
    /// The last revision that it acknowledged.
    pub revision: u64,
    pub workers: u32,
    /// Certificates and keys that cannot be used.
    pub problems: Vec<String>,
    /// Times that it died and was started again.
    pub restarts: u64,
    /// How it died last.
    pub last_death: Option<String>,
}

/// Tells at any time how the proxy is.
#[derive(Clone, Debug)]
pub struct Reporter {
    report: Arc<Mutex<Report>>,
    events: Sender<Event>,
}

impl Reporter {
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What the proxy has counted since it was started. `None`: none runs, or it does not answer.
    pub async fn figures(&self) -> Option<Figures> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Count(answer)).ok()?;
        tokio::time::timeout(COUNTING, answered).await.ok()?.ok()
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// Longest time for the proxy to tell what it has counted.
const COUNTING: Duration = Duration::from_secs(1);

/// Longest time for a revision to be prepared.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pauses before a proxy that died early is started again: none, then these doubling.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that lived for so long did not die of its start.
const STABLE: Duration = Duration::from_secs(10);

/// A handle; the thread ends with it and leaves the proxy as it is.
pub struct Keeper {
    events: Sender<Event>,
    report: Reporter,
}

#[derive(Debug)]
enum Event {
    Apply(Arc<Revision>, oneshot::Sender<Result<(), ProcessError>>),
    Count(oneshot::Sender<Figures>),
    Said(u64, FromProxy),
    Gone(u64),
    Leave,
}

impl Keeper {
    /// Looks for a former agent's proxy; the sockets are its, or new ones. Nothing is started yet.
    pub fn open(options: Options) -> Result<(Keeper, Sockets), ProcessError> {
        let living = options.directory.living();
        let (mut heir, mut others) = (None, Vec::new());
        for mut found in living {
            let known = found.hello.protocol == PROTOCOL && !found.hello.is_draining;
            match Sockets::taken_over(found.hello.workers, std::mem::take(&mut found.sockets)) {
                Some(sockets) if known && heir.is_none() && sockets.workers() == options.workers => {
                    heir = Some((found, sockets));
                }
                _ => others.push(found),
            }
        }
        let (former, sockets) = match heir {
            Some((former, sockets)) => (Some(former), sockets),
            None => (None, Sockets::make(options.workers)?),
        };
        let (events, received) = channel();
        let report = Reporter { report: Arc::default(), events: events.clone() };
        report.note(|report| report.workers = sockets.workers());
        let keep = Keep {
            sockets: sockets.try_clone().map_err(ProcessError::Socket)?,
            report: report.clone(),
            events: events.clone(),
            next: 0,
            current: None,
            leaving: others.into_iter().map(|found| found.channel).collect(),
            wanted: None,
            waiting: Vec::new(),
            counting: Vec::new(),
            deaths: 0,
            restart: None,
            options,
        };
        thread::spawn(move || keep.run(former, &received));
        Ok((Keeper { events, report }, sockets))
    }

    /// Returns when the proxy has the revision in force.
    pub async fn apply(&self, next: Arc<Revision>) -> Result<(), ProcessError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.events.send(Event::Apply(next, answer));
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ProcessError::Silent(PATIENCE)),
        }
    }

    pub fn reporter(&self) -> Reporter {
        self.report.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Leave);
    }
}

/// A proxy that we talk to.
struct Live {
    number: u64,
    channel: Channel,
    pid: u32,
    /// `None`: a former agent started it.
    child: Option<Child>,
    since: Instant,
}

struct Keep {
    options: Options,
    sockets: Sockets,
    report: Reporter,
    events: Sender<Event>,
    next: u64,
    current: Option<Live>,
    /// Those that end once another has taken over.
    leaving: Vec<Channel>,
    wanted: Option<Arc<Revision>>,
    /// Who waits for which revision.
    waiting: Vec<(u64, oneshot::Sender<Result<(), ProcessError>>)>,
    /// Who waits for figures.
    counting: Vec<oneshot::Sender<Figures>>,
    /// In a row, each soon after its start.
    deaths: u32,
    restart: Option<Instant>,
}

impl Keep {
    fn run(mut self, former: Option<Found>, events: &Receiver<Event>) {
        if let Some(found) = former {
            self.take_over(found);
        }
        loop {
            let event = match self.restart {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Apply(next, answer)) => self.want(next, answer),
                Ok(Event::Count(answer)) => self.count(answer),
                Ok(Event::Said(number, said)) if self.is_current(number) => self.hear(said),
                Ok(Event::Gone(number)) if self.is_current(number) => self.bury(),
                Ok(Event::Said(..) | Event::Gone(_)) => {}
                Err(RecvTimeoutError::Timeout) => self.start(),
                Ok(Event::Leave) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(live) = &self.current {
            live.channel.close();
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.current.as_ref().is_some_and(|live| live.number == number)
    }

    /// A former agent's proxy goes on where it is of this version; else it serves until its successor does.
    fn take_over(&mut self, found: Found) {
        let Found { channel, hello, .. } = found;
        let is_alike = hello.program == Program::own().ok() && hello.arguments == self.options.arguments;
        if hello.program.is_some() && is_alike {
            match self.listen_to(channel, hello.pid, None) {
                Ok(()) => tracing::info!(pid = hello.pid, "the proxy of a former agent goes on"),
                Err(error) => tracing::warn!("the proxy of a former agent: {error}"),
            }
        } else {
            tracing::info!(pid = hello.pid, "the proxy of a former agent will be replaced");
            self.leaving.push(channel);
        }
    }

    fn want(&mut self, next: Arc<Revision>, answer: oneshot::Sender<Result<(), ProcessError>>) {
        self.waiting.push((next.snapshot.revision, answer));
        self.wanted = Some(next);
        match (&self.current, self.restart) {
            (Some(_), _) => self.tell(),
            (None, None) => self.start(),
            // It will be told when it is started again.
            (None, Some(_)) => {}
        }
    }

    fn start(&mut self) {
        self.restart = None;
        match self.spawn() {
            Ok(()) => self.tell(),
            Err(error) => {
                tracing::error!("{error}");
                self.fail(error);
                self.pause();
            }
        }
    }

    /// Sends what is wanted. Where that fails the proxy is dead, and its reader says so.
    fn tell(&mut self) {
        if let (Some(live), Some(wanted)) = (&self.current, &self.wanted)
            && let Err(error) = live.channel.send(&ToProxy::Apply(wanted.clone()), &[])
        {
            tracing::debug!("cannot tell the proxy: {error}");
        }
    }

    fn count(&mut self, answer: oneshot::Sender<Figures>) {
        if let Some(live) = &self.current
            && live.channel.send(&ToProxy::Count, &[]).is_ok()
        {
            self.counting.push(answer);
        }
    }

    fn hear(&mut self, said: FromProxy) {
        match said {
            FromProxy::Hello(_) => {}
            FromProxy::Counted(figures) => {
                // Whoever waits no more has no use for it.
                self.counting.drain(..).for_each(|answer| drop(answer.send(figures.clone())));
            }
            FromProxy::Applied { revision, problems } => {
                problems.iter().for_each(|problem| tracing::error!("{problem}"));
                self.report.note(|report| (report.revision, report.problems) = (revision, problems));
                let done = self.waiting.extract_if(.., |(wanted, _)| *wanted <= revision);
                done.for_each(|(_, answer)| drop(answer.send(Ok(()))));
                for channel in self.leaving.drain(..) {
                    // One that does not hear is dead.
                    let _ = channel.send(&ToProxy::Drain { within: self.options.drain }, &[]);
                }
            }
            FromProxy::Refused { revision, reason } => {
                let done = self.waiting.extract_if(.., |(wanted, _)| *wanted <= revision);
                done.for_each(|(_, answer)| drop(answer.send(Err(ProcessError::Refused(reason.clone())))));
            }
        }
    }

    fn bury(&mut self) {
        let Some(mut live) = self.current.take() else { return };
        self.counting.clear();
        let status = live.child.as_mut().and_then(|child| {
            // Its end of the connection is closed, so it is ending; where it hangs there it is of no use.
            let _ = child.kill();
            child.wait().ok()
        });
        let how = status.map_or_else(|| "of an unknown cause".to_owned(), |status| format!("with {status}"));
        tracing::error!(pid = live.pid, "the proxy ended {how}; starting it again");
        self.deaths = if live.since.elapsed() < STABLE { self.deaths + 1 } else { 1 };
        self.report.note(|report| {
            report.pid = None;
            report.restarts += 1;
            report.last_death = Some(how);
        });
        self.pause();
    }

    fn pause(&mut self) {
        let pause = match self.deaths {
            0 | 1 => Duration::ZERO,
            more => PAUSE.saturating_mul(1 << (more - 2).min(10)).min(LONGEST_PAUSE),
        };
        self.deaths = self.deaths.max(1);
        self.restart = Some(Instant::now() + pause);
    }

    fn fail(&mut self, error: ProcessError) {
        if let Some((_, answer)) = self.waiting.pop() {
            let _ = answer.send(Err(error));
        }
    }

    fn spawn(&mut self) -> Result<(), ProcessError> {
        let (listener, path) = self.options.directory.listen()?;
        let mut command = Command::new(OWN_PROGRAM);
        command.arg("proxy").args(&self.options.arguments);
        let output = match self.options.output {
            Output::Nowhere => Stdio::null(),
            Output::Inherited => Stdio::inherit(),
        };
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(output).process_group(0);
        let user = match self.options.user {
            User::Id(id) => {
                command.uid(id).gid(id);
                id.to_string()
            }
            User::Same => {
                command.arg("--allow-root");
                "of the agent".to_owned()
            }
        };
        let failed = |source| ProcessError::Start { user: user.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        // The kernel's copy of the listening end closes with the child alone.
        drop(command);
        let connected = UnixStream::connect(&path).and_then(Channel::new).and_then(|channel| {
            channel.send(&ToProxy::Listen { workers: self.sockets.workers() }, &self.sockets.descriptors())?;
            Ok(channel)
        });
        let channel = match connected {
            Ok(channel) => channel,
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(source));
            }
        };
        let pid = child.id();
        tracing::info!(pid, workers = self.sockets.workers(), "proxy started");
        self.listen_to(channel, pid, Some(child)).map_err(failed)
    }

    fn listen_to(&mut self, channel: Channel, pid: u32, child: Option<Child>) -> io::Result<()> {
        self.next += 1;
        let (number, events, reader) = (self.next, self.events.clone(), channel.try_clone()?);
        reader.read_within(None)?;
        thread::spawn(move || {
            while let Ok(Some((said, _))) = reader.receive() {
                if events.send(Event::Said(number, said)).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Gone(number));
        });
        self.current = Some(Live { number, channel, pid, child, since: Instant::now() });
        self.report.note(|report| report.pid = Some(pid));
        Ok(())
    }
}
