//! Tells which files may have changed, once whoever changes them pauses. Says nothing of how: read them again.
//!
//! Directories are watched, never files: an editor saves by renaming a new file over the old one, and a ConfigMap mount
//! swaps the `..data` link, and a watch on the file itself would stay with the old one.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use thiserror::Error;

/// Quiet after which what happened is told: several files replaced one after another are one change.
const PAUSE: Duration = Duration::from_millis(2);
/// The same while a file is being written: its writer may be between two writes, and half a file is not to be read.
const WRITING: Duration = Duration::from_millis(20);
/// Changes without a pause are told after this time all the same.
const MOST: Duration = Duration::from_millis(200);

/// Why changes cannot be followed.
#[derive(Debug, Error)]
pub enum WatchError {
    #[error("cannot follow changes of files: {0}")]
    Start(#[source] notify::Error),
    #[error("cannot follow changes in {}: {source}", directory.display())]
    Directory { directory: PathBuf, source: notify::Error },
}

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These files, under the names they are read by.
    Files(BTreeSet<PathBuf>),
    /// Nobody can tell: look at everything.
    Anything,
}

impl Changed {
    /// Both.
    fn with(self, other: Changed) -> Changed {
        match (self, other) {
            (Changed::Files(mut files), Changed::Files(others)) => {
                files.extend(others);
                Changed::Files(files)
            }
            _ => Changed::Anything,
        }
    }
}

/// What a wait ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    Changed(Changed),
    /// Nothing happened within the time.
    Quiet,
}

/// What happened and was not told yet.
#[derive(Debug, Default)]
struct News {
    changed: Option<Changed>,
    /// Files that somebody writes to, or seems to.
    writing: HashSet<PathBuf>,
    /// Of the first and the last event.
    span: Option<(Instant, Instant)>,
}

impl News {
    fn note(&mut self, event: &notify::Event, changed: Changed, now: Instant) {
        let begins = match event.kind {
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => true,
            EventKind::Modify(ModifyKind::Metadata(_)) => false,
            _ => {
                event.paths.iter().for_each(|path| _ = self.writing.remove(path));
                false
            }
        };
        if begins {
            self.writing.extend(event.paths.iter().cloned());
        }
        self.changed = Some(match self.changed.take() {
            Some(former) => former.with(changed),
            None => changed,
        });
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
    }

    /// When it is to be told.
    fn due(&self) -> Option<Instant> {
        let pause = if self.writing.is_empty() { PAUSE } else { WRITING };
        self.span.map(|(first, last)| (last + pause).min(first + MOST))
    }
}

/// Follows changes of some paths for as long as it lives.
pub struct Watch {
    _watcher: RecommendedWatcher,
    news: Arc<(Mutex<News>, Condvar)>,
}

