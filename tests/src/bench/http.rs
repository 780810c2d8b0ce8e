//! What the measurements over HTTP share: the server behind the balancer, the client before it, and what a client can do.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::poll;
use crate::world::netns::Netns;

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// A connection for each request.
    Connections,
    /// Many connections that stay open.
    KeepAlive,
    /// One connection that stays open.
    OneConnection,
    /// Bodies of 1 MiB.
    Bulk,
}

impl Load {
    pub const ALL: [Load; 4] = [Load::Connections, Load::KeepAlive, Load::OneConnection, Load::Bulk];

    /// As a row of a report begins.
    pub const fn name(self) -> &'static str {
        match self {
            Load::Connections => "new connections/s",
            Load::KeepAlive => "keep-alive requests/s",
            Load::OneConnection => "one connection, requests/s",
            Load::Bulk => "bulk, Gbit/s",
        }
    }

    const fn connections(self) -> &'static str {
        match self {
            Load::Connections | Load::KeepAlive => "64",
            Load::OneConnection => "1",
            Load::Bulk => "8",
        }
    }
}

/// What a client told of one run.
pub struct Outcome {
    /// Requests (connections) per second; Gbit/s for [`Load::Bulk`].
    pub rate: f64,
    /// Requests in all.
    pub requests: f64,
    /// Connections that failed, as wrk writes them.
    pub errors: Option<String>,
}

/// A server or proxy; killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts it, its output thrown away.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Running(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an nginx that answers `/` with a word and `/bulk` with a MiB, on each of the ports.
///
/// # Errors
/// When it cannot be started.
pub fn serve(netns: &Netns, dir: &Path, ports: &[u16]) -> Result<Running> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("bulk"), vec![b'x'; 1 << 20])?;
    let listens: String = ports.iter().map(|port| format!("listen {port} backlog=4096; ")).collect();
    let server = format!(
        "server {{ {listens} root {};\n location = / {{ return 200 hello; }} location = /bulk {{ }} }}",
        dir.display()
    );
    nginx(netns, dir, "master_process off;", &server)
}

/// Starts nginx with `main` outside and `http` inside of its `http` block.
///
/// # Errors
/// When it cannot be started.
pub fn nginx(netns: &Netns, dir: &Path, main: &str, http: &str) -> Result<Running> {
    fs::create_dir_all(dir)?;
    let text = format!(
        "{main} daemon off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on;\n\
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n{http} }}\n",
        dir = dir.display()
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text)?;
    Running::start(netns.command("nginx").arg("-c").arg(&config).arg("-e").arg(dir.join("error.log")))
}

/// Waits until somebody listens there.
///
/// # Errors
/// After ten seconds.
pub fn wait_open(client: &Netns, to: SocketAddr) -> Result<()> {
    let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    poll::until(Duration::from_secs(10), &format!("a listener on {to}"), || {
        Ok(client.output("bash", &["-c", &script]).is_ok().then_some(()))
    })
}

/// Runs wrk against `origin` (scheme, address, port).
///
/// # Errors
/// When it fails, or an answer was no success.
pub fn wrk(client: &Netns, origin: &str, load: Load, seconds: u32) -> Result<Outcome> {
    let time = format!("{seconds}s");
    let url = format!("{origin}{}", if load == Load::Bulk { "/bulk" } else { "/" });
    let mut args = vec!["-t", "1", "-c", load.connections(), "-d", &time];
    if load == Load::Connections {
        args.extend(["-H", "Connection: close"]);
    }
    args.push(&url);
    let text = client.output("wrk", &args)?;
    if text.contains("Non-2xx") {
        bail!("{load:?} to {origin}: {text}");
    }
    let said = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix)).map(str::trim);
    let rate: f64 = said("Requests/sec:").with_context(|| format!("wrk said: {text}"))?.parse()?;
    let errors = said("Socket errors: ").map(str::to_owned);
    let requests = rate * f64::from(seconds);
    let rate = if load == Load::Bulk { rate * f64::from(1 << 20) * 8.0 / 1e9 } else { rate };
    Ok(Outcome { rate, requests, errors })
}
