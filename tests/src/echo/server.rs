//! The echo server. One thread a connection, with a small stack: 1,000 at once are 128 MiB of addresses, not of memory.
//!
//! Lines on stdin: `report` answers the counts so far; `stay` makes it outlive its stdin (for `--keep`).

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{receive_bulk, send_bulk, tell};

const STACK: usize = 128 * 1024;

/// Longest line that is answered; a client that sends more is cut off.
const LONGEST_LINE: u64 = 64 * 1024;

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    lines: AtomicU64,
    /// Connections by client address: tells whether the address was kept (dnat) or replaced (snat).
    clients: Mutex<BTreeMap<String, u64>>,
}

/// Serves until stdin ends. Prints `{"listening":...}` once connections are accepted.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(listen: SocketAddr, greeting: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let counts = Arc::new(Counts::default());
    // Two acceptors: std's accept queue holds 128, and a thousand clients come within milliseconds.
    for _ in 0..2 {
        let (listener, counts, greeting) = (listener.try_clone()?, counts.clone(), greeting.to_owned());
        thread::Builder::new().stack_size(STACK).spawn(move || accept(&listener, &counts, &greeting))?;
    }
    tell(&json!({ "listening": listener.local_addr()?.to_string() }));
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => report(&counts),
            "stay" => loop {
                thread::park();
            },
            _ => {}
        }
    }
    Ok(())
}

fn report(counts: &Counts) {
    let clients = counts.clients.lock().map(|clients| clients.clone()).unwrap_or_default();
    let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    tell(
        &json!({ "accepted": load(&counts.accepted), "open": load(&counts.open), "lines": load(&counts.lines), "clients": clients }),
    );
}

fn accept(listener: &TcpListener, counts: &Arc<Counts>, greeting: &str) {
    for stream in listener.incoming().flatten() {
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        if let (Ok(peer), Ok(mut clients)) = (stream.peer_addr(), counts.clients.lock()) {
            *clients.entry(peer.ip().to_canonical().to_string()).or_default() += 1;
        }
        let (counts, greeting) = (counts.clone(), greeting.to_owned());
        // Where no thread is to be had the connection is closed by dropping it, and the client sees that.
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
            counts.open.fetch_add(1, Ordering::SeqCst);
            // A client that goes away is its own affair.
            let _ = converse(stream, &counts, &greeting);
            counts.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn converse(stream: TcpStream, counts: &Counts, greeting: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut to = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if from.by_ref().take(LONGEST_LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        counts.lines.fetch_add(1, Ordering::SeqCst);
        let text = line.trim_end();
        match text.split_once(' ').and_then(|(verb, count)| Some((verb, count.parse().ok()?))) {
            Some(("SINK", count)) => {
                let hash = receive_bulk(&mut from, count)?;
                writeln!(to, "{hash:016x}")?;
            }
            Some(("SOURCE", count)) => {
                let hash = send_bulk(&mut to, count)?;
                writeln!(to, "{hash:016x}")?;
            }
            _ => to.write_all(format!("{greeting} {text}\n").as_bytes())?,
        }
    }
}
