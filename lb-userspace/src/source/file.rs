//! Configuration from files and directories: one complete reading at a time.
//!
//! Does not follow changes; that is [`super::watch`].

use std::{
    collections::HashMap,
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

use crate::spec::{FileSpecs, read, read_all, refused};

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
    pub files: Vec<Arc<FileSpecs>>,
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
    Reader::default().load(paths)
}

/// As [`load`], and hands over the name and text of each file, for those who show places in it.
pub fn load_keeping<P: AsRef<Path>>(paths: &[P], keep: impl FnMut(Arc<str>, String)) -> Loaded {
    Reader::default().load_keeping(paths, keep)
}

/// Adds what is not a file, such as standard input, under a name of its own.
pub fn add_stream(name: &str, stream: impl Read, loaded: &mut Loaded, mut keep: impl FnMut(Arc<str>, String)) {
    match bytes(stream) {
        Ok(bytes) => match text(&name.into(), bytes) {
            Ok(text) => {
                loaded.files.push(read(&name.into(), &text).into());
                keep(name.into(), text);
            }
            Err(refused) => loaded.files.push(refused.into()),
        },
        Err(source) => loaded.unreadable.push(Unreadable { path: name.into(), source }),
    }
}

/// Reads the same paths time and again: a file that did not change is not read again.
#[derive(Debug, Default)]
pub struct Reader {
    known: HashMap<PathBuf, Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    specs: Arc<FileSpecs>,
}

/// What one file of a load turned out to be.
enum Found {
    /// Not changed, or refused.
    Specs(Arc<FileSpecs>),
    /// Position among the texts to parse.
    Text(usize),
}

impl Reader {
    /// Reads all paths as they are now.
    pub fn load<P: AsRef<Path>>(&mut self, paths: &[P]) -> Loaded {
        self.load_keeping(paths, |_, _| {})
    }

    fn load_keeping<P: AsRef<Path>>(&mut self, paths: &[P], mut keep: impl FnMut(Arc<str>, String)) -> Loaded {
        let (mut loaded, mut found, mut texts) = (Loaded::default(), Vec::new(), Vec::new());
        for path in paths.iter().map(AsRef::as_ref) {
            match files(path) {
                Ok(files) => files.into_iter().for_each(|file| match self.open(&file, &mut texts) {
                    Ok(one) => found.push((file, one)),
                    Err(source) => loaded.unreadable.push(Unreadable { path: file, source }),
                }),
                Err(source) => loaded.unreadable.push(Unreadable { path: path.to_owned(), source }),
            }
        }
        let (texts, stamps): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
        let specs: Vec<Arc<FileSpecs>> = read_all(&texts).into_iter().map(Arc::new).collect();
        let mut known = HashMap::new();
        for (path, one) in found {
            let (stamp, specs) = match one {
                Found::Specs(specs) => (self.known.remove(&path).map(|known| known.stamp), specs),
                Found::Text(at) => (stamps[at], specs[at].clone()),
            };
            loaded.files.push(specs.clone());
            known.extend(stamp.map(|stamp| (path, Known { stamp, specs })));
        }
        self.known = known;
        texts.into_iter().for_each(|(file, text)| keep(file, text));
        loaded
    }

    /// Looks at a file and, where it may have changed, reads it.
    fn open(&self, path: &Path, texts: &mut Vec<(Text, Option<Stamp>)>) -> io::Result<Found> {
        let now = SystemTime::now();
        let stamp = Stamp::of(&fs::metadata(path)?);
        if let Some(known) = self.known.get(path).filter(|known| known.stamp == stamp) {
            return Ok(Found::Specs(known.specs.clone()));
        }
        let file = name(path);
        match text(&file, bytes(fs::File::open(path)?)?) {
            Ok(text) => {
                texts.push(((file, text), stamp.is_settled(now).then_some(stamp)));
                Ok(Found::Text(texts.len() - 1))
            }
            Err(refused) => Ok(Found::Specs(refused.into())),
        }
    }
}

/// A file's name and content.
type Text = (Arc<str>, String);

/// By which a change of a file is known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change was so long before `now` that one after `now` gets another time. The kernel's clock for files
    /// moves in steps of 10 ms at most, that of some file systems in steps of 2 s.
    fn is_settled(&self, now: SystemTime) -> bool {
        let step = if self.changed.1 % 1_000_000_000 == 0 { 3_000 } else { 100 };
        let age = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i128);
        let changed = i128::from(self.changed.0) * 1_000 + i128::from(self.changed.1) / 1_000_000;
        age - changed > step
    }
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

/// A file's bytes as text, or the file refused as a whole.
fn text(file: &Arc<str>, bytes: Vec<u8>) -> Result<String, FileSpecs> {
    if bytes.len() as u64 > MAX_FILE {
        let message = format!("the file is larger than {} MiB", MAX_FILE >> 20);
        return Err(refused(file, message, "Split it into several files."));
    }
    String::from_utf8(bytes).map_err(|_| refused(file, "the file is not UTF-8 text".into(), "Save it as UTF-8."))
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
        let name = |file: &Arc<FileSpecs>| file.file.rsplit('/').next().unwrap().to_owned();
        assert_eq!(loaded.files.iter().map(name).collect::<Vec<_>>(), ["a.yml", "b.yaml", "c.json", "z.yaml"]);
        assert!(loaded.unreadable.is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_did_not_change_is_not_read_again() {
        let directory = scratch("again");
        let written = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        written("a.yaml", "a");
        written("b.yaml", "b");
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        let mut reader = Reader::default();
        let settled = |reader: &mut Reader| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            loop {
                let (one, other) = (reader.load(&[&directory]), reader.load(&[&directory]));
                if one.files.iter().zip(&other.files).all(|(one, other)| Arc::ptr_eq(one, other)) {
                    return other.files;
                }
                assert!(std::time::Instant::now() < end, "read anew for ever");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        let before = settled(&mut reader);
        // As many bytes and the same time: only the change time tells.
        written("a.yaml", "c");
        fs::File::options().write(true).open(directory.join("a.yaml")).unwrap().set_modified(old).unwrap();
        let after = reader.load(&[&directory]).files;
        assert!(!Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
        fs::remove_file(directory.join("b.yaml")).unwrap();
        assert_eq!(settled(&mut reader).len(), 1);
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
