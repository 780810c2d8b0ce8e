//! The proxies that ours is measured beside, each with two workers, an HTTP and a TLS listener and the same backend. Their
//! settings are what their manuals recommend for a reverse proxy with kept connections.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::http::{self, Running};
use crate::world::netns::{self, Netns};
use crate::world::{LB_V4, World};

/// A proxy on the balancer host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Haproxy,
    Nginx,
    Envoy,
    Meltemi,
}

impl Proxy {
    pub const ALL: [Proxy; 4] = [Proxy::Haproxy, Proxy::Nginx, Proxy::Envoy, Proxy::Meltemi];
    pub const PEERS: [Proxy; 3] = [Proxy::Haproxy, Proxy::Nginx, Proxy::Envoy];

    /// As a row of a report calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Proxy::Haproxy => "haproxy",
            Proxy::Nginx => "nginx",
            Proxy::Envoy => "envoy",
            Proxy::Meltemi => "meltemi",
        }
    }

    /// Where it accepts plain HTTP.
    #[must_use]
    pub fn plain(self) -> SocketAddr {
        SocketAddr::new(LB_V4.into(), 8080 + self as u16)
    }

    /// Where it accepts TLS, with HTTP/1.1 and HTTP/2.
    #[must_use]
    pub fn tls(self) -> SocketAddr {
        SocketAddr::new(LB_V4.into(), 8440 + self as u16)
    }

    /// Where the backend expects it: a port for each, so that none meets another's connections in TIME_WAIT.
    #[must_use]
    pub const fn backend_port(self) -> u16 {
        9000 + self as u16
    }
}

/// An ECDSA P-256 certificate and its key, as files.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    /// Makes one with openssl.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn make(dir: &Path) -> Result<Identity> {
        let identity = Identity { certificate: dir.join("bench-cert.pem"), key: dir.join("bench-key.pem") };
        let mut command = std::process::Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        command.args(["-subj", "/CN=bench.example", "-addext", "subjectAltName=DNS:bench.example"]);
        command.arg("-keyout").arg(&identity.key).arg("-out").arg(&identity.certificate);
        netns::run(&mut command).context("an ECDSA certificate for the bench")?;
        Ok(identity)
    }
}

/// Starts a peer. Ours is started by its agent.
///
/// # Errors
/// When it cannot be started.
pub fn start(proxy: Proxy, world: &World, identity: &Identity) -> Result<Running> {
    let backend = SocketAddr::new(world.backends[0].v4.into(), proxy.backend_port());
    let dir = world.dir().join(proxy.name());
    fs::create_dir_all(&dir)?;
    match proxy {
        Proxy::Haproxy => haproxy(&world.lb, &dir, backend, identity),
        Proxy::Nginx => nginx(&world.lb, &dir, backend, identity),
        Proxy::Envoy => envoy(&world.lb, &dir, backend, identity),
        Proxy::Meltemi => anyhow::bail!("the agent starts it"),
    }
}

fn haproxy(lb: &Netns, dir: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
    let pem = dir.join("both.pem");
    fs::write(&pem, [fs::read(&identity.certificate)?, fs::read(&identity.key)?].concat())?;
    let text = format!(
        "global\n maxconn 4096\n nbthread 2\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen bench\n bind {}\n bind {} ssl crt {} alpn h2,http/1.1\n server one {backend}\n",
        Proxy::Haproxy.plain(),
        Proxy::Haproxy.tls(),
        pem.display()
    );
    let config = dir.join("haproxy.cfg");
    fs::write(&config, text)?;
    Running::start(lb.command("haproxy").arg("-db").arg("-f").arg(&config))
}

fn nginx(lb: &Netns, dir: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
    let http = format!(
        "ssl_protocols TLSv1.2 TLSv1.3; upstream one {{ server {backend}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen {} backlog=4096 reuseport; listen {} ssl http2 backlog=4096 reuseport; ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ proxy_pass http://one; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}",
        Proxy::Nginx.plain(),
        Proxy::Nginx.tls(),
        identity.certificate.display(),
        identity.key.display(),
    );
    http::nginx(lb, dir, "worker_processes 2;", &http)
}

fn envoy(lb: &Netns, dir: &Path, backend: SocketAddr, identity: &Identity) -> Result<Running> {
    let program = std::env::var_os("MELTEMI_ENVOY").context("MELTEMI_ENVOY is not set: run `cargo xtask bench`")?;
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let files = format!("{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}");
    let tls = format!(
        "transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{files}]}}}}}}"
    );
    let listener = |at: SocketAddr, extra: &str| {
        format!(
            "  - address: {{socket_address: {{address: {}, port_value: {}}}}}\n    filter_chains:\n    - filters:\n      \
             - name: http\n        typed_config:\n          '@type': \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
             stat_prefix: bench\n          http_filters: [{{name: router, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n          \
             route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: one}}}}]}}]}}\n      {extra}\n",
            at.ip(),
            at.port()
        )
    };
    let endpoint =
        format!("{{address: {{socket_address: {{address: {}, port_value: {}}}}}}}", backend.ip(), backend.port());
    let text = format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n  - name: one\n    connect_timeout: 5s\n    load_assignment: \
         {{cluster_name: one, endpoints: [{{lb_endpoints: [{{endpoint: {endpoint}}}]}}]}}\n",
        listener(Proxy::Envoy.plain(), ""),
        listener(Proxy::Envoy.tls(), &tls),
    );
    let config = dir.join("envoy.yaml");
    fs::write(&config, text)?;
    let mut command = lb.command(program);
    command.args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(&config);
    Running::start(&mut command)
}
