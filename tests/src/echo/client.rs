//! The echo client's ways of making traffic. Each prints its result as one line of JSON; errors of connections are
//! results, not failures of the client.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::json;

use super::{receive_bulk, send_bulk, tell};

const STACK: usize = 128 * 1024;

/// Which way a bulk transfer goes, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Up,
    Down,
}

/// Whether each connection's local port is reported with its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ports {
    Reported,
    Unreported,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Closing {
    /// Without waiting for the other end, which may still take the connection for open when the next one comes.
    AtOnce,
    /// When the other end has closed too.
    Together,
}

/// Connecting takes longer than this where a SYN was lost and sent again (RFC 6298: after a second).
const LOST_SYN: Duration = Duration::from_millis(900);

/// Outcomes of many connections.
#[derive(Default)]
struct Tally {
    greetings: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    ports: BTreeMap<String, String>,
    slowest: Duration,
    /// Took as long as a lost SYN takes.
    slow: u64,
}

impl Tally {
    fn add(&mut self, outcome: io::Result<(u16, String)>, took: Duration, ports: Ports) {
        self.slowest = self.slowest.max(took);
        self.slow += u64::from(took >= LOST_SYN);
        match outcome {
            Ok((port, greeting)) => {
                if ports == Ports::Reported {
                    self.ports.insert(port.to_string(), greeting.clone());
                }
                *self.greetings.entry(greeting).or_default() += 1;
            }
            Err(error) => *self.errors.entry(name_of(&error)).or_default() += 1,
        }
    }

    fn tell(&self, started: Instant) {
        tell(&self.report(started));
    }

    fn report(&self, started: Instant) -> serde_json::Value {
        json!({
            "connections": self.greetings.values().sum::<u64>(),
            "failed": self.errors.values().sum::<u64>(),
            "greetings": self.greetings,
            "errors": self.errors,
            "ports": self.ports,
            "slowestMs": self.slowest.as_millis() as u64,
            "slow": self.slow,
            "seconds": started.elapsed().as_secs_f64(),
        })
    }
}

/// `refused`, `reset`, `timeout`, ...: short names for reports.
fn name_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "aborted".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout".into(),
        io::ErrorKind::UnexpectedEof => "closed".into(),
        kind => kind.to_string().replace(' ', "-"),
    }
}

/// One connection and its reader.
struct Line {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Line {
    fn open(to: SocketAddr, limit: Duration) -> io::Result<Line> {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Line { stream, reader })
    }

    /// Sends one line and gives the greeting before its echo.
    fn echo(&mut self, text: &str) -> io::Result<String> {
        self.stream.write_all(format!("{text}\n").as_bytes())?;
        let answer = self.read_line()?;
        let greeting = answer.strip_suffix(text).map(|rest| rest.trim_end().to_owned());
        greeting.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an echo"))
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        if self.reader.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }

    fn close(mut self, closing: Closing) -> io::Result<()> {
        if closing == Closing::Together {
            self.stream.shutdown(Shutdown::Write)?;
            io::copy(&mut self.reader, &mut io::sink())?;
        }
        Ok(())
    }

    fn local_port(&self) -> io::Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }
}

/// `count` connections, one after the other; each says hello, reads the answer and closes.
pub fn sequence(to: SocketAddr, count: u32, limit: Duration, ports: Ports, closing: Closing) {
    let started = Instant::now();
    let mut tally = Tally::default();
    for _ in 0..count {
        let began = Instant::now();
        let outcome = Line::open(to, limit).and_then(|mut line| {
            let told = (line.local_port()?, line.echo("hello")?);
            line.close(closing).map(|()| told)
        });
        tally.add(outcome, began.elapsed(), ports);
    }
    tally.tell(started);
}

/// Connections one after the other, `pace` apart, until stdin ends or says `stop`. Prints a report when the first one is
/// done, at each line `report`, and at the end.
///
/// # Errors
/// When the thread cannot be started.
pub fn churn(to: SocketAddr, pace: Duration, limit: Duration) -> Result<()> {
    let started = Instant::now();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (first, done) = std::sync::mpsc::channel();
    let shared = tally.clone();
    let body = move || {
        loop {
            let began = Instant::now();
            let outcome = Line::open(to, limit).and_then(|mut line| Ok((line.local_port()?, line.echo("hello")?)));
            if let Ok(mut tally) = shared.lock() {
                tally.add(outcome, began.elapsed(), Ports::Unreported);
            }
            let _ = first.send(());
            thread::sleep(pace);
        }
    };
    thread::Builder::new().spawn(body).context("cannot start a thread")?;
    let _ = done.recv();
    let report = || {
        if let Ok(tally) = tally.lock() {
            tally.tell(started);
        }
    };
    report();
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => report(),
            "stop" => break,
            _ => {}
        }
    }
    report();
    Ok(())
}

/// `count` connections open at the same moment: all are opened, then all say hello, then all close.
///
/// # Errors
/// When a thread cannot be started.
pub fn at_once(to: SocketAddr, count: u32, limit: Duration, ports: Ports) -> Result<()> {
    let started = Instant::now();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let all_open = Arc::new(Barrier::new(count as usize));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (tally, all_open) = (tally.clone(), all_open.clone());
            thread::Builder::new().stack_size(STACK).spawn(move || {
                let began = Instant::now();
                let line = Line::open(to, limit);
                all_open.wait();
                let outcome = line.and_then(|mut line| Ok((line.local_port()?, line.echo("hello")?)));
                if let Ok(mut tally) = tally.lock() {
                    tally.add(outcome, began.elapsed(), ports);
                }
            })
        })
        .collect::<io::Result<_>>()
        .context("cannot start a thread for each connection")?;
    for thread in threads {
        // A thread that panicked is missing in the tally, and the counts show it.
        let _ = thread.join();
    }
    if let Ok(tally) = tally.lock() {
        tally.tell(started);
    }
    Ok(())
}

