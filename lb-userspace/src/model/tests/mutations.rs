//! Text damaged at random: an error or a finding, never a panic.

use super::*;

#[test]
fn random_mutations_of_the_examples_never_panic() {
    let texts: Vec<String> = ["tcp-echo", "mesh", "source-ip"].into_iter().map(example).collect();
    let words = [
        "\"",
        "---\n",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "null",
        "-1",
        "1e99",
        "99999999999",
        "*",
        "\t",
        "\n",
        "é",
        "|",
        "%",
        "!!int ",
        "<<: ",
    ];
    // A fixed xorshift: the same cases every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..1500 {
        let mut text: Vec<char> = texts[next(texts.len())].chars().collect();
        for _ in 0..=next(4) {
            let at = next(text.len());
            match next(4) {
                0 => drop(text.remove(at)),
                1 => drop(text.splice(at..at, words[next(words.len())].chars())),
                2 => text.truncate(at.max(1)),
                _ => {
                    let end = (at + next(60)).min(text.len());
                    let piece: Vec<char> = text[at..end].to_vec();
                    let to = next(text.len());
                    drop(text.splice(to..to, piece));
                }
            }
        }
        let text: String = text.into_iter().collect();
        let (_, findings) = meaning(&text);
        let lines = u32::try_from(text.split('\n').count()).unwrap();
        assert!(
            findings.iter().all(|finding| (1..=lines).contains(&finding.line) && finding.column > 0),
            "{findings:?}"
        );
    }
}
