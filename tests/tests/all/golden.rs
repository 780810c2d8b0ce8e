//! From YAML to tables and writes: each example against the files in `golden/`. `BLESS=1` writes them anew.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, sync::Arc};

use lb_common::table::Forwarding;
use meltemi::{
    compile::{self, Host, compile, ids::Ids},
    image::Image,
    model::{self, Identity},
    plan::diff,
    spec::{self, Store},
};
use meltemi_tests::example;

/// The example's files with their names.
fn texts(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let manifests = files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
    manifests.map(|file| (name(&file), fs::read_to_string(&file).unwrap())).collect()
}

/// The edit that every user makes first: the first two weights become 50 each, further ones 0.
fn even_weights(text: &str) -> String {
    let mut seen = 0;
    let line = |line: &str| match line.split_once("weight: ") {
        Some((before, _)) => {
            seen += 1;
            format!("{before}weight: {}\n", if seen <= 2 { 50 } else { 0 })
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn image(texts: &BTreeMap<String, String>, ids: &mut Ids) -> Image {
    let files: Vec<_> = texts.iter().map(|(name, text)| spec::read(&Arc::from(name.as_str()), text)).collect();
    let mut store = Store::default();
    let findings = store.merge(&files, &[]);
    assert!(findings.is_empty(), "{findings:?}");
    let (model, _) = model::parse(&store.specs(), &Identity::default());
    let image = compile(&model, &host(&model), ids);
    ids.settle();
    image
}

fn host(model: &model::Model) -> Host {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let path = |endpoint: IpAddr| {
        let source = if endpoint.is_ipv4() { ip("10.1.0.1") } else { ip("fd00:1::1") };
        (endpoint, compile::Path { source, forwarding: Forwarding::Snat })
    };
    let paths = compile::endpoint_addresses(model).into_iter().map(path).collect();
    Host { addresses: [ip("10.0.0.1"), ip("fd00::1")].into(), paths }
}

fn compare(name: &str, text: &str, wrong: &mut Vec<String>) {
    let path = example::root().join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    if golden != text {
        wrong.push(format!("{name} should be, by the golden file:\n{golden}and is:\n{text}"));
    }
}

#[test]
fn examples_compile_as_written_down() {
    let mut examples: Vec<_> =
        fs::read_dir(example::root().join("manifests/examples")).unwrap().map(|dir| dir.unwrap().path()).collect();
    examples.sort();
    assert!(examples.len() >= 5, "{examples:?}");
    let mut wrong = Vec::new();
    for dir in examples {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let before = texts(&dir);
        let after = before.iter().map(|(name, text)| (name.clone(), even_weights(text))).collect();
        let mut ids = Ids::default();
        let (first, second) = (image(&before, &mut ids), image(&after, &mut ids));
        compare(&format!("{name}.image"), &first.to_string(), &mut wrong);
        let plan = format!(
            "# from nothing\n{}# to even weights\n{}# and away again\n{}",
            diff(&Image::default(), &first),
            diff(&first, &second),
            diff(&second, &Image::default())
        );
        compare(&format!("{name}.plan"), &plan, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}\nIf this is wanted, run with BLESS=1.", wrong.join("\n"));
}
