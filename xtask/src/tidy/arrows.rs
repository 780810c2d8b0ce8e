//! Who may import whom: the arrows of ARCHITECTURE.md. Unit tests may know more than the code they test.

use super::Finding;
use super::code::{Source, line_of, words};

/// Rooms of lb-userspace and what each may import besides itself. `None`: everything.
const ROOMS: [(&str, Option<&[&str]>); 18] = [
    ("finding", Some(&[])),
    ("spec", Some(&["finding"])),
    ("model", Some(&["spec", "finding", "snapshot", "router"])),
    ("compile", Some(&["model", "image", "snapshot"])),
    ("image", Some(&[])),
    ("snapshot", Some(&[])),
    ("router", Some(&["snapshot", "slots", "image"])),
    ("plan", Some(&["image"])),
    ("slots", Some(&["image"])),
    (
        "explain",
        Some(&["model", "compile", "image", "plan", "slots", "dataplane", "spec", "finding", "snapshot", "router"]),
    ),
    ("dataplane", Some(&["plan", "image", "slots"])),
    ("host", Some(&["compile"])),
    ("source", Some(&["spec"])),
    ("proxy", Some(&["snapshot", "router"])),
    ("observe", Some(&["image", "model", "slots", "dataplane", "finding", "process", "proxy", "snapshot"])),
    ("process", Some(&["proxy", "snapshot"])),
    ("agent", None),
    ("cli", None),
];

/// Rooms without I/O, clock and chance: what they need of these is an argument.
const PURE: [&str; 9] = ["finding", "spec", "model", "compile", "image", "plan", "slots", "snapshot", "router"];

/// What pure rooms do without.
const IMPURE: [&str; 9] = ["tokio", "aya", "kube", "hyper", "Instant", "SystemTime", "fs", "env", "process"];

/// Crates that lb-ebpf may name.
const KERNEL_CRATES: [&str; 5] = ["core", "lb_common", "aya_ebpf", "network_types", "zerocopy"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let code = source.code_without_tests();
    if let Some(path) = source.name.strip_prefix("lb-userspace/src/") {
        return userspace(source, code, path);
    }
    if source.name.starts_with("lb-common/src/") {
        return forbidden(
            source,
            code,
            &["aya", "aya_ebpf", "meltemi", "std"],
            "lb-common is no_std and imports nothing of ours",
        );
    }
    if source.name.starts_with("lb-ebpf/src/") {
        return kernel(source, code);
    }
    Vec::new()
}

fn userspace(source: &Source, code: &str, path: &str) -> Vec<Finding> {
    let own = path.split(['/', '.']).next().unwrap_or(path);
    if path.contains("/tests/") || path.ends_with("/tests.rs") {
        return Vec::new();
    }
    if own == "lib" || own == "main" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == own) else {
        let text = format!("{own} is no room of ARCHITECTURE.md; draw its arrows there and in xtask's tidy/arrows.rs");
        return vec![Finding::error(&source.name, 1, text)];
    };
    for (room, at) in imports(code) {
        let fine = room == own || allowed.is_none_or(|allowed| allowed.contains(&room.as_str()));
        let is_room = ROOMS.iter().any(|(known, _)| *known == room);
        if is_room && !fine {
            let text = format!("{own} may not import {room}: no arrow leads there");
            findings.push(Finding::error(&source.name, line_of(code, at), text));
        }
    }
    if PURE.contains(&own) {
        let paths = IMPURE.map(|name| format!("{own} is pure: no {name}"));
        for (name, text) in IMPURE.iter().zip(paths) {
            findings.extend(
                named_paths(code, name).map(|at| Finding::error(&source.name, line_of(code, at), text.clone())),
            );
        }
    }
    findings
}

