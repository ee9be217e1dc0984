//! One file for each way to be wrong, with the sentences that it must give in its own comments.

use std::fs;
use std::path::Path;

use super::Folder;

#[test]
fn each_broken_file_gives_exactly_the_sentences_it_expects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/broken");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 80, "only {} fixtures", paths.len());
    let mut wrong = String::new();
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let folder = Folder::new("");
        folder.write("config.toml", &bytes);
        let problems = folder.problems(&[]);
        if problems != expected {
            wrong.push_str(&format!("{}\n  expected {expected:#?}\n  got {problems:#?}\n", path.display()));
        }
        let shown = format!("{0} {0:?}", folder.load(&[]).unwrap_err());
        for secret in ["canary", "7777"] {
            assert!(!shown.to_lowercase().contains(secret), "{}: a value is in {shown}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
