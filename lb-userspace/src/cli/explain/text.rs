//! The answer for people: a row for each part of it, then the steps.

use std::fmt::Write as _;

use super::Report;
use crate::explain::Verdict;

pub fn text(report: &Report, colour: bool) -> String {
    let answer = &report.answer;
    let (verdict, code) = match answer.verdict {
        Verdict::Forward => ("forward", "32"),
        Verdict::Proxy => ("proxy", "36"),
        Verdict::Respond => ("respond", "36"),
        Verdict::Reject => ("reject", "31"),
        Verdict::Pass => ("pass", "33"),
        Verdict::Drop => ("drop", "31"),
    };
    let verdict = if colour { format!("\x1b[1;{code}m{verdict}\x1b[0m") } else { verdict.to_owned() };
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    row("verdict", &format!("{verdict} ({})", answer.reason));
    if let Some(listener) = &answer.listener {
        row("listener", &format!("{} port {} {}", listener.gateway, listener.port, listener.protocol));
    }
    if let Some(client) = &answer.client {
        row("client", &format!("{}  {}", client.workload, client.class));
    }
    if let Some(route) = &answer.route {
        let name = route.virtual_service.as_deref().unwrap_or("none: all endpoints");
        let item = route.r#match.map(|item| format!(".match[{item}]")).unwrap_or_default();
        let called = route.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
        row("route", &format!("{name} {}[{}]{item}{called}  {}:{}", route.kind, route.index, route.file, route.line));
    }
    for (at, share) in answer.destinations.iter().enumerate() {
        let subset = share.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        let name = format!("{}:{}{subset}", share.host, share.port);
        let title = if at == 0 { "destinations" } else { "" };
        row(title, &format!("{:>7.2}%  weight {:<6} {name}", share.share * 100.0, share.weight));
    }
    if let Some(chosen) = &answer.chosen {
        let subset = chosen.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        row("chosen", &format!("{} {}  {}:{}{subset}", chosen.backend, chosen.forwarding, chosen.host, chosen.port));
    }
    if let Some(rewritten) = &answer.rewritten {
        row("leaves as", &format!("{} {} to host {}", rewritten.method, rewritten.path, rewritten.authority));
    }
    if let Some(status) = answer.status {
        row("status", &status.to_string());
    }
    if let Some(location) = &answer.location {
        row("location", location);
    }
    if let Some(live) = &report.live {
        let backend = live.backend.map(|backend| format!(" {backend}")).unwrap_or_default();
        let agrees = if live.agrees { "agrees" } else { "DISAGREES" };
        let how = live.forwarding.map(|how| format!(" {how}")).unwrap_or_default();
        let verdict = format!("{:?}", live.verdict).to_lowercase();
        row("kernel", &format!("{agrees}: {verdict}{backend}{how} ({})", live.mode));
    }
    out.push_str("steps\n");
    for (at, step) in answer.steps.iter().enumerate() {
        let _ = writeln!(out, "{:>4}. {step}", at + 1);
    }
    out
}