/// State of one held connection.
#[derive(Clone, Default)]
struct Held {
    greeting: Option<String>,
    moved: u64,
    echoes: u64,
    broken: Option<String>,
    port: u16,
    slowest: Duration,
}

/// Holds `count` connections open, each echoing every `pace`, until stdin ends or says `stop`. Prints a report when
/// all have answered once, at each line `report`, and at the end.
///
/// # Errors
/// When a thread cannot be started.
pub fn hold(to: SocketAddr, count: u32, pace: Duration, limit: Duration) -> Result<()> {
    let states = Arc::new(Mutex::new(vec![Held::default(); count as usize]));
    let all_open = Arc::new(Barrier::new(count as usize + 1));
    for index in 0..count as usize {
        let (states, all_open) = (states.clone(), all_open.clone());
        let body = move || {
            hold_one(to, pace, limit, &all_open, |change| {
                if let Ok(mut states) = states.lock() {
                    change(&mut states[index]);
                }
            })
        };
        thread::Builder::new().stack_size(STACK).spawn(body).context("cannot start a thread for each connection")?;
    }
    all_open.wait();
    let report = || {
        if let Ok(states) = states.lock() {
            tell_held(&states);
        }
    };
    report();
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => report(),
            "stop" => break,
            _ => {}
        }
    }
    report();
    Ok(())
}

fn hold_one(
    to: SocketAddr,
    pace: Duration,
    limit: Duration,
    all_open: &Barrier,
    note: impl Fn(&mut dyn FnMut(&mut Held)),
) {
    let opened = Line::open(to, limit).and_then(|mut line| Ok((line.echo("hello")?, line.local_port()?, line)));
    let mut line = match opened {
        Ok((greeting, port, line)) => {
            note(&mut |held| {
                held.greeting = Some(greeting.clone());
                held.port = port;
                held.echoes = 1;
            });
            all_open.wait();
            line
        }
        Err(error) => {
            note(&mut |held| held.broken = Some(name_of(&error)));
            all_open.wait();
            return;
        }
    };
    for number in 0_u64.. {
        thread::sleep(pace);
        let began = Instant::now();
        match line.echo(&format!("still {number}")) {
            Ok(greeting) => note(&mut |held| {
                held.echoes += 1;
                held.slowest = held.slowest.max(began.elapsed());
                held.moved += u64::from(held.greeting.as_ref() != Some(&greeting));
            }),
            Err(error) => {
                note(&mut |held| held.broken = Some(name_of(&error)));
                return;
            }
        }
    }
}

fn tell_held(states: &[Held]) {
    let mut greetings = BTreeMap::<&str, u64>::new();
    let mut errors = BTreeMap::<&str, u64>::new();
    for held in states {
        if let Some(greeting) = &held.greeting {
            *greetings.entry(greeting).or_default() += 1;
        }
        if let Some(broken) = &held.broken {
            *errors.entry(broken).or_default() += 1;
        }
    }
    tell(&json!({
        "connections": states.len(),
        "broken": errors.values().sum::<u64>(),
        "moved": states.iter().filter(|held| held.moved > 0).count(),
        "echoes": states.iter().map(|held| held.echoes).sum::<u64>(),
        "fewestEchoes": states.iter().filter(|held| held.broken.is_none()).map(|held| held.echoes).min(),
        "slowestMs": states.iter().map(|held| held.slowest.as_millis() as u64).max(),
        "greetings": greetings,
        "errors": errors,
        "ports": states.iter().map(|held| held.port).collect::<Vec<_>>(),
    }));
}

/// One HTTP/1.1 request without a body; prints `{"status":200,"body":"..."}`.
///
/// # Errors
/// When there is no answer.
pub fn http(method: &str, to: SocketAddr, path: &str) -> Result<()> {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(to)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let status: u16 = head.split(' ').nth(1).context("no status")?.parse()?;
    tell(&json!({ "status": status, "body": body }));
    Ok(())
}

/// One transfer of `bytes` bytes; both ends hash what they sent or got.
pub fn bulk(to: SocketAddr, bytes: u64, direction: Direction, limit: Duration) {
    let started = Instant::now();
    let outcome = transfer(to, bytes, direction, limit);
    let seconds = started.elapsed().as_secs_f64();
    tell(&match outcome {
        Ok((here, there)) => json!({
            "bytes": bytes, "seconds": seconds, "gbitPerSecond": bytes as f64 * 8e-9 / seconds,
            "matches": here == there, "hash": here, "error": null,
        }),
        Err(error) => {
            json!({ "bytes": bytes, "seconds": seconds, "matches": false, "error": name_of(&error) })
        }
    });
}

fn transfer(to: SocketAddr, bytes: u64, direction: Direction, limit: Duration) -> io::Result<(String, String)> {
    let mut line = Line::open(to, limit)?;
    let here = match direction {
        Direction::Up => {
            writeln!(line.stream, "SINK {bytes}")?;
            send_bulk(&line.stream, bytes)?
        }
        Direction::Down => {
            writeln!(line.stream, "SOURCE {bytes}")?;
            receive_bulk(&mut line.reader, bytes)?
        }
    };
    Ok((format!("{here:016x}"), line.read_line()?))
}