fn kernel(source: &Source, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in words(code, "use") {
        let path = code[at + 3..].trim_start();
        let first = &path[..path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len())];
        let local = ["crate", "super", "self", ""].contains(&first) || code.contains(&format!("mod {first};"));
        if !local && !KERNEL_CRATES.contains(&first) {
            let text = format!("lb-ebpf may not import {first}");
            findings.push(Finding::error(&source.name, line_of(code, at), text));
        }
    }
    findings
}

fn forbidden(source: &Source, code: &str, names: &[&str], text: &str) -> Vec<Finding> {
    let hits = names.iter().flat_map(|name| named_paths(code, name));
    hits.map(|at| Finding::error(&source.name, line_of(code, at), text)).collect()
}

/// Places where `NAME::` or `use NAME` or `::NAME` stands, so that a field or variable of that name is no hit.
fn named_paths<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    words(code, name).filter(move |at| {
        let before = code[..*at].trim_end();
        // A path of our own, `crate::model::env`, is no hit either.
        let ours = before.ends_with("crate::") || before.ends_with("self::") || before.ends_with("super::");
        let in_path =
            code[at + name.len()..].starts_with("::") || before.ends_with("std::") || before.ends_with("time::");
        in_path && !ours
    })
}

/// First names after `crate::`, with their places; also those of a group `crate::{a, b::c}`.
fn imports(code: &str) -> Vec<(String, usize)> {
    let name_at = |at: usize| {
        let rest = &code[at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        (rest[..end].to_owned(), at)
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let start = at + "crate::".len();
        if !code[start..].starts_with('{') {
            found.push(name_at(start));
            continue;
        }
        let mut depth = 0_u32;
        for (offset, c) in code[start..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                let next = start + offset + 1;
                let skip = code[next..].len() - code[next..].trim_start().len();
                found.push(name_at(next + skip));
            }
        }
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        check(&Source::new(name, text.to_owned())).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn arrows_lead_one_way() {
        assert_eq!(
            found("lb-userspace/src/compile/mod.rs", "use crate::model::Model;\nuse crate::image::Image;\n").len(),
            0
        );
        assert_eq!(found("lb-userspace/src/model/mod.rs", "use crate::compile::Ids;\n").len(), 1);
        assert_eq!(
            found("lb-userspace/src/model/mod.rs", "use crate::{\n    spec::{self, Gateway},\n    plan,\n};\n").len(),
            1
        );
        assert_eq!(found("lb-userspace/src/observe/mod.rs", "fn f() { crate::agent::run() }\n").len(), 1);
        assert_eq!(found("lb-userspace/src/agent.rs", "use crate::{plan, dataplane};\n").len(), 0);
        assert_eq!(found("lb-userspace/src/attic.rs", "").len(), 1);
    }

    #[test]
    fn tests_may_know_more() {
        let text = "use crate::spec::Spec;\n#[cfg(test)]\nmod tests {\n    use crate::compile::compile;\n}\n";
        assert_eq!(found("lb-userspace/src/model/mod.rs", text).len(), 0);
    }

    #[test]
    fn pure_rooms_do_no_io() {
        assert_eq!(found("lb-userspace/src/plan.rs", "use std::time::Instant;\nuse std::fs;\nlet env = 1;\n").len(), 2);
        assert_eq!(found("lb-userspace/src/plan.rs", "use aya::maps::HashMap;\n// tokio::spawn\n").len(), 1);
        assert_eq!(found("lb-userspace/src/dataplane/kernel.rs", "use aya::maps::HashMap;\n").len(), 0);
    }

    #[test]
    fn the_kernel_side_imports_little() {
        assert_eq!(found("lb-ebpf/src/main.rs", "mod ctx;\nuse ctx::Frame;\nuse aya_ebpf::macros::xdp;\n").len(), 0);
        assert_eq!(found("lb-ebpf/src/main.rs", "use libc::c_int;\n").len(), 1);
        assert_eq!(found("lb-common/src/decide.rs", "use std::net::Ipv4Addr;\n").len(), 1);
    }
}
