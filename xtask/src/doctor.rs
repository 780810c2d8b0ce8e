//! `cargo xtask doctor`: what this host has, what it lacks, and what a build would install. Changes nothing.

use anyhow::{Result, bail};

use crate::packages::{self, Tool, WORLD_TOOLS};
use crate::toolchain::{Search, Way};
use crate::{fuzz, host, linker, sh, tools};

/// How one thing stands.
enum Finding {
    Fine(String),
    /// Missing, and set-up or the agent brings it by itself.
    WillCome(String),
    /// Works without it, but less.
    Less(String),
    /// Missing, and somebody has to do something.
    Missing(String),
}

/// Prints one line for each thing; fails where something is missing that set-up cannot bring.
pub fn doctor() -> Result<()> {
    let findings = [
        ("compiler", compiler()),
        ("tools", present(&WORLD_TOOLS)),
        ("fuzzing", present(&[fuzz::COMPILER])),
        ("kernel", kernel()),
        (
            "BTF",
            if host::has_btf() {
                Finding::Fine("/sys/kernel/btf/vmlinux".into())
            } else {
                Finding::Less("no /sys/kernel/btf/vmlinux".into())
            },
        ),
        ("bpffs", bpffs()),
        ("privileges", privileges()),
        ("cargo-deny", deny()),
    ];
    let mut missing = 0;
    for (name, finding) in findings {
        let (mark, text) = match finding {
            Finding::Fine(text) => ("ok", text),
            Finding::WillCome(text) => ("will come", text),
            Finding::Less(text) => ("less", text),
            Finding::Missing(text) => {
                missing += 1;
                ("MISSING", text)
            }
        };
        println!("{mark:<10}{name:<11} {}", text.replace('\n', &format!("\n{:22}", "")));
    }
    if missing > 0 {
        bail!("{missing} thing(s) missing");
    }
    Ok(())
}

fn compiler() -> Finding {
    let (found, refusals) = tools::find(&Search::from_env());
    if let Some(tools) = found {
        return Finding::Fine(tools.line());
    }
    let mut text = refusals.join("\n");
    let rustup = sh::find("rustup").is_some();
    let ways = Way::INSTALL.into_iter().filter(|way| match way {
        Way::DebianInstall => packages::can_install(),
        _ => rustup,
    });
    let lines: Vec<String> = ways.filter_map(Way::typed).collect();
    if lines.is_empty() {
        let all: Vec<String> = Way::INSTALL.into_iter().filter_map(Way::typed).collect();
        return Finding::Missing(format!("{text}\ntype one of:\n{}\n{}", all.join("\n"), linker::typed(22)));
    }
    text += &format!(
        "\na build would try, in this order:\n{}\nand for the linker:\n{}",
        lines.join("\n"),
        linker::typed(22)
    );
    Finding::WillCome(text)
}

/// Programs that set-up installs where it can.
fn present(tools: &[Tool]) -> Finding {
    let packages = packages::missing(tools);
    match (packages.is_empty(), packages::can_install()) {
        (true, _) => Finding::Fine(tools.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ")),
        (false, true) => Finding::WillCome(format!("Debian packages {}", packages.join(", "))),
        (false, false) => Finding::Missing(packages::install_line(&packages)),
    }
}

fn kernel() -> Finding {
    let (release, version) = host::kernel();
    match version {
        (6, 6..) | (7.., _) => Finding::Fine(format!("{release}: XDP, TCX")),
        (5, 15..) | (6, _) => Finding::Less(format!("{release}: XDP, clsact; TCX needs 6.6")),
        _ => Finding::Missing(format!("{release} is older than 5.15")),
    }
}

fn bpffs() -> Finding {
    match (host::has_bpffs(), host::is_root()) {
        (true, _) => Finding::Fine("mounted at /sys/fs/bpf".into()),
        (false, true) => Finding::WillCome("mount -t bpf bpf /sys/fs/bpf".into()),
        (false, false) => Finding::Missing("sudo mount -t bpf bpf /sys/fs/bpf".into()),
    }
}

fn privileges() -> Finding {
    let lacking: Vec<&str> =
        host::CAPABILITIES.iter().filter(|(_, bit)| !host::has_capability(*bit)).map(|(name, _)| *name).collect();
    if lacking.is_empty() {
        Finding::Fine("CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN".into())
    } else {
        Finding::Missing(format!("{} (run, bench and the tests of packets and flows need root)", lacking.join(", ")))
    }
}

fn deny() -> Finding {
    if sh::find("cargo-deny").is_some() {
        Finding::Fine("there".into())
    } else {
        Finding::Less("not there; `cargo xtask check --deny` installs it (some minutes)".into())
    }
}
