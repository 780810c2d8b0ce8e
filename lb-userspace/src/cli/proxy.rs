//! `meltemi proxy`: the process that reads bytes. Started by `meltemi run`, never by people.

use super::{
    CANNOT_ASK, NOT_PERMITTED,
    run::{AccessLogArg, LogFormat},
};
use crate::process::{self, ChildError, ChildOptions, Root};
use crate::proxy::{self, AccessLog};
use clap::Args as ClapArgs;
use std::{process::ExitCode, time::Duration};

/// Serves what `meltemi run` tells it over its standard input, without any privilege.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Run as root, without capabilities: the agent was told so.
    #[arg(long)]
    allow_root: bool,
    /// Seconds that connections get after SIGTERM.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    drain: u64,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// A line for each request on standard output.
    #[arg(long, value_enum, default_value_t = AccessLogArg::Off)]
    access_log: AccessLogArg,
}

pub fn run(args: &Args) -> ExitCode {
    super::run::log(args.log_format);
    let options = ChildOptions {
        root: if args.allow_root { Root::Allowed } else { Root::Refused },
        drain: Duration::from_secs(args.drain),
        proxy: proxy::Options {
            access_log: match args.access_log {
                AccessLogArg::Off => AccessLog::Off,
                AccessLogArg::Text => AccessLog::Text,
                AccessLogArg::Json => AccessLog::Json,
            },
            ..proxy::Options::default()
        },
    };
    match process::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("proxy: {error}");
            ExitCode::from(if matches!(error, ChildError::NoControl(_)) { CANNOT_ASK } else { NOT_PERMITTED })
        }
    }
}
