//! Configuration that is broken in every way: an error or a finding, in bounded time, never a panic, and never the loss of
//! what was good before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use meltemi::{
    finding::Severity,
    model::{self, Identity},
    spec::{self, FileSpecs, Key, Outcome, Store},
};
use meltemi_tests::example;

/// A small random number generator (splitmix64), so that a failure is found again by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Texts that stand where they do not belong.
const ODD: [&str; 36] = [
    "0",
    "-1",
    "65536",
    "4294967296",
    "1e308",
    "0x10",
    "~",
    "null",
    "true",
    "\"\"",
    "\"80\"",
    "[]",
    "{}",
    "[[[[",
    "}",
    "&a",
    "*a",
    "!!binary",
    "|",
    ">-",
    "---",
    "...",
    "%YAML 1.1",
    "\t",
    "\u{feff}",
    "\u{0}",
    "*",
    "*.com",
    "::1",
    "10.0.0.0/33",
    "mesh",
    "a/b/c",
    ".",
    "? x",
    "<<: *a",
    "18446744073709551616",
];

/// Changes a text in a few places: bytes, words, lines.
fn mutate(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        match random.below(8) {
            0 => {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                let at = random.below(bytes.len());
                bytes.truncate(at);
            }
            2 => {
                let (at, odd) = (random.below(bytes.len()), *random.of(&ODD));
                bytes.splice(at..at, odd.bytes());
            }
            3 | 4 => word(&mut bytes, random),
            _ => lines(&mut bytes, random),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Puts something else in the place of a word.
fn word(bytes: &mut Vec<u8>, random: &mut Random) {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
    let start = random.below(bytes.len());
    let Some(start) = (start..bytes.len()).find(|at| is_word(bytes[*at])) else { return };
    let end = (start..bytes.len()).find(|at| !is_word(bytes[*at])).unwrap_or(bytes.len());
    let other = random.below(bytes.len());
    let line_end = (other..bytes.len()).find(|at| bytes[*at] == b'\n').unwrap_or(bytes.len());
    let new = match random.below(2) {
        0 => random.of(&ODD).as_bytes().to_vec(),
        _ => bytes[other..line_end].to_vec(),
    };
    bytes.splice(start..end, new);
}

/// Removes, doubles, moves or indents a line.
fn lines(bytes: &mut Vec<u8>, random: &mut Random) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (at, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(5) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(other, lines[at].clone()),
        2 => lines.swap(at, other),
        3 => lines[at].splice(0..0, *b"  ").for_each(drop),
        _ => lines[at].push(b':'),
    }
    *bytes = lines.join(&b'\n');
}

type Texts = Vec<(Arc<str>, String)>;

/// An example as it is, read and in force.
struct Good {
    texts: Texts,
    files: Vec<FileSpecs>,
    store: Store,
}

impl Good {
    fn new(texts: Texts) -> Good {
        let files: Vec<FileSpecs> = texts.iter().map(|(name, text)| spec::read(name, text)).collect();
        let mut store = Store::default();
        store.merge(&files, &[]);
        Good { texts, files, store }
    }
}

fn examples() -> Vec<Good> {
    let mut examples = Vec::new();
    for dir in fs::read_dir(example::root().join("manifests/examples")).unwrap() {
        let mut texts = Texts::new();
        for file in fs::read_dir(dir.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            // A variant's directory.
            if path.is_dir() {
                continue;
            }
            texts.push((path.file_name().unwrap().to_string_lossy().into(), fs::read_to_string(&path).unwrap()));
        }
        texts.sort();
        examples.push(texts);
    }
    let findings = example::root().join("tests/golden/check/findings.yaml");
    examples.push(vec![("findings.yaml".into(), fs::read_to_string(findings).unwrap())]);
    examples.sort();
    examples.into_iter().map(Good::new).collect()
}

/// Objects in force, with what they say (positions move with every edit).
fn in_force(store: &Store) -> BTreeMap<String, String> {
    let specs = store.specs();
    let mut all = BTreeMap::new();
    macro_rules! each {
        ($($list:ident),*) => { $(for object in &specs.$list {
            all.insert(object.key.to_string(), format!("{:?}", object.spec));
        })* };
    }
    each!(gateways, virtual_services, destination_rules, service_entries, workload_entries);
    each!(services, endpoints, endpoint_slices, pods);
    all
}

/// Takes a mutated file in over the good ones, as an agent does.
fn check(good: &Good, at: usize, text: &str) -> Result<(), String> {
    let (before, mut files) = (&good.store, good.files.clone());
    let mutated = spec::read(&files[at].file, text);
    let was: BTreeSet<Key> = files[at].items.iter().map(|item| item.key.clone()).collect();
    let rejected: BTreeSet<Key> = mutated
        .items
        .iter()
        .filter(|item| matches!(item.outcome, Outcome::Rejected))
        .map(|item| item.key.clone())
        .collect();
    let valid: BTreeSet<Key> = mutated
        .items
        .iter()
        .filter(|item| matches!(item.outcome, Outcome::Valid(_)))
        .map(|item| item.key.clone())
        .collect();
    let incomplete = mutated.incomplete;
    let has_error = mutated.findings.iter().any(|finding| finding.severity == Severity::Error);
    if (incomplete || !rejected.is_empty()) && !has_error {
        return Err("something is refused and no finding says so".to_owned());
    }
    files[at] = mutated;
    let mut store = before.clone();
    store.merge(&files, &[]);
    let (held, now) = (in_force(before), in_force(&store));
    for key in was.iter().filter(|key| (incomplete || rejected.contains(key)) && !valid.contains(key)) {
        let name = key.to_string();
        if held.get(&name) != now.get(&name) {
            return Err(format!("{name} was good and is lost"));
        }
    }
    model::parse(&store.specs(), &Identity::default());
    Ok(())
}

const MUTATIONS: u64 = 100_000;

#[test]
fn a_hundred_thousand_mutations() {
    let examples = examples();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|half| {
                let examples = &examples;
                scope.spawn(move || (0..MUTATIONS).filter(|seed| seed % 2 == half).find_map(|seed| one(examples, seed)))
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn one(examples: &[Good], seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let good = random.of(examples);
    let at = random.below(good.texts.len());
    let (name, text) = &good.texts[at];
    let text = mutate(text, &mut random);
    let wrong = match catch_unwind(AssertUnwindSafe(|| check(good, at, &text))) {
        Ok(Ok(())) => return None,
        Ok(Err(wrong)) => wrong,
        Err(_) => "panic".to_owned(),
    };
    Some(format!("mutation {seed} of {name}: {wrong}\n{text}"))
}

/// Reads a text, and says how long this thread computed for it: what else the machine does is not counted.
fn read(text: &str) -> (FileSpecs, Duration) {
    let start = computed();
    let read = spec::read(&"test.yaml".into(), text);
    let mut store = Store::default();
    store.merge(std::slice::from_ref(&read), &[]);
    model::parse(&store.specs(), &Identity::default());
    (read, computed() - start)
}

/// Time that this thread has spent on a processor: the first number of its schedstat, in nanoseconds.
fn computed() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Far more than any of these needs, even unoptimised; without limits they take hours or all memory.
const BOUND: Duration = Duration::from_secs(30);

fn bounded(text: &str) -> FileSpecs {
    let (read, took) = read(text);
    assert!(took < BOUND, "took {took:?}");
    read
}

#[test]
fn alias_bombs_end() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..30 {
        let before = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs += &format!("a{level}: &a{level} [{before}]\n");
    }
    let bomb = bounded(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{laughs}"));
    assert!(bomb.findings.iter().any(|finding| finding.severity == Severity::Error), "{:?}", bomb.findings);
    let circle = bounded("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: &a\n  ports: [*a]\n");
    assert!(!circle.findings.is_empty());
}

#[test]
fn deep_nesting_ends() {
    for text in ["[".repeat(1 << 20), "{a: ".repeat(1 << 18), "- ".repeat(1 << 20)] {
        assert!(!bounded(&text).findings.is_empty());
    }
}

#[test]
fn ten_mebibytes_end() {
    let object = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {ports: [{name: tcp, port: 80}]}\n---\n";
    let many = |bytes: usize| -> String {
        (0..bytes / object.len()).map(|at| object.replace("NAME", &format!("s{at}"))).collect()
    };
    let (one, ten) = (read(&many(1 << 20)), read(&many(10 << 20)));
    assert!(ten.0.items.len() > 90_000, "{} objects, {:?}", ten.0.items.len(), ten.0.findings.first());
    // Ten times as much takes ten times as long, and a little for the memory that ever larger tables ask for.
    assert!(ten.1 < BOUND && ten.1 < one.1 * 16, "1 MiB took {:?}, 10 MiB {:?}", one.1, ten.1);
    assert!(!bounded(&"x".repeat(10 << 20)).findings.is_empty());
}

#[test]
fn what_is_not_known_is_said() {
    let finds = |text: &str, code: &str| {
        let found = bounded(text);
        assert!(found.findings.iter().any(|finding| finding.code == code), "{text}: {:?}", found.findings);
    };
    finds("apiVersion: example.com/v1\nkind: Unheard\nmetadata: {name: a}\n", "MEL0005");
    finds("apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {severs: []}\n", "MEL0004");
    finds("apiVersion: v1\nkind: Service\n  metadata: {name: a}\n", "MEL0003");
}
