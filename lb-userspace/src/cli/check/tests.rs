//! What `check` prints, against `tests/golden/check`; `BLESS=1` writes it anew. Objects whose name ends with `-sound` are the cases
//! in which an analysis must be silent.

use std::{collections::BTreeMap, fs};

use super::*;
use crate::{
    finding::code,
    spec::{FileSpecs, read},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a directory with a name that ends so, by name.
fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(end));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The texts of some files under their bare names.
fn texts(files: &[PathBuf]) -> BTreeMap<String, String> {
    files.iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect()
}

fn loaded(texts: impl IntoIterator<Item = (String, String)>) -> (file::Loaded, Texts) {
    let (mut loaded, mut kept) = (file::Loaded::default(), Texts::default());
    for (name, text) in texts {
        loaded.files.push(read(&name.as_str().into(), &text).into());
        kept.add(name.into(), text);
    }
    (loaded, kept)
}

fn printed(texts: BTreeMap<String, String>, output: Output) -> String {
    let (loaded, kept) = loaded(texts);
    let mut out = Vec::new();
    let report = Report::new(&loaded, &Identity::default());
    report.print(output, &kept, &Renderer::plain(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn compare(text: &str, golden: &str, wrong: &mut Vec<String>) {
    let path = root().join("tests/golden/check").join(golden);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    if fs::read_to_string(&path).unwrap_or_default() != text {
        wrong.push(format!("{golden} is now:\n{text}"));
    }
}

fn cases() -> Vec<PathBuf> {
    let cases = files(&root().join("tests/golden/check"), ".yaml");
    assert!(cases.len() >= 10, "{cases:?}");
    cases
}

#[test]
fn every_case_prints_what_is_written_down() {
    let mut wrong = Vec::new();
    for case in cases() {
        let golden = name(&case).replace(".yaml", ".txt");
        compare(&printed(texts(&[case]), Output::Text), &golden, &mut wrong);
    }
    let findings = texts(&[root().join("tests/golden/check/findings.yaml")]);
    compare(&printed(findings, Output::Sarif), "findings.sarif", &mut wrong);
    assert!(wrong.is_empty(), "{}\nIf this is wanted, run with BLESS=1.", wrong.join("\n"));
}

/// The examples' and troubles' texts, and of each variant (a directory in them) the texts with its own in place of those of the same
/// name: `examples/reviews-canary+90-10`.
fn manifests() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for group in ["examples", "troubles"] {
        for directory in files(&root().join("manifests").join(group), "") {
            let own = texts(&files(&directory, ".yaml"));
            for variant in files(&directory, "").into_iter().filter(|path| path.is_dir()) {
                let mut with = own.clone();
                with.extend(texts(&files(&variant, ".yaml")));
                assert_eq!(with.len(), own.len(), "{} is not in place of a file", variant.display());
                all.insert(format!("{group}/{}+{}", name(&directory), name(&variant)), with);
            }
            all.insert(format!("{group}/{}", name(&directory)), own);
        }
    }
    all
}

/// Examples have no finding, or those that are written down and explained in their files; so have the write-ups' troubles.
#[test]
fn every_example_has_the_findings_that_are_written_down() {
    let mut wrong = Vec::new();
    for (name, texts) in manifests() {
        compare(&printed(texts, Output::Text), &format!("{name}.txt"), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}\nIf this is wanted, run with BLESS=1.", wrong.join("\n"));
}

/// Until the proxy is there, what is not carried out is all there is to say about an example, but for the one that is about a refused
/// share.
#[test]
fn examples_are_sound() {
    for (name, texts) in manifests().into_iter().filter(|(name, _)| name.starts_with("examples/")) {
        let (loaded, _) = loaded(texts);
        let mut findings = Report::new(&loaded, &Identity::default()).findings;
        findings.retain(|finding| finding.code != code::UNSUPPORTED);
        let expected = if name == "examples/rejected-share" { vec![code::NOT_FOUND] } else { vec![] };
        assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), expected, "{name}: {findings:#?}");
    }
}

/// Each trouble is named: by a finding that is not about what this version lacks.
#[test]
fn troubles_are_named() {
    let named = [
        ("troubles/canary-mesh-only", code::INGRESS_NOT_AFFECTED),
        ("troubles/fleetman-load-balancer", code::BYPASS),
        ("troubles/other-namespace", code::HOSTS_DIFFER),
        ("troubles/reviews-503", code::TLS_DISAGREES),
        ("troubles/reviews-no-sidecar", code::TLS_DISAGREES),
    ];
    let all = manifests();
    assert_eq!(all.keys().filter(|name| name.starts_with("troubles/")).count(), named.len());
    for (name, code) in named {
        let (loaded, _) = loaded(all[name].clone());
        let findings = Report::new(&loaded, &Identity::default()).findings;
        assert!(findings.iter().any(|finding| finding.code == code), "{name}: {findings:#?}");
    }
}

#[test]
fn sound_objects_have_no_finding() {
    for case in cases() {
        let (loaded, _) = loaded(texts(&[case]));
        let report = Report::new(&loaded, &Identity::default());
        let sound = report.findings.iter().filter(|finding| finding.object.ends_with("-sound"));
        let false_alarms: Vec<_> = sound.filter(|finding| finding.code != code::UNSUPPORTED).collect();
        assert!(false_alarms.is_empty(), "{false_alarms:#?}");
    }
}

/// Every code that some analysis gives is shown by some case.
#[test]
fn every_code_has_a_case() {
    let mut unseen: Vec<&str> = code::ALL.iter().map(|code| code.id).collect();
    for case in cases() {
        let (loaded, _) = loaded(texts(&[case]));
        let report = Report::new(&loaded, &Identity::default());
        unseen.retain(|code| report.findings.iter().all(|finding| finding.code != *code));
    }
    assert_eq!(unseen, Vec::<&str>::new());
}

/// A finding says what is to be done, in one line, even if that is nothing.
#[test]
fn every_finding_has_a_remedy() {
    let cases = cases().into_iter().map(|case| texts(&[case]));
    for texts in cases.chain(manifests().into_values()) {
        for finding in Report::new(&loaded(texts).0, &Identity::default()).findings {
            assert!(!finding.remedy.is_empty() && !finding.remedy.contains('\n'), "{finding:#?}");
            assert!(!finding.message.is_empty() && !finding.message.contains('\n'), "{finding:#?}");
        }
    }
}

#[test]
fn json_has_the_contract_keys() {
    let findings = texts(&[root().join("tests/golden/check/findings.yaml")]);
    let json: serde_json::Value = serde_json::from_str(&printed(findings, Output::Json)).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["findings", "objects", "errors", "warnings"]);
    assert_eq!(json["objects"]["Service"], 2);
    assert_eq!(
        json["errors"],
        json["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == "error").count()
    );
}

/// Each document as a file of its own, named by its place.
fn documents() -> Vec<FileSpecs> {
    let mut documents = Vec::new();
    for case in cases().iter().filter(|case| name(case) != "findings.yaml") {
        for (at, text) in fs::read_to_string(case).unwrap().split("\n---\n").enumerate() {
            // Apart by namespace, or the cases would be each other's.
            let name = format!("{}-{at}", name(case));
            documents.push(read(&name.as_str().into(), text));
        }
    }
    documents
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Neither the order of files nor that of objects matters; nor does asking twice.
        #[test]
        fn order_changes_nothing(shuffled in Just(documents()).prop_shuffle()) {
            let report = |files: Vec<FileSpecs>| {
                let files = files.into_iter().map(Into::into).collect();
                let loaded = file::Loaded { files, unreadable: vec![] };
                // An object that stands twice is a matter of order.
                let mut findings = Report::new(&loaded, &Identity::default()).findings;
                findings.retain(|finding| finding.code != code::DEFINED_TWICE);
                findings
            };
            let unique = |files: Vec<FileSpecs>| {
                let mut seen = std::collections::BTreeSet::new();
                files.into_iter().filter(|file| file.items.iter().all(|item| seen.insert(item.key.clone()))).collect::<Vec<_>>()
            };
            let first = unique(documents());
            let names: Vec<_> = first.iter().map(|file| file.file.clone()).collect();
            let same: Vec<_> = shuffled.into_iter().filter(|file| names.contains(&file.file)).collect();
            let expected = report(first.clone());
            prop_assert!(expected.len() > 40);
            prop_assert_eq!(&report(first), &expected);
            prop_assert_eq!(&report(same), &expected);
        }
    }
}

/// For a look at configurations that are not part of this project: `MELTEMI_LOOK=FILE:FILE... cargo test look -- --nocapture`.
#[test]
fn look() {
    for group in std::env::var("MELTEMI_LOOK").unwrap_or_default().split(' ').filter(|group| !group.is_empty()) {
        let paths: Vec<PathBuf> = group.split(':').map(PathBuf::from).collect();
        println!("==== {group}\n{}", printed(texts(&paths), Output::Text));
    }
}

#[test]
fn nothing_to_check_is_said() {
    let text = printed(BTreeMap::new(), Output::Text);
    assert!(text.starts_with("0 objects, 0 errors, 0 warnings\nnote: no object was read"), "{text}");
    let text = printed(
        BTreeMap::from([("a.yaml".into(), "kind: Pod\napiVersion: v1\nmetadata: {name: a}\n".into())]),
        Output::Text,
    );
    assert!(!text.contains("note: no object"), "{text}");
}
