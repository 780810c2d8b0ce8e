//! Many files, or one with many documents, read by all CPUs at once; of a file that was read before, only the documents that
//! changed. The result is that of [`read`](super::read()), file by file.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    read::{FileSpecs, read_documents, unreadable},
    yaml,
};

/// Bytes of text that are worth a turn of a thread.
const PIECE: usize = 64 << 10;

/// What a file's text says, and what it takes to read it again where only some of it changed.
#[derive(Debug)]
pub struct Reading {
    pub specs: Arc<FileSpecs>,
    pub text: String,
    /// In their order; empty where the file can be read as a whole only.
    documents: Vec<Document>,
}

/// A document's place in the text, and its share of what the file says.
#[derive(Debug)]
struct Document {
    /// Number of its first line, less one.
    line: u32,
    text: Range<usize>,
    items: usize,
    findings: usize,
    incomplete: bool,
    kinds: Box<[(Box<str>, usize)]>,
}

/// A file to be read, with what is known of it from before.
pub struct Source<'r> {
    pub file: Arc<str>,
    pub text: String,
    pub former: Option<&'r Reading>,
}

/// Documents of one file that are read in one go.
struct Piece<'t> {
    file: usize,
    documents: Vec<(u32, &'t str)>,
    /// Read together: what the aliases of a file may expand to is bounded for the file as a whole.
    together: bool,
}

impl Piece<'_> {
    fn read(&self, file: &Arc<str>) -> Vec<FileSpecs> {
        match self.together {
            true => vec![read_documents(file, &self.documents)],
            false => self.documents.iter().map(|one| read_documents(file, std::slice::from_ref(one))).collect(),
        }
    }
}

/// Reads files.
pub fn read_all(sources: Vec<Source<'_>>) -> Vec<Reading> {
    let cuts: Vec<Cut<'_>> = sources.iter().map(Cut::new).collect();
    let pieces: Vec<Piece<'_>> = cuts.iter().enumerate().flat_map(|(file, cut)| cut.pieces(file)).collect();
    let mut fresh: Vec<Vec<FileSpecs>> = sources.iter().map(|_| Vec::new()).collect();
    for (piece, read) in pieces.iter().zip(read_pieces(&sources, &pieces)) {
        fresh[piece.file].extend(read);
    }
    let built: Vec<_> = cuts.into_iter().zip(fresh).map(|(cut, fresh)| cut.build(fresh)).collect();
    let readings = sources.into_iter().zip(built);
    readings.map(|(source, (specs, documents))| Reading { specs: specs.into(), text: source.text, documents }).collect()
}

/// All pieces, in their order.
fn read_pieces(sources: &[Source<'_>], pieces: &[Piece<'_>]) -> Vec<Vec<FileSpecs>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pieces.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(at) else { return done };
            done.push((at, piece.read(&sources[piece.file].file)));
        }
    };
    let mut done = match threads {
        0 | 1 => work(),
        _ => thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for other in others {
                match other.join() {
                    Ok(more) => done.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        }),
    };
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, read)| read).collect()
}

/// A file's text in documents.
struct Cut<'t> {
    source: &'t Source<'t>,
    /// With the position of the former document that said the same on the same lines.
    documents: Vec<((u32, &'t str), Option<usize>)>,
    together: bool,
}

impl<'t> Cut<'t> {
    fn new(source: &'t Source<'t>) -> Cut<'t> {
        let together = source.text.contains('&');
        let known = |(line, text): (u32, &str)| {
            let former = source.former.filter(|_| !together)?;
            let at = former.documents.binary_search_by_key(&line, |document| document.line).ok()?;
            (former.text[former.documents[at].text.clone()] == *text).then_some(at)
        };
        let documents = yaml::chunks(&source.text).into_iter().map(|chunk| (chunk, known(chunk))).collect();
        Cut { source, documents, together }
    }

    /// What is to be read.
    fn pieces(&self, file: usize) -> Vec<Piece<'t>> {
        let mut fresh = self.documents.iter().filter(|(_, known)| known.is_none()).map(|(chunk, _)| *chunk);
        if self.together {
            return vec![Piece { file, documents: fresh.collect(), together: true }];
        }
        let mut pieces: Vec<Piece<'t>> = Vec::new();
        let mut room = 0;
        for (line, document) in fresh.by_ref() {
            match pieces.last_mut().filter(|_| room > 0) {
                Some(piece) => piece.documents.push((line, document)),
                None => {
                    pieces.push(Piece { file, documents: vec![(line, document)], together: false });
                    room = PIECE;
                }
            }
            room = room.saturating_sub(document.len());
        }
        pieces
    }

    /// Puts together what was read now and what is known.
    fn build(self, fresh: Vec<FileSpecs>) -> (FileSpecs, Vec<Document>) {
        let mut specs = unreadable(&self.source.file);
        let mut fresh = fresh.into_iter();
        if self.together {
            fresh.for_each(|read| specs.append(read));
            return (specs, Vec::new());
        }
        let former = self.source.former.map(Shares::new);
        let start = self.source.text.as_ptr() as usize;
        let mut documents = Vec::with_capacity(self.documents.len());
        for ((line, text), known) in self.documents {
            let read = match (known, &former) {
                (Some(at), Some(former)) => former.of(at),
                _ => fresh.next().unwrap_or_else(|| unreadable(&self.source.file)),
            };
            let at = text.as_ptr() as usize - start;
            documents.push(Document {
                line,
                text: at..at + text.len(),
                items: read.items.len(),
                findings: read.findings.len(),
                incomplete: read.incomplete,
                kinds: read.kinds.iter().map(|(kind, count)| (kind.as_str().into(), *count)).collect(),
            });
            specs.append(read);
        }
        specs.items.shrink_to_fit();
        (specs, documents)
    }
}

