//! The server. Lines on stdin: `report` answers the counts so far; `stay` makes it outlive its stdin (for `--keep`).

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use serde_json::{Map, Value, json};

use super::client::{self, Request};
use super::message::{Kind, Message};
use super::wire::{self, Wire};

/// Headers that a service passes on to the services it calls, as Istio's sample services do.
const PASSED_ON: [&str; 3] = ["end-user", "traceparent", "x-request-id"];

/// What is served.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub greeting: String,
    #[arg(long)]
    pub listen: SocketAddr,
    /// A service to call for each answer, NAME=ADDR:PORT; asked for /NAME
    #[arg(long, value_parser = call)]
    pub call: Vec<Call>,
    /// Files of PEM: makes it speak TLS
    #[arg(long, requires = "key")]
    pub certificate: Option<String>,
    #[arg(long)]
    pub key: Option<String>,
    /// File of PEM: clients must show a certificate of this authority
    #[arg(long)]
    pub client_authority: Option<String>,
}

/// Another service.
#[derive(Clone, Debug)]
pub struct Call {
    name: String,
    address: SocketAddr,
}

fn call(text: &str) -> Result<Call, String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDR:PORT")?;
    Ok(Call { name: name.into(), address: address.parse().map_err(|error| format!("{error}"))? })
}

#[derive(Default)]
struct Counts {
    requests: u64,
    connections: u64,
    /// Connections by client address.
    clients: BTreeMap<String, u64>,
}

struct Server {
    args: Args,
    identity: Option<Arc<ServerConfig>>,
    counts: Mutex<Counts>,
}

/// Serves until stdin ends. Prints `{"listening":...}` once connections are accepted.
///
/// # Errors
/// When the address cannot be bound or the certificate cannot be used.
pub fn serve(args: Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let identity = match (&args.certificate, &args.key) {
        (Some(chain), Some(key)) => Some(wire::identity(chain, key, args.client_authority.as_deref())?),
        _ => None,
    };
    let server = Arc::new(Server { args, identity, counts: Mutex::default() });
    let told = json!({ "listening": listener.local_addr()?.to_string() });
    let accepting = server.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = accepting.clone();
            // A client that goes away is its own affair.
            thread::spawn(move || _ = server.converse(stream));
        }
    });
    crate::echo::tell(&told);
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => server.report(),
            "stay" => loop {
                thread::park();
            },
            _ => {}
        }
    }
    Ok(())
}

impl Server {
    fn report(&self) {
        if let Ok(counts) = self.counts.lock() {
            let Counts { requests, connections, clients } = &*counts;
            crate::echo::tell(&json!({ "requests": requests, "connections": connections, "clients": clients }));
        }
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        if let Ok(mut counts) = self.counts.lock() {
            change(&mut counts);
        }
    }

    fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?.ip().to_canonical().to_string();
        self.count(|counts| {
            counts.connections += 1;
            *counts.clients.entry(peer.clone()).or_default() += 1;
        });
        let mut from = BufReader::new(wire::accept(stream, self.identity.as_ref())?);
        while let Some(request) = Message::read(&mut from, Kind::Request)? {
            self.count(|counts| counts.requests += 1);
            self.answer(&request, &peer, from.get_mut())?;
            if request.is_last() {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Message, peer: &str, to: &mut Wire) -> io::Result<()> {
        let headers: Map<String, Value> =
            request.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let calls: Map<String, Value> =
            self.args.call.iter().map(|call| (call.name.clone(), ask(call, request))).collect();
        let told = json!({
            "greeting": self.args.greeting,
            "method": request.first.split(' ').next(),
            "path": request.second(),
            "headers": headers,
            "peer": peer,
            "mutual": to.is_mutual(),
            "received": request.body.len(),
            "calls": calls,
        });
        // `/bytes/N` answers N bytes instead.
        let size = request.second().split_once("/bytes/").and_then(|(_, size)| size.parse().ok());
        let body = size.map_or_else(|| told.to_string().into_bytes(), |size| vec![b'x'; size]);
        let greeting = &self.args.greeting;
        let mut called = Vec::new();
        told["calls"].as_object().into_iter().flatten().for_each(|(_, answer)| greetings(answer, &mut called));
        let called = called.join(",");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-greeting: {greeting}\r\nx-called: {called}\r\n\r\n",
            body.len()
        );
        // One write: what a client sees of an answer shall not depend on how it is cut.
        to.write_all(&[head.as_bytes(), &body].concat())?;
        to.flush()
    }
}

/// Who answered a call, and the calls behind it.
fn greetings(answer: &Value, into: &mut Vec<String>) {
    into.extend(answer["body"]["greeting"].as_str().map(str::to_owned));
    answer["body"]["calls"].as_object().into_iter().flatten().for_each(|(_, answer)| greetings(answer, into));
}

/// `{"status":200,"ms":3,"body":{...}}` of another service; status 0 where there is no answer.
fn ask(call: &Call, request: &Message) -> Value {
    let headers = PASSED_ON.iter().filter_map(|name| Some((*name, request.header(name)?)));
    let headers = headers.map(|(name, value)| format!("{name}: {value}")).collect();
    let host = format!("{}:{}", call.name, call.address.port());
    client::once(&Request {
        to: call.address,
        host,
        path: format!("/{}", call.name),
        header: headers,
        ..Request::default()
    })
}
