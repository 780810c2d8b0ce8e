//! Collects judgements, and judges the values that many fields share: ports, addresses, durations, labels, exportTo.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::hosts;
use crate::{
    finding::{Severity, code},
    spec::{
        istio::Labels,
        node::push_field,
        re2,
        value::{Duration, Percent},
    },
};

/// The object that is judged, but for its spec.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    pub name: &'s str,
    pub namespace: &'s str,
    pub labels: &'s Labels,
    pub annotations: &'s Labels,
}

/// One thing to say about an object. An error refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub severity: Severity,
    pub code: &'static str,
    pub path: String,
    pub message: String,
    pub remedy: &'static str,
}

/// Longest regex that admission takes, in bytes.
const MAX_REGEX: usize = 1024;

pub struct Check<'s> {
    pub subject: Subject<'s>,
    judgements: Vec<Judgement>,
}

impl<'s> Check<'s> {
    pub fn new(subject: Subject<'s>) -> Check<'s> {
        Check { subject, judgements: Vec::new() }
    }

    /// A check of an object of Istio's, which has seen its annotations.
    pub fn istio(subject: Subject<'s>) -> Check<'s> {
        let mut check = Check::new(subject);
        let refused = [
            ("istio.io/dry-run", "only an AuthorizationPolicy can be tried without effect"),
            ("internal.istio.io/webhook-always-reject", "this annotation asks for the object to be refused"),
            ("internal.istio.io/parents", "this annotation is Istio's own"),
            ("internal.istio.io/parent-namespace", "this annotation is Istio's own"),
        ];
        for (name, message) in refused.into_iter().filter(|(name, _)| subject.annotations.contains_key(*name)) {
            check.refuse(step("metadata.annotations", name), message, "Remove the annotation.");
        }
        check
    }

    pub fn finish(self) -> Vec<Judgement> {
        self.judgements
    }

    fn judge(
        &mut self,
        (severity, code): (Severity, &'static str),
        path: String,
        message: String,
        remedy: &'static str,
    ) {
        self.judgements.push(Judgement { severity, code, path, message, remedy });
    }

    /// Admission refuses the object for this.
    pub fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: &'static str) {
        self.judge((Severity::Error, code::INVALID), path.into(), message.into(), remedy);
    }

    /// Admission lets it pass with a warning.
    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: &'static str) {
        self.judge((Severity::Warning, code::SCHEMA_WARNING), path.into(), message.into(), remedy);
    }

    /// As [`Check::warn`], under the code that `istioctl analyze` has for this very thing.
    pub fn warn_as(&mut self, code: &'static str, path: String, message: impl Into<String>, remedy: &'static str) {
        self.judge((Severity::Warning, code), path, message.into(), remedy);
    }

    /// Admission takes it without a word, and it does nothing.
    pub fn idle(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: &'static str) {
        self.judge((Severity::Warning, code::NO_EFFECT), path.into(), message.into(), remedy);
    }

    pub fn port(&mut self, path: impl Into<String>, number: u32) {
        if !(1..=65_535).contains(&number) {
            self.refuse(path, format!("{number} is not a port number"), "Ports go from 1 to 65535.");
        }
    }

    pub fn address(&mut self, path: impl Into<String>, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.refuse(path, format!("`{text}` is not an IP address"), "Write an IPv4 or IPv6 address.");
        }
    }

    pub fn subnet(&mut self, path: impl Into<String>, text: &str) {
        if text.parse::<IpAddr>().is_err() && text.parse::<IpNet>().is_err() {
            self.refuse(path, format!("`{text}` is neither an IP address nor a subnet"), "Write it like 10.0.0.0/8.");
        }
    }

    /// A path or abstract name behind `unix://`.
    pub fn unix_socket(&mut self, path: impl Into<String>, socket: &str) {
        let file = socket.starts_with('/') && !socket.ends_with('/');
        if !(file || socket.starts_with('@')) {
            let message = format!("`{socket}` is not the absolute path of a socket");
            self.refuse(path, message, "Write unix:///path/to/socket or unix://@name.");
        }
    }

    /// At least a millisecond, in whole milliseconds.
    pub fn duration(&mut self, path: impl Into<String>, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        if duration < Duration::MILLISECOND {
            let message = format!("{duration} is less than 1ms");
            self.refuse(path, message, "Write at least 1ms, or leave the field out.");
        } else if !duration.is_whole(Duration::MILLISECOND) {
            self.refuse(path, format!("{duration} is not whole milliseconds"), "Round it to milliseconds.");
        }
    }

