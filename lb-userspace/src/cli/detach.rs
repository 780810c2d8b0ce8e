//! `meltemi detach`: removes everything of ours from the kernel.

use super::{CANNOT_ASK, NOT_PERMITTED};
use crate::{
    dataplane::{kernel::Meta, load, pins::Pins},
    host,
    process::Directory,
};
use clap::Args as ClapArgs;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Removes programs, links and tables. Flows that go through them are cut.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The directory that `run` was given.
    #[arg(long, default_value = "/sys/fs/bpf/meltemi", value_name = "DIR")]
    pin: PathBuf,
}

pub fn run(args: &Args) -> ExitCode {
    let pins = Pins::new(&args.pin);
    if !pins.root().exists() {
        println!("nothing at {}", args.pin.display());
        // Somebody removed the pins by hand.
        end_proxies(&args.pin);
        return ExitCode::SUCCESS;
    }
    let _lock = match pins.lock() {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("meltemi: {error}");
            return ExitCode::from(CANNOT_ASK);
        }
    };
    let attachments = load::attachments(&pins);
    // Tables of another layout cannot be read; they can be removed all the same.
    let forwarding = load::open_pinned(&pins).ok().and_then(|maps| maps.meta(Meta::Forwarding).ok()).unwrap_or(0);
    if let Err(error) = pins.remove() {
        eprintln!("meltemi: {error}");
        return ExitCode::from(NOT_PERMITTED);
    }
    host::forbid_lookups(forwarding);
    if let Err(error) = host::deliver_nothing() {
        eprintln!("meltemi: {error}");
    }
    end_proxies(&args.pin);
    for attachment in attachments {
        println!("detached {} ({})", attachment.interface, attachment.mode.name());
    }
    println!("removed {}", args.pin.display());
    ExitCode::SUCCESS
}

fn end_proxies(pin: &Path) {
    if Directory::of(pin).clear() > 0 {
        println!("ended the proxy");
    }
}
