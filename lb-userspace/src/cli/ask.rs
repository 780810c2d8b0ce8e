//! One GET to the agent's admin endpoint.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use thiserror::Error;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum AskError {
    #[error("no agent answers at {address}: {source}; is `meltemi run` up, and is --admin the same?")]
    NoAgent { address: SocketAddr, source: io::Error },
    #[error("the agent's answer is cut short or no HTTP")]
    Broken,
    #[error("the agent says: {0}")]
    Refused(String),
}

/// The body of `path`'s answer.
pub fn get(address: SocketAddr, path: &str) -> Result<String, AskError> {
    let no_agent = |source| AskError::NoAgent { address, source };
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(no_agent)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(no_agent)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").map_err(no_agent)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(no_agent)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(AskError::Broken)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(AskError::Refused(body.trim().to_owned())),
    }
}
