//! Configuration from files and directories: one complete reading at a time.
//!
//! Does not follow changes; that is [`super::watch`].

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use crate::spec::{FileSpecs, read, refused};

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// A path that could not be read.
#[derive(Debug, Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct Unreadable {
    pub path: PathBuf,
    pub source: io::Error,
}

impl Unreadable {
    /// Whether the path does not exist, rather than being out of reach.
    pub fn is_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// One reading of all paths.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the paths given, a directory's files by name.
    pub files: Vec<FileSpecs>,
    pub unreadable: Vec<Unreadable>,
}

impl Loaded {
    /// The paths that exist but could not be read, as [`crate::spec::Store::merge`] wants them.
    pub fn out_of_reach(&self) -> Vec<Arc<str>> {
        self.unreadable.iter().filter(|path| !path.is_gone()).map(|path| name(&path.path)).collect()
    }
}

/// Reads files, and of directories every `*.yaml`, `*.yml` and `*.json` directly in them.
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Loaded {
    load_keeping(paths, |_, _| {})
}

/// As [`load`], and hands over the name and text of each file, for those who show places in it.
pub fn load_keeping<P: AsRef<Path>>(paths: &[P], mut keep: impl FnMut(Arc<str>, String)) -> Loaded {
    let mut loaded = Loaded::default();
    for path in paths.iter().map(AsRef::as_ref) {
        match files(path) {
            Ok(files) => {
                for file in files {
                    let opened = fs::File::open(&file);
                    add(&file, opened.and_then(bytes), &mut loaded, &mut keep);
                }
            }
            Err(source) => loaded.unreadable.push(Unreadable { path: path.to_owned(), source }),
        }
    }
    loaded
}

/// Adds what is not a file, such as standard input, under a name of its own.
pub fn add_stream(name: &str, stream: impl Read, loaded: &mut Loaded, mut keep: impl FnMut(Arc<str>, String)) {
    add(Path::new(name), bytes(stream), loaded, &mut keep);
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if is_manifest(&file) && fs::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a directory's entry is to be read. Names starting with `.` are editors' files and, in a ConfigMap mount,
/// the `..data` link behind the links that carry the real names.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn add(path: &Path, read_bytes: io::Result<Vec<u8>>, loaded: &mut Loaded, keep: &mut impl FnMut(Arc<str>, String)) {
    let file = name(path);
    match read_bytes {
        Err(source) => loaded.unreadable.push(Unreadable { path: path.to_owned(), source }),
        Ok(bytes) if bytes.len() as u64 > MAX_FILE => {
            let message = format!("the file is larger than {} MiB", MAX_FILE >> 20);
            loaded.files.push(refused(&file, message, "Split it into several files."));
        }
        Ok(bytes) => loaded.files.push(match String::from_utf8(bytes) {
            Ok(text) => {
                let specs = read(&file, &text);
                keep(file, text);
                specs
            }
            Err(_) => refused(&file, "the file is not UTF-8 text".into(), "Save it as UTF-8."),
        }),
    }
}

/// All bytes, at most one more than [`MAX_FILE`]: `/dev/zero` and growing files end too.
fn bytes(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meltemi-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_directory_gives_its_manifests_by_name_and_nothing_hidden() {
        let directory = scratch("directory");
        for name in ["b.yaml", "a.yml", "c.json", "d.txt", ".hidden.yaml", "yaml"] {
            fs::write(directory.join(name), "").unwrap();
        }
        fs::create_dir(directory.join("sub.yaml")).unwrap();
        fs::create_dir(directory.join("..1")).unwrap();
        fs::write(directory.join("..1/z.yaml"), "").unwrap();
        symlink("..1", directory.join("..data")).unwrap();
        symlink("..data/z.yaml", directory.join("z.yaml")).unwrap();
        let loaded = load(&[&directory]);
        let name = |file: &FileSpecs| file.file.rsplit('/').next().unwrap().to_owned();
        assert_eq!(loaded.files.iter().map(name).collect::<Vec<_>>(), ["a.yml", "b.yaml", "c.json", "z.yaml"]);
        assert!(loaded.unreadable.is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_is_gone() {
        let directory = scratch("unreadable");
        // A link to itself: neither readable nor missing, for root too.
        symlink("loop.yaml", directory.join("loop.yaml")).unwrap();
        let paths = [directory.join("loop.yaml"), directory.join("missing.yaml")];
        let loaded = load(&paths);
        assert_eq!(loaded.unreadable.iter().map(Unreadable::is_gone).collect::<Vec<_>>(), [false, true]);
        assert_eq!(loaded.out_of_reach(), [name(&paths[0])]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn files_too_large_or_not_text_are_findings() {
        let directory = scratch("refused");
        let large = fs::File::create(directory.join("large.yaml")).unwrap();
        large.set_len(MAX_FILE + 1).unwrap();
        fs::write(directory.join("latin.yaml"), b"a: \xe9\n").unwrap();
        let loaded = load(&[&directory]);
        let messages: Vec<_> =
            loaded.files.iter().map(|file| (file.findings[0].message.as_str(), file.incomplete)).collect();
        assert_eq!(messages, [("the file is larger than 64 MiB", true), ("the file is not UTF-8 text", true)]);
        fs::remove_dir_all(directory).unwrap();
    }
}
