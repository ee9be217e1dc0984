use proptest::prelude::*;

use super::*;

const BODY: &str = "[credential \"https://a.test\"]\n\thelper =\n\thelper = scm-agent\n[credential \"https://b.test\"]\n\thelper =\n\thelper = scm-agent\n\tuseHttpPath = true\n";

fn set_up(content: &[u8]) -> Vec<u8> {
    with_at_end(content, BODY, None)
}

fn parts(content: &[u8]) -> Parts {
    take_apart(content).unwrap().unwrap()
}

#[test]
fn a_file_comes_back_byte_for_byte() {
    for content in
        ["", "[a]\n\tb = c\n", "[a]\n\tb = c", "\u{feff}", "\u{feff}[a]\r\n\tb = c\r\n", "[a]\r\n\tb = c", "[a]\r", "[a]\n\r", "\r", "\n\n"]
    {
        let with = set_up(content.as_bytes());
        let parts = parts(&with);
        assert_eq!(parts.edits, Edits::None);
        assert_eq!(without(&parts), content.as_bytes(), "{content:?}");
        assert_eq!(in_place(&parts, BODY), with, "{content:?}");
        assert_eq!(with_at_end(&without(&parts), BODY, None), with, "{content:?}");
    }
}

#[test]
fn line_ends_are_those_of_the_file() {
    let with = String::from_utf8(set_up(b"[a]\r\n\tb = c\r\n")).unwrap();
    assert_eq!(with.matches('\n').count(), with.matches("\r\n").count());
    assert!(!String::from_utf8(set_up(b"[a]\n\tb = c\n")).unwrap().contains('\r'));
}

#[test]
fn what_came_after_ours_stays_and_so_does_the_line_end_before_it() {
    let mut with = set_up(b"[a]\n\tb = c");
    with.extend_from_slice(b"[x]\n\ty = z\n");
    assert_eq!(without(&parts(&with)), b"[a]\n\tb = c\n[x]\n\ty = z\n");
}

#[test]
fn the_first_mark_says_what_was_there_before() {
    let with = with_at_end(b"", BODY, Some(2));
    assert_eq!(parts(&with).before, Before { line_end_added: 0, made: Some(2) });
    assert_eq!(parts(&in_place(&parts(&with), "")).before.made, Some(2));
}

#[test]
fn lines_that_git_added_move_to_a_section_of_their_own() {
    let with = String::from_utf8(set_up(b"[a]\n")).unwrap();
    let edited = with.replacen("\thelper = scm-agent\n", "\thelper = scm-agent\n\tusername = bob\n\t# mine\n", 1);
    let edited = edited.replace("\tuseHttpPath = true\n", "\tuseHttpPath = true\n[user]\n\tname = x\n");
    let parts = parts(edited.as_bytes());
    let added = "[credential \"https://a.test\"]\n\tusername = bob\n\t# mine\n[user]\n\tname = x\n";
    assert_eq!(parts.edits, Edits::Added(added.as_bytes().to_vec()));
    assert_eq!(without(&parts), format!("[a]\n{added}").as_bytes());
    assert_eq!(in_place(&parts, BODY), format!("{with}{added}").as_bytes());
}

#[test]
fn changed_lines_are_noticed() {
    let with = String::from_utf8(set_up(b"")).unwrap();
    for (from, to) in [
        ("\thelper =\n", ""),
        ("helper = scm-agent", "helper = store"),
        ("useHttpPath = true", "useHttpPath = false"),
        ("https://a.test", "https://c.test"),
        ("# Written", "\tstray = 1\n# Written"),
        ("# END scm-agent\n", "# END scm-agent\n# x\n\tstray = 1\n"),
        ("\thelper =\n\thelper = scm-agent\n[", "\thelper = scm-agent\n\thelper =\n["),
    ] {
        assert!(with.contains(from), "{from}");
        assert_eq!(parts(with.replacen(from, to, 1).as_bytes()).edits, Edits::Changed, "{from}");
    }
}

#[test]
fn marks_that_are_no_pair_are_named() {
    let with = String::from_utf8(set_up(b"[a]\n")).unwrap();
    assert_eq!(take_apart(b"[a]\n\tb = \"# BEGIN scm-agent\"\n# BEGIN scm-agents\n"), Ok(None));
    assert_eq!(take_apart(with.replace("# END scm-agent\n", "").as_bytes()), Err(BlockError::Unclosed { line: 2 }));
    assert_eq!(take_apart(with.replace("# BEGIN", "# BEGUN").as_bytes()), Err(BlockError::NotBegun { line: 11 }));
    assert_eq!(take_apart(format!("{with}{with}").as_bytes()), Err(BlockError::Several { line: 13 }));
    assert_eq!(take_apart(with.replace("# Written", "# BEGIN scm-agent\n#").as_bytes()), Err(BlockError::Unclosed { line: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_come_back(content in proptest::collection::vec(proptest::sample::select(b"a[]=\"\\\n\r\t #;\xef\xbb\xbf\0".to_vec()), 0..60)) {
        let with = set_up(&content);
        let parts = parts(&with);
        prop_assert_eq!(without(&parts), content);
        prop_assert_eq!(in_place(&parts, BODY), with);
    }

    #[test]
    fn what_follows_comes_back_too(head in "[a-z\\[\\]\n\r=]{0,20}", tail in "(\\[[a-z]{1,5}\\]\r?\n(\t[a-z] = [a-z]\r?\n)?){0,3}") {
        let mut with = set_up(head.as_bytes());
        with.extend_from_slice(tail.as_bytes());
        let parts = parts(&with);
        let joined = if tail.is_empty() || head.is_empty() || head.ends_with('\n') {
            format!("{head}{tail}")
        } else {
            format!("{}{tail}", String::from_utf8_lossy(&parts.head))
        };
        prop_assert_eq!(without(&parts), joined.as_bytes());
    }
}