    /// From 0 to 100, and not below a ten-thousandth.
    pub fn fraction(&mut self, path: impl Into<String>, percent: Option<Percent>) {
        let Some(Percent { value }) = percent else { return };
        if !(value == 0.0 || (0.0001..=100.0).contains(&value)) {
            let message = format!("{value} is neither 0 nor from 0.0001 to 100");
            self.refuse(path, message, "Percentages go from 0 to 100, in steps of 0.0001.");
        }
    }

    pub fn percent(&mut self, path: impl Into<String>, value: f64) {
        if !(0.0..=100.0).contains(&value) {
            self.refuse(path, format!("{value} is not a percentage"), "Percentages go from 0 to 100.");
        }
    }

    pub fn not_negative(&mut self, path: impl Into<String>, number: i32) {
        if number < 0 {
            self.refuse(path, format!("{number} is negative"), "Write a number above zero, or leave the field out.");
        }
    }

    pub fn regex(&mut self, path: impl Into<String>, regex: &str) {
        if regex.len() > MAX_REGEX {
            let message = format!("the regex has {} bytes, more than {MAX_REGEX}", regex.len());
            return self.refuse(path, message, "Split it into several matches.");
        }
        if let Err(error) = re2::to_rust(regex) {
            self.refuse(path, format!("`{regex}` is not RE2 syntax: {error}"), "Istio's regexes are RE2's.");
        }
    }

    pub fn labels(&mut self, path: &str, labels: &Labels) {
        for (key, value) in labels {
            let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
            let prefix_fits =
                !key.contains('/') || (prefix.len() <= 253 && prefix.split('.').all(hosts::is_label_text));
            if !prefix_fits || !hosts::is_qualified(name) || name.len() > 63 {
                let message = format!("`{key}` is not a label's name");
                self.refuse(step(path, key), message, "Write it like app or example.com/app.");
            }
            if !value.is_empty() && !hosts::is_qualified(value) {
                let message = format!("`{value}` is not a label's value");
                self.refuse(
                    step(path, key),
                    message,
                    "Letters, digits, `-`, `_` and `.` only, none of these three at an end.",
                );
            }
        }
    }

    /// Labels that must select something: no wildcards, no empty key.
    pub fn selector(&mut self, path: &str, labels: &Labels) {
        for (key, value) in labels {
            if key.is_empty() {
                self.refuse(path, "a selector has an empty key", "Name the label.");
            }
            if key.contains('*') || value.contains('*') {
                self.refuse(step(path, key), "a selector knows no wildcard", "Name the value.");
            }
        }
        if labels.is_empty() {
            self.warn(path, "the selector has no labels and selects everything in the namespace", "Name labels.");
        }
    }

    /// `exportTo`: namespaces, `.` for the own one, `*` for all; and `~` for none where `nobody` is allowed.
    pub fn export_to(&mut self, export_to: &[String], nobody: Nobody) {
        let mut seen = BTreeSet::new();
        for (at, namespace) in export_to.iter().enumerate() {
            let path = format!("spec.exportTo[{at}]");
            let resolved = if namespace == "." { self.subject.namespace } else { namespace };
            if !seen.insert(resolved) {
                let message = format!("namespace `{resolved}` stands twice");
                self.refuse(path, message, "Remove one of the two; `.` is the object's own namespace.");
                continue;
            }
            match namespace.as_str() {
                "." | "*" => {}
                "~" if nobody == Nobody::Allowed => {}
                "~" => self.refuse(path, "`~` (nobody) is for ServiceEntries only", "Write `.` for the own namespace."),
                name if !hosts::is_label(name) => {
                    let message = format!("`{name}` is not a namespace's name");
                    self.refuse(path, message, "Write `.`, `*` or names of namespaces.");
                }
                _ => {}
            }
        }
        let alone = |mark: &str| export_to.len() > 1 && export_to.iter().any(|namespace| namespace == mark);
        if alone("*") || (nobody == Nobody::Allowed && alone("~")) {
            self.refuse("spec.exportTo", "`*` and `~` stand alone in exportTo", "Remove the other namespaces.");
        }
    }
}

/// Whether an object may be exported to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    Allowed,
    Refused,
}

/// `path` and one step more.
pub fn step(path: &str, field: &str) -> String {
    let mut path = path.to_owned();
    push_field(&mut path, field);
    path
}