/// The documents of a former reading, by where their items and findings begin.
struct Shares<'r> {
    reading: &'r Reading,
    starts: Vec<(usize, usize)>,
}

impl<'r> Shares<'r> {
    fn new(reading: &'r Reading) -> Shares<'r> {
        let mut next = (0, 0);
        let begin = |document: &Document| {
            let start = next;
            next = (next.0 + document.items, next.1 + document.findings);
            start
        };
        Shares { reading, starts: reading.documents.iter().map(begin).collect() }
    }

    /// What a document said.
    fn of(&self, at: usize) -> FileSpecs {
        let (document, (item, finding)) = (&self.reading.documents[at], self.starts[at]);
        let specs = &self.reading.specs;
        FileSpecs {
            file: specs.file.clone(),
            items: specs.items[item..item + document.items].to_vec(),
            incomplete: document.incomplete,
            kinds: document.kinds.iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
            findings: specs.findings[finding..finding + document.findings].to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::read;

    fn source(file: &str, text: &str) -> Source<'static> {
        Source { file: file.into(), text: text.into(), former: None }
    }

    fn object(name: usize) -> String {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let pad = format!("# {}\n", "x".repeat(PIECE / 3));
        let large: String = (0..12).map(|name| object(name) + &pad).collect();
        let broken = format!("{}---\na: [\n{}kind: Nothing\n", object(1), object(2));
        let texts = [
            large,
            broken,
            String::new(),
            format!("{}---\na: &a [x]\nb: *a\n", object(3)),
            "\u{feff}---\nkind: A\n".into(),
        ];
        let files: Vec<(Arc<str>, String)> =
            (0..).zip(texts).map(|(at, text)| (format!("{at}.yaml").into(), text)).collect();
        assert!(Cut::new(&source("0.yaml", &files[0].1)).pieces(0).len() > 3);
        let whole: Vec<FileSpecs> = files.iter().map(|(file, text)| read(file, text)).collect();
        let readings = read_all(files.iter().map(|(file, text)| source(file, text)).collect());
        assert!(readings.iter().map(|reading| &*reading.specs).eq(&whole));
        assert_eq!(whole[0].items.len(), 12);
    }

    /// A document in one of several ways: sound, with a warning, broken, no YAML, of another kind, a list, an anchor.
    fn document(number: usize, way: u8) -> String {
        match way {
            0..=3 => object(number + 10 * usize::from(way)),
            4 => object(number).replace("port: 80", "port: 0"),
            5 => format!(
                "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g{number}}}\nspce: 1\nspec: {{servers: []}}\n"
            ),
            6 => "---\na: [\n".into(),
            7 => format!("---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d{number}}}\n"),
            8 => format!(
                "---\napiVersion: v1\nkind: List\nitems: [{{apiVersion: v1, kind: Namespace, metadata: {{name: n{number}}}}}, {{kind: A}}]\n"
            ),
            9 => format!("{}# on one more line\n", object(number)),
            _ => format!("---\na: &a [{number}]\nb: *a\n"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_again_is_what_is_read_anew(versions in proptest::collection::vec(proptest::collection::vec(0u8..11, 0..8), 1..6)) {
            let mut former: Option<Reading> = None;
            for version in versions {
                let text: String = version.iter().enumerate().map(|(number, way)| document(number, *way)).collect();
                let file: Arc<str> = "a.yaml".into();
                let source = Source { file: file.clone(), text: text.clone(), former: former.as_ref() };
                let again = read_all(vec![source]).remove(0);
                prop_assert_eq!(&*again.specs, &read(&file, &text));
                former = Some(again);
            }
        }
    }

    #[test]
    fn an_object_that_did_not_change_stays_the_same_one() {
        let text = |port: &str| format!("{}{}{}", object(1), object(2).replace("80", port), object(3));
        let before = read_all(vec![source("a.yaml", &text("80"))]).remove(0);
        let after = read_all(vec![Source { former: Some(&before), ..source("a.yaml", &text("81")) }]).remove(0);
        let shared = |at: usize| match (&before.specs.items[at].outcome, &after.specs.items[at].outcome) {
            (super::super::Outcome::Valid(one), super::super::Outcome::Valid(other)) => one.is_same(other),
            _ => false,
        };
        assert_eq!([0, 1, 2].map(shared), [true, false, true]);
    }
}