impl Watch {
    /// Starts to follow files and directories. A path that does not exist yet is followed too if its parent exists.
    pub fn new<P: AsRef<Path>>(paths: &[P]) -> Result<Watch, WatchError> {
        let interests: Vec<Interest> = paths.iter().map(|path| Interest::new(path.as_ref())).collect();
        let directories: BTreeSet<PathBuf> = interests.iter().map(|interest| interest.directory.clone()).collect();
        let news = Arc::new((Mutex::new(News::default()), Condvar::new()));
        let told = news.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            // An error (a lost event, say) may hide a change.
            let event = event.unwrap_or_default();
            if let Some(changed) = changed(&event, &interests) {
                told.0.lock().unwrap_or_else(PoisonError::into_inner).note(&event, changed, Instant::now());
                told.1.notify_all();
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(WatchError::Start)?;
        for directory in directories {
            watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .map_err(|source| WatchError::Directory { directory, source })?;
        }
        Ok(Watch { _watcher: watcher, news })
    }

    /// Waits until something may have changed and there is a pause, at most for `timeout` if nothing does. Changes since the
    /// last call count.
    pub fn wait(&self, timeout: Duration) -> Wait {
        let end = Instant::now() + timeout;
        let mut news = self.news.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (now, due) = (Instant::now(), news.due());
            if due.unwrap_or(end) <= now {
                return match std::mem::take(&mut *news).changed {
                    Some(changed) => Wait::Changed(changed),
                    None => Wait::Quiet,
                };
            }
            let time = due.unwrap_or(end) - now;
            news = self.news.1.wait_timeout(news, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What of a watched directory matters.
struct Interest {
    /// As it was given.
    path: PathBuf,
    directory: PathBuf,
    /// `None`: every manifest in it.
    name: Option<OsString>,
}

impl Interest {
    fn new(path: &Path) -> Interest {
        if path.is_dir() {
            return Interest { path: path.to_owned(), directory: path.to_owned(), name: None };
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        Interest { path: path.to_owned(), directory, name: path.file_name().map(OsString::from) }
    }

    fn changed(&self, path: &Path) -> Option<Changed> {
        if path == self.directory {
            return Some(Changed::Anything);
        }
        let name = path.file_name().filter(|_| path.parent() == Some(&self.directory))?;
        // The link that a ConfigMap mount swaps stands for every file of the mount.
        if name == "..data" {
            return Some(Changed::Anything);
        }
        let file = match &self.name {
            None => super::file::is_manifest(path).then(|| path.to_owned()),
            Some(own) => (own == name).then(|| self.path.clone()),
        };
        file.map(|file| Changed::Files(BTreeSet::from([file])))
    }
}

/// `None`: nothing that matters.
fn changed(event: &notify::Event, interests: &[Interest]) -> Option<Changed> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return None,
        _ => {}
    }
    // Without a path (a queue overflow) anything may have changed.
    if event.paths.is_empty() || event.need_rescan() {
        return Some(Changed::Anything);
    }
    let all = event.paths.iter().flat_map(|path| interests.iter().filter_map(|interest| interest.changed(path)));
    all.reduce(Changed::with)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink, time::Instant};

    use super::*;

    /// A directory of this test alone, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("meltemi-watch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const LONG: Duration = Duration::from_secs(10);

    /// Empties the channel: waits until nothing has come for a while.
    fn settle(watch: &Watch) {
        let end = Instant::now() + LONG;
        while watch.wait(Duration::from_millis(100)) != Wait::Quiet {
            assert!(Instant::now() < end, "changes without end");
        }
    }

    fn only(file: &Path) -> Wait {
        Wait::Changed(Changed::Files(BTreeSet::from([file.to_owned()])))
    }

    #[test]
    fn a_file_saved_by_rename_is_seen_every_time() {
        let scratch = Scratch::new("rename");
        let file = scratch.0.join("a.yaml");
        fs::write(&file, "a").unwrap();
        let watch = Watch::new(&[&file]).unwrap();
        for round in 0..3 {
            settle(&watch);
            let fresh = scratch.0.join("a.yaml.new");
            fs::write(&fresh, format!("{round}")).unwrap();
            fs::rename(&fresh, &file).unwrap();
            assert_eq!(watch.wait(LONG), only(&file), "round {round}");
        }
    }

    #[test]
    fn a_config_map_swap_is_seen_for_the_directory_and_for_a_file_in_it() {
        let scratch = Scratch::new("swap");
        for version in ["..1", "..2"] {
            fs::create_dir(scratch.0.join(version)).unwrap();
            fs::write(scratch.0.join(version).join("a.yaml"), version).unwrap();
        }
        symlink("..1", scratch.0.join("..data")).unwrap();
        symlink("..data/a.yaml", scratch.0.join("a.yaml")).unwrap();
        let directory = Watch::new(&[&scratch.0]).unwrap();
        let file = Watch::new(&[scratch.0.join("a.yaml")]).unwrap();
        settle(&directory);
        settle(&file);
        symlink("..2", scratch.0.join("..data_tmp")).unwrap();
        fs::rename(scratch.0.join("..data_tmp"), scratch.0.join("..data")).unwrap();
        assert_eq!(directory.wait(LONG), Wait::Changed(Changed::Anything));
        assert_eq!(file.wait(LONG), Wait::Changed(Changed::Anything));
        assert_eq!(fs::read_to_string(scratch.0.join("a.yaml")).unwrap(), "..2");
    }

    #[test]
    fn files_that_are_no_manifests_and_mere_reading_are_not_changes() {
        let scratch = Scratch::new("noise");
        fs::write(scratch.0.join("a.yaml"), "a").unwrap();
        let watch = Watch::new(&[&scratch.0]).unwrap();
        settle(&watch);
        fs::write(scratch.0.join(".a.yaml.swp"), "editor").unwrap();
        fs::write(scratch.0.join("notes.txt"), "notes").unwrap();
        fs::read(scratch.0.join("a.yaml")).unwrap();
        assert_eq!(watch.wait(Duration::from_millis(300)), Wait::Quiet);
        fs::remove_file(scratch.0.join("a.yaml")).unwrap();
        assert_eq!(watch.wait(LONG), only(&scratch.0.join("a.yaml")));
    }

    #[test]
    fn a_file_is_told_of_when_its_writer_is_done() {
        let scratch = Scratch::new("writer");
        let file = scratch.0.join("a.yaml");
        let watch = Watch::new(&[&scratch.0]).unwrap();
        let mut writer = fs::File::create(&file).unwrap();
        writer.write_all(b"a").unwrap();
        assert_eq!(watch.wait(PAUSE), only(&file), "a writer that goes on for ever does not hide it for ever");
        writer.write_all(b"b").unwrap();
        drop(writer);
        assert_eq!(watch.wait(LONG), only(&file));
        assert_eq!(watch.wait(Duration::from_millis(50)), Wait::Quiet);
    }

    #[test]
    fn a_pause_is_waited_for_and_longer_while_somebody_writes() {
        let (start, mut news) = (Instant::now(), News::default());
        let after = |time: u64| start + Duration::from_millis(time);
        let mut note = |kind: EventKind, time: u64| {
            let event = notify::Event::new(kind).add_path("d/a.yaml".into());
            news.note(&event, Changed::Files(BTreeSet::new()), after(time));
            news.due().unwrap() - start
        };
        let write = EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert_eq!(note(EventKind::Create(CreateKind::File), 0), WRITING);
        assert_eq!(note(write, 1), Duration::from_millis(1) + WRITING);
        assert_eq!(note(close, 3), Duration::from_millis(3) + PAUSE);
        assert_eq!(note(write, 199), MOST);
    }

    #[test]
    fn several_changed_files_are_told_at_once_by_the_names_they_are_read_by() {
        let scratch = Scratch::new("several");
        let [one, other] = ["a.yaml", "b.yaml"].map(|name| scratch.0.join(name));
        let watch = Watch::new(&[&scratch.0, &other]).unwrap();
        for file in [&one, &other] {
            fs::write(scratch.0.join("new"), "a").unwrap();
            fs::rename(scratch.0.join("new"), file).unwrap();
        }
        let mut told = BTreeSet::new();
        while told.len() < 2 {
            let Wait::Changed(Changed::Files(files)) = watch.wait(LONG) else { panic!("{told:?}") };
            told.extend(files);
        }
        assert_eq!(told, BTreeSet::from([one, other]));
    }

    #[test]
    fn a_directory_that_does_not_exist_cannot_be_followed() {
        let missing = std::env::temp_dir().join("meltemi-watch-missing/none/a.yaml");
        assert!(matches!(Watch::new(&[missing]), Err(WatchError::Directory { .. })));
    }
}
