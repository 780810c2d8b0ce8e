//! Many files, or one with many documents, read by all CPUs at once. The result is that of [`read`](super::read()), file by
//! file.

use std::{
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

/// Documents of one file that are read in one go.
struct Piece<'t> {
    file: usize,
    documents: Vec<(u32, &'t str)>,
}

/// Reads files by name and text.
pub fn read_all(files: &[(Arc<str>, String)]) -> Vec<FileSpecs> {
    let pieces: Vec<Piece<'_>> = files.iter().enumerate().flat_map(|(file, (_, text))| pieces(file, text)).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pieces.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(at) else { return done };
            done.push((at, read_documents(&files[piece.file].0, &piece.documents)));
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
    let mut all: Vec<FileSpecs> = files.iter().map(|(file, _)| unreadable(file)).collect();
    for (at, piece) in done {
        all[pieces[at].file].append(piece);
    }
    all
}

/// A file with anchors stays in one piece, so that what its aliases may expand to is bounded for the file as a whole.
fn pieces(file: usize, text: &str) -> Vec<Piece<'_>> {
    let documents = yaml::chunks(text);
    if text.contains('&') {
        return vec![Piece { file, documents }];
    }
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut room = 0;
    for (line, document) in documents {
        match pieces.last_mut().filter(|_| room > 0) {
            Some(piece) => piece.documents.push((line, document)),
            None => {
                pieces.push(Piece { file, documents: vec![(line, document)] });
                room = PIECE;
            }
        }
        room = room.saturating_sub(document.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::read;

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let object = |name: usize| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
            )
        };
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
        assert!(pieces(0, &files[0].1).len() > 3);
        let whole: Vec<FileSpecs> = files.iter().map(|(file, text)| read(file, text)).collect();
        assert_eq!(read_all(&files), whole);
        assert_eq!(whole[0].items.len(), 12);
    }
}
