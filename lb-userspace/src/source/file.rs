//! Configuration from files and directories: one complete reading at a time.
//!
//! Does not follow changes; that is [`super::watch`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

use crate::spec::{FileSpecs, Reading, Source, read, read_all, refused};

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
pub fn load_keeping<P: AsRef<Path>>(paths: &[P], mut keep: impl FnMut(Arc<str>, String)) -> Loaded {
    let mut reader = Reader::default();
    let loaded = reader.load(paths);
    for (path, known) in reader.known {
        if let Content::Read(reading) = known.content {
            keep(name(&path), reading.text);
        }
    }
    loaded
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

/// Reads the same paths time and again: a file that did not change is not read again, and of one that did only the documents
/// that changed.
#[derive(Debug, Default)]
pub struct Reader {
    known: HashMap<PathBuf, Known>,
    /// The files of the last reading, if that had all it was asked for.
    order: Option<Vec<PathBuf>>,
}

#[derive(Debug)]
struct Known {
    /// `None`: it changed so lately that another change would not show.
    stamp: Option<Stamp>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Read(Reading),
    Refused(Arc<FileSpecs>),
}

impl Known {
    fn specs(&self) -> Arc<FileSpecs> {
        match &self.content {
            Content::Read(reading) => reading.specs.clone(),
            Content::Refused(specs) => specs.clone(),
        }
    }

    fn reading(&self) -> Option<&Reading> {
        match &self.content {
            Content::Read(reading) => Some(reading),
            Content::Refused(_) => None,
        }
    }
}

/// A file that was opened.
struct Opened {
    path: PathBuf,
    stamp: Option<Stamp>,
    text: Result<String, FileSpecs>,
}

impl Reader {
    /// Reads all paths as they are now.
    pub fn load<P: AsRef<Path>>(&mut self, paths: &[P]) -> Loaded {
        let (mut order, mut opened, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for path in paths.iter().map(AsRef::as_ref) {
            match files(path) {
                Ok(files) => files.into_iter().for_each(|file| match self.open(&file) {
                    Ok(fresh) => {
                        order.push(file);
                        opened.extend(fresh);
                    }
                    Err(source) => unreadable.push(Unreadable { path: file, source }),
                }),
                Err(source) => unreadable.push(Unreadable { path: path.to_owned(), source }),
            }
        }
        self.take(opened);
        let present: HashSet<&PathBuf> = order.iter().collect();
        self.known.retain(|path, _| present.contains(path));
        let loaded = Loaded { files: self.specs(&order), unreadable };
        self.order = loaded.unreadable.is_empty().then_some(order);
        loaded
    }

    /// As [`Reader::load`], where only these files may have changed since the last call.
    pub fn update<P: AsRef<Path>>(&mut self, paths: &[P], changed: &BTreeSet<PathBuf>) -> Loaded {
        let Some(order) = self.order.take().filter(|_| changed.iter().all(|path| self.known.contains_key(path))) else {
            return self.load(paths);
        };
        let opened: io::Result<Vec<Option<Opened>>> = changed.iter().map(|path| self.open(path)).collect();
        let Ok(opened) = opened else { return self.load(paths) };
        self.take(opened.into_iter().flatten().collect());
        let loaded = Loaded { files: self.specs(&order), unreadable: Vec::new() };
        self.order = Some(order);
        loaded
    }

    fn specs(&self, order: &[PathBuf]) -> Vec<Arc<FileSpecs>> {
        order.iter().filter_map(|path| self.known.get(path)).map(Known::specs).collect()
    }

    /// Looks at a file and, where it may have changed, reads it.
    fn open(&self, path: &Path) -> io::Result<Option<Opened>> {
        let now = SystemTime::now();
        let stamp = Stamp::of(&fs::metadata(path)?);
        if self.known.get(path).is_some_and(|known| known.stamp == Some(stamp)) {
            return Ok(None);
        }
        let text = text(&name(path), bytes(fs::File::open(path)?)?);
        Ok(Some(Opened { path: path.to_owned(), stamp: stamp.is_settled(now).then_some(stamp), text }))
    }

    /// Reads what was opened.
    fn take(&mut self, opened: Vec<Opened>) {
        let (mut files, mut sources) = (Vec::new(), Vec::new());
        for Opened { path, stamp, text } in opened {
            match text {
                Ok(text) => {
                    let former = self.known.get(&path).and_then(Known::reading);
                    sources.push(Source { file: name(&path), text, former });
                    files.push((path, stamp, None));
                }
                Err(refused) => files.push((path, stamp, Some(refused))),
            }
        }
        let mut readings = read_all(sources).into_iter();
        for (path, stamp, refused) in files {
            let content = match refused {
                Some(refused) => Some(Content::Refused(refused.into())),
                None => readings.next().map(Content::Read),
            };
            self.known.extend(content.map(|content| (path, Known { stamp, content })));
        }
    }
}

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
    fn an_update_gives_what_a_load_gives() {
        let directory = scratch("update");
        let file = |name: &str| directory.join(name);
        let service = |port: u16| {
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{{port: {port}}}]}}\n")
        };
        fs::write(file("a.yaml"), service(80)).unwrap();
        fs::write(file("b.yaml"), service(81)).unwrap();
        let mut reader = Reader::default();
        let mut update = |changed: &[&str]| {
            let paths = [directory.clone(), file("c.yaml")];
            let changed = changed.iter().map(|name| file(name)).collect();
            let (updated, loaded) = (reader.update(&paths, &changed), load(&paths));
            assert_eq!(updated.files, loaded.files);
            let told = |loaded: &Loaded| loaded.unreadable.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(told(&updated), told(&loaded));
            updated.files
        };
        // The first time, and with a path that is not there.
        update(&[]);
        fs::write(file("c.yaml"), service(82)).unwrap();
        assert_eq!(update(&["c.yaml"]).len(), 4);
        fs::write(file("b.yaml"), service(83)).unwrap();
        update(&["b.yaml"]);
        fs::write(file("b.yaml"), b"\xe9").unwrap();
        fs::write(file("c.yaml"), service(84)).unwrap();
        update(&["b.yaml", "c.yaml"]);
        fs::write(file("d.yaml"), service(85)).unwrap();
        fs::remove_file(file("a.yaml")).unwrap();
        assert_eq!(update(&["a.yaml", "d.yaml"]).len(), 4);
        // What is not named is not looked at.
        let before = update(&["d.yaml"]);
        fs::write(file("b.yaml"), service(86)).unwrap();
        let paths = [directory.clone(), file("c.yaml")];
        let after = reader.update(&paths, &BTreeSet::from([file("d.yaml")])).files;
        assert!(before[..2].iter().zip(&after).all(|(one, other)| Arc::ptr_eq(one, other)));
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
