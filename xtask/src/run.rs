//! `cargo xtask run`: set-up and build, then the demonstration, or the agent on this host.
//!
//! The demonstration itself is `meltemi-demo` in the tests crate.

use anyhow::{Result, ensure};

use crate::{build, host, packages, sh};

/// Without `--`: the demonstration world. With `-- ARGS`: `meltemi run ARGS` on this host.
#[derive(clap::Args)]
pub struct Args {
    /// The example under manifests/examples to show
    #[arg(long, value_name = "NAME", default_value = "tcp-echo")]
    example: String,
    /// Leave the world up at the end and say how to send traffic of your own
    #[arg(long)]
    keep: bool,
    /// How many connections the client makes for each table
    #[arg(long, value_name = "N", default_value_t = 1000)]
    connections: u32,
    /// Where the programs are attached: auto, xdp, xdp-generic or tc
    #[arg(long, default_value = "auto")]
    mode: String,
    /// How packets are rewritten: auto, snat or dnat
    #[arg(long, default_value = "auto")]
    forwarding: String,
    /// Arguments for `meltemi run` on this host
    #[arg(last = true, value_name = "ARGS")]
    agent: Vec<String>,
}

/// Builds and becomes the demonstration or the agent.
pub fn run(args: &Args) -> Result<()> {
    host::require_root("attaching programs and making network namespaces", "cargo xtask run")?;
    packages::ensure_world_tools()?;
    let built = build::build(&build::Args::default())?;
    host::mount_bpffs()?;
    if !args.agent.is_empty() {
        let mut agent = sh::command(built.bin.join("meltemi"));
        agent.arg("run").args(&args.agent);
        return Err(sh::exec(agent));
    }
    let examples = sh::root().join("manifests/examples");
    ensure!(examples.join(&args.example).is_dir(), "no example {} under {}", args.example, examples.display());
    let mut demo = sh::command(built.bin.join("meltemi-demo"));
    demo.args(["--example", &args.example, "--mode", &args.mode, "--forwarding", &args.forwarding]);
    demo.arg("--connections").arg(args.connections.to_string()).env("MELTEMI_BIN", built.bin.join("meltemi"));
    if args.keep {
        demo.arg("--keep");
    }
    Err(sh::exec(demo))
}
