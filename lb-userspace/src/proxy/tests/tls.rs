//! TLS on either side: curl and openssl's library inside it as clients, rustls as an endpoint.

use std::{
    io::{Read, Write},
    process::Command,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{super::*, world::*};
use crate::snapshot::*;

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Files for curl, removed at the end.
struct Files(std::path::PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let directory = std::env::temp_dir().join(format!("meltemi-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Files(directory)
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn secret(name: &str) -> Certificate {
    Certificate::Secret { namespace: "istio-system".into(), name: name.into() }
}

fn clients() -> Authorities {
    Authorities::Secrets { namespace: "istio-system".into(), names: vec!["clients".into()] }
}

fn check(names: Names) -> PeerCheck {
    PeerCheck { authorities: clients(), revocations: None, names, spki_pins: Vec::new(), certificate_pins: Vec::new() }
}

fn server_tls(certificate: &str, client: ClientVerification) -> Option<Arc<ServerTls>> {
    Some(Arc::new(ServerTls {
        certificates: vec![secret(certificate)],
        client,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Vec::new(),
        alpn: vec!["h2".into(), "http/1.1".into()],
        place: place(),
    }))
}

/// `a.example` for everybody; `b.example` for clients with a certificate for `client.example`.
fn two_servers(port: u16, endpoint: std::net::SocketAddr) -> Snapshot {
    let mut snapshot = simple(port, endpoint);
    let chains = &mut snapshot.listeners[0].chains;
    let mut other = chains[0].clone();
    chains[0].names = vec!["a.example".into()];
    chains[0].tls = server_tls("a", ClientVerification::None);
    other.names = vec!["b.example".into()];
    let names = Names::Listed(vec!["client.example".into()]);
    other.tls = server_tls("b", ClientVerification::Required(check(names)));
    if let Content::Http(hosts) = &mut other.content {
        hosts[0].name = "b.example".into();
    }
    chains.push(other);
    snapshot
}

fn curl(proxy: &Proxy, host: &str, arguments: &[&str]) -> String {
    let resolve = format!("{host}:{}:127.0.0.1", proxy.address.port());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code} %{http_version}", "--resolve", &resolve])
        .args(arguments)
        .arg(format!("https://{host}:{}/", proxy.address.port()))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn certificates_by_name_and_clients_with_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let material = Material {
        certificates: vec![
            (secret("a"), Ok(authority.issue("a.example"))),
            (secret("b"), Ok(authority.issue("b.example"))),
        ],
        authorities: vec![(clients(), Ok(authority.pem()))],
        revocations: Vec::new(),
    };
    let peer = Peer::ok("ok");
    let proxy = Proxy::whole(Options::default(), material, |port| two_servers(port, peer.address));
    let files = Files::new("names");
    let ca = files.put("ca.pem", &authority.pem());
    assert_eq!(curl(&proxy, "a.example", &["--cacert", &ca]), "ok\n200 2");
    assert_eq!(curl(&proxy, "a.example", &["--cacert", &ca, "--http1.1"]), "ok\n200 1.1");
    assert_eq!(curl(&proxy, "a.example", &["--cacert", &ca, "--tls-max", "1.2"]), "ok\n200 2");
    assert!(peer.seen()[0].contains("x-forwarded-proto: https\r\n"), "{:?}", peer.seen());
    let with = |pair: &Pair, name: &str| {
        let (chain, key) =
            (files.put(&format!("{name}.pem"), &pair.chain), files.put(&format!("{name}.key"), &pair.key));
        curl(&proxy, "b.example", &["--cacert", &ca, "--cert", &chain, "--key", &key])
    };
    assert_eq!(with(&authority.issue("client.example"), "good"), "ok\n200 2");
    assert!(with(&authority.issue("other.example"), "name").ends_with("\n000 0"));
    assert!(with(&stranger.issue("client.example"), "stranger").ends_with("\n000 0"));
    assert!(curl(&proxy, "b.example", &["--cacert", &ca]).ends_with("\n000 0"));
    assert!(curl(&proxy, "c.example", &["--cacert", &ca]).ends_with("\n000 0"));
    let misdirected = curl(&proxy, "a.example", &["--cacert", &ca, "-H", "Host: b.example"]);
    assert!(misdirected.ends_with("\n421 2"), "{misdirected}");
    assert_eq!(peer.seen().len(), 4);
}

#[test]
fn a_bad_certificate_is_refused_by_name_and_the_old_one_kept() {
    let authority = Authority::new();
    let (good, other) = (authority.issue("a.example"), authority.issue("a.example"));
    let prepare = |pair: Result<Pair, String>, old: Option<&Prepared>| {
        let material = Material { certificates: vec![(secret("a"), pair)], ..Material::default() };
        let mut snapshot = simple(1, "127.0.0.1:1".parse().unwrap());
        snapshot.listeners[0].chains[0].tls = server_tls("a", ClientVerification::None);
        Prepared::new(Arc::new(snapshot), material, old).unwrap()
    };
    let (first, refused) = prepare(Ok(good.clone()), None);
    assert_eq!(refused, []);
    let mixed = Pair { chain: good.chain.clone(), key: other.key.clone() };
    let cut = Pair { chain: good.chain[..good.chain.len() / 2].to_owned(), key: good.key.clone() };
    for (bad, reason) in [
        (Ok(mixed), "the key is not the certificate's"),
        (Ok(cut), "the certificate is no PEM"),
        (Err("no such Secret".to_owned()), "no such Secret"),
    ] {
        let (next, refused) = prepare(bad, Some(&first));
        let [refused] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!((&*refused.name, refused.instead), ("Secret istio-system/a", Instead::Old));
        assert!(refused.reason.starts_with(reason), "{}", refused.reason);
        let tls = next.router().snapshot().listeners[0].chains[0].tls.clone().unwrap();
        assert!(matches!(next.server(&tls), Some(Ok(_))));
    }
    let (_, refused) = prepare(Err("no such Secret".to_owned()), None);
    assert_eq!(refused[0].instead, Instead::Nothing);
}

/// An endpoint that speaks TLS with a certificate, and answers with the name that it was asked for.
fn secure_peer(pair: &Pair) -> Peer {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    Peer::new(move |stream, seen| {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        let name = stream.conn.server_name().unwrap_or("nobody").to_owned();
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}", name.len()).unwrap();
        stream.flush().unwrap();
    })
}

#[test]
fn tls_towards_endpoints() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let peer = secure_peer(&authority.issue("a.example"));
    let plain = Peer::new(|mut stream, _| {
        let _ = stream.read(&mut [0; 1_024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let origination = |sni: Option<&str>, names: Names| ClientTls {
        mode: "SIMPLE".into(),
        certificate: None,
        server: check(names),
        sni: sni.map(Into::into),
        place: place(),
    };
    let ask = |authority: &Authority, endpoint: std::net::SocketAddr, tls: ClientTls| {
        let mut policy = cluster("web", &[endpoint]);
        policy.tls = Some(tls);
        policy.policy = Some(("default/web".into(), place()));
        let material = Material { authorities: vec![(clients(), Ok(authority.pem()))], ..Material::default() };
        let routes = vec![route("/", to(vec![destination("web", 1)]))];
        let proxy = Proxy::whole(Options::default(), material, |port| snapshot(port, "*", routes, vec![policy]));
        proxy.get("a.example:80", "/")
    };
    let listed = |name: &str| Names::Listed(vec![name.into()]);
    assert_eq!(body(&ask(&authority, peer.address, origination(None, Names::Sni))), "a.example");
    assert_eq!(body(&ask(&authority, peer.address, origination(Some("x.example"), listed("a.example")))), "x.example");
    for (authority, endpoint, tls) in [
        (&authority, peer.address, origination(Some("x.example"), Names::Sni)),
        (&authority, peer.address, origination(None, listed("b.example"))),
        (&stranger, peer.address, origination(None, Names::Sni)),
        (&authority, plain.address, origination(None, Names::Sni)),
    ] {
        let answer = ask(authority, endpoint, tls);
        assert!(status(&answer) == 503 && body(&answer).contains("TLS"), "{answer}");
    }
    assert_eq!((peer.seen().len(), plain.seen().len()), (2, 0));
}
