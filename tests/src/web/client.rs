//! The client. Each way of asking prints its result as one line of JSON; failed requests are results, not failures of the client.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::message::{Kind, Message};
use super::wire::{Trust, Wire};

/// Whether requests share a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Connections {
    /// Each request has its own.
    #[default]
    New,
    /// One for all, as long as the other side keeps it.
    Kept,
}

/// What is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Request {
    #[arg(long)]
    pub to: SocketAddr,
    #[arg(long)]
    pub host: String,
    #[arg(long, default_value = "/")]
    pub path: String,
    /// `NAME: VALUE`
    #[arg(long)]
    pub header: Vec<String>,
    /// Bytes of a body; makes it a POST
    #[arg(long, default_value_t = 0)]
    pub send: usize,
    #[arg(long, value_enum, default_value = "new")]
    pub connections: Connections,
    /// File of PEM: speak TLS and believe this authority
    #[arg(long)]
    pub authority: Option<String>,
    /// Longest time for a connection or an answer, milliseconds
    #[arg(long, default_value_t = 10_000)]
    pub limit: u64,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            host: String::new(),
            path: "/".into(),
            header: Vec::new(),
            send: 0,
            connections: Connections::New,
            authority: None,
            limit: 10_000,
        }
    }
}

/// Outcomes of many requests.
#[derive(Default)]
struct Tally {
    statuses: BTreeMap<String, u64>,
    greetings: BTreeMap<String, u64>,
    /// Greetings of the services that were called for the answers.
    called: BTreeMap<String, u64>,
    certificates: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, outcome: io::Result<(Message, Option<String>)>, took: Duration) {
        self.slowest = self.slowest.max(took);
        match outcome {
            Ok((answer, certificate)) => {
                *self.statuses.entry(answer.second().to_owned()).or_default() += 1;
                if let Some(greeting) = answer.header("x-greeting") {
                    *self.greetings.entry(greeting.to_owned()).or_default() += 1;
                }
                for called in answer.header("x-called").unwrap_or("").split(',').filter(|called| !called.is_empty()) {
                    *self.called.entry(called.to_owned()).or_default() += 1;
                }
                if let Some(certificate) = certificate {
                    *self.certificates.entry(certificate).or_default() += 1;
                }
            }
            Err(error) => *self.errors.entry(error.to_string()).or_default() += 1,
        }
    }

    fn report(&self) -> Value {
        json!({
            "requests": self.statuses.values().sum::<u64>() + self.errors.values().sum::<u64>(),
            "failed": self.errors.values().sum::<u64>(),
            "statuses": self.statuses,
            "greetings": self.greetings,
            "called": self.called,
            "certificates": self.certificates,
            "errors": self.errors,
            "slowestMs": self.slowest.as_millis() as u64,
        })
    }
}

/// Asks one thing, again and again.
struct Asker<'r> {
    request: &'r Request,
    trust: Option<Trust>,
    text: Vec<u8>,
    kept: Option<BufReader<Wire>>,
}

impl<'r> Asker<'r> {
    fn new(request: &'r Request) -> Result<Asker<'r>> {
        let name = request.host.rsplit_once(':').map_or(request.host.as_str(), |(name, _)| name);
        let trust = request.authority.as_ref().map(|authority| Trust::new(authority, name)).transpose()?;
        let method = if request.send > 0 { "POST" } else { "GET" };
        let mut text = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", request.path, request.host);
        request.header.iter().for_each(|header| text += &format!("{header}\r\n"));
        if request.send > 0 {
            text += &format!("content-length: {}\r\n", request.send);
        }
        text += if request.connections == Connections::New { "connection: close\r\n\r\n" } else { "\r\n" };
        let text = [text.into_bytes(), vec![b'x'; request.send]].concat();
        Ok(Asker { request, trust, text, kept: None })
    }

    fn ask(&mut self) -> io::Result<(Message, Option<String>)> {
        let limit = Duration::from_millis(self.request.limit);
        let mut line = match self.kept.take() {
            Some(line) => line,
            None => BufReader::new(Wire::connect(self.request.to, self.trust.as_ref(), limit)?),
        };
        line.get_mut().write_all(&self.text)?;
        line.get_mut().flush()?;
        loop {
            let answer = Message::read(&mut line, Kind::Response)?;
            let answer =
                answer.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))?;
            // Informational ones go before the answer.
            if answer.second().starts_with('1') {
                continue;
            }
            let certificate = line.get_ref().certificate();
            if self.request.connections == Connections::Kept && !answer.is_last() {
                self.kept = Some(line);
            }
            return Ok((answer, certificate));
        }
    }
}

/// One request: `{"status":200,"ms":3,"headers":{...},"body":...}`, or status 0 and `error`.
pub(super) fn once(request: &Request) -> Value {
    let began = Instant::now();
    let outcome = Asker::new(request).and_then(|mut asker| Ok(asker.ask()?));
    let ms = began.elapsed().as_millis() as u64;
    match outcome {
        Ok((answer, certificate)) => {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
            let headers: serde_json::Map<String, Value> =
                answer.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
            let status: u16 = answer.second().parse().unwrap_or(0);
            json!({ "status": status, "ms": ms, "headers": headers, "certificate": certificate, "size": answer.body.len(), "body": body })
        }
        Err(error) => json!({ "status": 0, "ms": ms, "error": format!("{error:#}") }),
    }
}

/// Asks once and prints the answer.
pub fn one(request: &Request) {
    crate::echo::tell(&once(request));
}

/// Asks `count` times, one after the other, and prints the counts.
///
/// # Errors
/// When the request is none.
pub fn many(request: &Request, count: u32) -> Result<()> {
    let mut asker = Asker::new(request)?;
    let mut tally = Tally::default();
    for _ in 0..count {
        let began = Instant::now();
        let outcome = asker.ask();
        tally.add(outcome, began.elapsed());
    }
    crate::echo::tell(&tally.report());
    Ok(())
}

/// Asks on `threads` threads, each `pace` after its last answer, until stdin ends or says `stop`. Prints a report when
/// the first answer is there, at each line `report`, and at the end, after which nothing is under way.
///
/// # Errors
/// When the request is none or a thread cannot be started.
pub fn steady(request: &Request, threads: u32, pace: Duration) -> Result<()> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (first, done) = mpsc::channel();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut running = Vec::new();
    for _ in 0..threads {
        let (tally, first, stop, request) = (tally.clone(), first.clone(), stop.clone(), request.clone());
        let body = move || -> Result<()> {
            let mut asker = Asker::new(&request)?;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let began = Instant::now();
                let outcome = asker.ask();
                if let Ok(mut tally) = tally.lock() {
                    tally.add(outcome, began.elapsed());
                }
                let _ = first.send(());
                thread::sleep(pace);
            }
            Ok(())
        };
        running.push(thread::Builder::new().spawn(body).context("cannot start a thread")?);
    }
    drop(first);
    let _ = done.recv();
    let report = || {
        if let Ok(tally) = tally.lock() {
            crate::echo::tell(&tally.report());
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
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    for thread in running {
        // A panic shows in the counts, which stand still then.
        let _ = thread.join();
    }
    report();
    Ok(())
}
