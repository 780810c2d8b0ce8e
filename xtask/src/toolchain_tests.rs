//! Detection, tried on machines made of shell scripts in a temporary directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory with the programs of a made-up machine; removed at the end.
struct Machine(PathBuf);

impl Machine {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mlt-xtask-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Machine(dir)
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// A compiler at `DIR/bin/rustc` with a cargo beside it.
    fn compiler(&self, dir: &str, release: &str, llvm: &str) {
        let sysroot = self.0.join(dir);
        let answer = format!(
            "[ \"$1\" = -vV ] && printf 'release: {release}\\nLLVM version: {llvm}\\n' || echo {}",
            sysroot.display()
        );
        self.script(&format!("{dir}/bin/rustc"), &answer);
        self.script(&format!("{dir}/bin/cargo"), "echo cargo");
    }

    fn sources(&self, dir: &str) {
        let core = self.0.join(dir).join("lib/rustlib/src/rust/library/core");
        fs::create_dir_all(&core).unwrap();
        fs::write(core.join("Cargo.toml"), "").unwrap();
    }

    /// A rustup that knows one nightly, and whose `component add` does `add`.
    fn rustup(&self, add: &str) {
        let bin = self.0.join("nightly/bin");
        self.script(
            "path/rustup",
            &format!("case $1 in which) echo {}/$2 ;; component) {add} ;; *) exit 1 ;; esac", bin.display()),
        );
    }

    fn search(&self) -> Search {
        Search { path: self.0.join("path").into(), named: None, debian_bin: self.0.join("debian/bin") }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn versions_are_read() {
    let debian = "rustc 1.96.0 (ac68 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
    let version = Version::parse(debian).unwrap();
    assert_eq!(version, Version { release: "1.96.0".into(), channel: Channel::Stable, llvm: 22 });
    assert_eq!(version.minor(), Some(96));
    let nightly = Version::parse("release: 1.97.0-nightly\nLLVM version: 23.1\n").unwrap();
    assert_eq!((nightly.channel, nightly.llvm, nightly.minor()), (Channel::Nightly, 23, Some(97)));
    assert_eq!(Version::parse("release: 1.97.0\n"), None);
}

#[test]
fn an_empty_machine_has_none() {
    let machine = Machine::new();
    for way in Way::PRESENT {
        assert!(machine.search().try_way(way).is_err(), "{way}");
    }
}

#[test]
fn nightly_with_sources_is_taken() {
    let machine = Machine::new();
    machine.compiler("nightly", "1.97.0-nightly", "22.1.4");
    machine.sources("nightly");
    machine.rustup("exit 1");
    let found = machine.search().try_way(Way::Nightly).unwrap();
    assert_eq!(found.rustc, machine.0.join("nightly/bin/rustc"));
    assert_eq!(found.version.llvm, 22);
}

#[test]
fn nightly_without_sources_is_refused_by_name() {
    let machine = Machine::new();
    machine.compiler("nightly", "1.97.0-nightly", "22.1.4");
    machine.rustup("exit 1");
    let error = machine.search().try_way(Way::Nightly).unwrap_err();
    assert!(error.to_string().contains("rust-src"), "{error}");
    let error = machine.search().try_way(Way::NightlyAddSources).unwrap_err();
    assert!(error.to_string().contains("component add rust-src"), "{error}");
}

#[test]
fn sources_are_added_to_nightly() {
    let machine = Machine::new();
    machine.compiler("nightly", "1.97.0-nightly", "22.1.4");
    let core = machine.0.join("nightly/lib/rustlib/src/rust/library/core");
    machine.rustup(&format!("/bin/mkdir -p {0} && : > {0}/Cargo.toml", core.display()));
    assert!(machine.search().try_way(Way::Nightly).is_err());
    assert!(machine.search().try_way(Way::NightlyAddSources).is_ok());
}

#[test]
fn debian_is_taken_and_an_old_compiler_is_not() {
    let machine = Machine::new();
    machine.compiler("debian", "1.96.0", "22.1.8");
    machine.sources("debian");
    assert_eq!(machine.search().try_way(Way::Debian).unwrap().version.channel, Channel::Stable);
    machine.compiler("debian", "1.63.0", "14.0.6");
    let error = machine.search().try_way(Way::Debian).unwrap_err();
    assert!(error.to_string().contains("older than"), "{error}");
}

#[test]
fn the_named_compiler_is_taken() {
    let machine = Machine::new();
    machine.compiler("own", "1.97.0-nightly", "23.1.0");
    machine.sources("own");
    let search = Search { named: Some(machine.0.join("own/bin/rustc")), ..machine.search() };
    assert_eq!(search.try_way(Way::Override).unwrap().cargo, machine.0.join("own/bin/cargo"));
}
