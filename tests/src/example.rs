//! A copy of an example's manifests that a test may edit while an agent watches it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// The directory of a copy.
#[derive(Clone, Debug)]
pub struct Example {
    dir: PathBuf,
}

impl Example {
    /// Copies `manifests/examples/NAME` into a new directory `config` under `into`.
    ///
    /// # Errors
    /// When there is no such example.
    pub fn copy(name: &str, into: &Path) -> Result<Example> {
        let from = root().join("manifests/examples").join(name);
        let dir = into.join("config");
        fs::create_dir_all(&dir)?;
        let mut copied = 0;
        for file in fs::read_dir(&from).with_context(|| format!("no example {}", from.display()))? {
            let file = file?.path();
            if is_manifest(&file) {
                fs::copy(&file, dir.join(file.file_name().unwrap_or_default()))?;
                copied += 1;
            }
        }
        ensure!(copied > 0, "{} has no manifests", from.display());
        Ok(Example { dir })
    }

    /// A new example from texts: (file name, YAML).
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(files: &[(&str, &str)], into: &Path) -> Result<Example> {
        let example = Example { dir: into.join("config") };
        fs::create_dir_all(&example.dir)?;
        for (name, text) in files {
            example.replace(name, text)?;
        }
        Ok(example)
    }

    /// For `--config`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The text of one file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.dir.join(name)).with_context(|| format!("no {name} in the example"))
    }

    /// Replaces one file as editors do: a new file is renamed over the old one, so no reader sees half of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let new = self.dir.join(format!(".{name}.new"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.dir.join(name))?)
    }

    /// Changes one file by a function of its text.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn edit(&self, name: &str, change: impl FnOnce(String) -> String) -> Result<()> {
        self.replace(name, &change(self.read(name)?))
    }

    /// Names of the files, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let path = file?.path();
            if is_manifest(&path) {
                names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether a file contains the words.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn mentions(&self, words: &str) -> Result<bool> {
        for name in self.files()? {
            if self.read(&name)?.contains(words) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The weights as written, in the order of the files and lines.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn weights(&self) -> Result<Vec<u64>> {
        let mut weights = Vec::new();
        for name in self.files()? {
            weights.extend(self.read(&name)?.lines().filter_map(|line| Some(weight_line(line)?.1)));
        }
        Ok(weights)
    }

    /// Gives every written weight a new value: the first gets the first of `values`, and so on.
    ///
    /// # Errors
    /// When there are not as many weights as values, or they are not all in one file.
    pub fn set_weights(&self, values: &[u64]) -> Result<()> {
        for name in self.files()? {
            let text = self.read(&name)?;
            let count = text.lines().filter(|line| weight_line(line).is_some()).count();
            if count == 0 {
                continue;
            }
            ensure!(count == values.len(), "{name} has {count} weights, not {}", values.len());
            let mut next = values.iter();
            let lines = text.lines().map(|line| match weight_line(line).zip(next.as_slice().first()) {
                Some(((before, _), value)) => {
                    next.next();
                    format!("{before}{value}")
                }
                None => line.to_owned(),
            });
            let text = lines.map(|line| line + "\n").collect::<String>();
            return self.replace(&name, &text);
        }
        bail!("no weights in the example")
    }
}

/// The workspace's root.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden
        && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// A line `weight: N` as (everything before the number, N).
fn weight_line(line: &str) -> Option<(&str, u64)> {
    let key = line.trim_start().trim_start_matches("- ").trim_start();
    let value = key.strip_prefix("weight:")?.trim_start();
    let number = value.split('#').next()?.trim_end().parse().ok()?;
    Some((&line[..line.len() - value.len()], number))
}

#[cfg(test)]
mod tests {
    use super::weight_line;

    #[test]
    fn weights_are_found_by_line() {
        assert_eq!(weight_line("      weight: 20"), Some(("      weight: ", 20)));
        assert_eq!(weight_line("    - weight: 80 # new"), Some(("    - weight: ", 80)));
        assert_eq!(weight_line("    weightless: 1"), None);
        assert_eq!(weight_line("    weight:"), None);
    }
}
