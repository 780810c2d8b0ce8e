//! Tells when files may have changed. Says neither what changed nor how: read everything again.
//!
//! Directories are watched, never files: an editor saves by renaming a new file over the old one, and a ConfigMap mount
//! swaps the `..data` link, and a watch on the file itself would stay with the old one.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;

/// Why changes cannot be followed.
#[derive(Debug, Error)]
pub enum WatchError {
    #[error("cannot follow changes of files: {0}")]
    Start(#[source] notify::Error),
    #[error("cannot follow changes in {}: {source}", directory.display())]
    Directory { directory: PathBuf, source: notify::Error },
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something may have changed.
    Changed,
    /// Nothing happened within the time.
    Quiet,
}

/// Follows changes of some paths for as long as it lives.
pub struct Watch {
    _watcher: RecommendedWatcher,
    changes: Receiver<()>,
}

impl Watch {
    /// Starts to follow files and directories. A path that does not exist yet is followed too if its parent exists.
    pub fn new<P: AsRef<Path>>(paths: &[P]) -> Result<Watch, WatchError> {
        let interests: Vec<Interest> = paths.iter().map(|path| Interest::new(path.as_ref())).collect();
        let directories: BTreeSet<PathBuf> = interests.iter().map(|interest| interest.directory.clone()).collect();
        let (sender, changes) = mpsc::sync_channel(1);
        let handler = move |event: notify::Result<notify::Event>| {
            // An error (a lost event, say) may hide a change.
            let changed = event.map_or(true, |event| concerns(&event, &interests));
            if changed {
                // A full channel already says what this one would.
                let _ = sender.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(WatchError::Start)?;
        for directory in directories {
            watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .map_err(|source| WatchError::Directory { directory, source })?;
        }
        Ok(Watch { _watcher: watcher, changes })
    }

    /// Waits until something may have changed, at most for `timeout`. Changes since the last call count.
    pub fn wait(&self, timeout: Duration) -> Wait {
        match self.changes.recv_timeout(timeout) {
            Ok(()) => Wait::Changed,
            // The sender lives in the watcher, which lives as long as this.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Wait::Quiet,
        }
    }
}

/// What of a watched directory matters.
struct Interest {
    directory: PathBuf,
    /// `None`: every manifest in it.
    name: Option<OsString>,
}

impl Interest {
    fn new(path: &Path) -> Interest {
        if path.is_dir() {
            return Interest { directory: path.to_owned(), name: None };
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        Interest { directory, name: path.file_name().map(OsString::from) }
    }

    fn concerns(&self, path: &Path) -> bool {
        if path == self.directory {
            return true;
        }
        let Some(name) = path.file_name().filter(|_| path.parent() == Some(&self.directory)) else {
            return false;
        };
        // The link that a ConfigMap mount swaps stands for every file of the mount.
        let swapped = name == "..data";
        swapped || self.name.as_deref().map_or_else(|| super::file::is_manifest(path), |own| own == name)
    }
}

fn concerns(event: &notify::Event, interests: &[Interest]) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    // Without a path (a queue overflow) anything may have changed.
    event.paths.is_empty() || event.paths.iter().any(|path| interests.iter().any(|interest| interest.concerns(path)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Instant};

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
        while watch.wait(Duration::from_millis(100)) == Wait::Changed {
            assert!(Instant::now() < end, "changes without end");
        }
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
            assert_eq!(watch.wait(LONG), Wait::Changed, "round {round}");
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
        assert_eq!(directory.wait(LONG), Wait::Changed);
        assert_eq!(file.wait(LONG), Wait::Changed);
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
        assert_eq!(watch.wait(LONG), Wait::Changed);
    }

    #[test]
    fn a_directory_that_does_not_exist_cannot_be_followed() {
        let missing = std::env::temp_dir().join("meltemi-watch-missing/none/a.yaml");
        assert!(matches!(Watch::new(&[missing]), Err(WatchError::Directory { .. })));
    }
}
