use proptest::prelude::*;

use super::*;

fn all(parser: &mut RequestParser, seen: &mut Vec<Result<(Verb, Vec<u8>), FrameError>>) {
    loop {
        match parser.next_request() {
            Ok(Some(Request { verb, body })) => seen.push(Ok((verb, body.expose_secret().to_vec()))),
            Ok(None) => return,
            Err(error) => {
                if seen.last() != Some(&Err(error)) {
                    seen.push(Err(error));
                }
                return;
            }
        }
    }
}

/// What a parser yields when the stream arrives in pieces that end at `cuts`.
fn pieces(stream: &[u8], cuts: &[usize]) -> Vec<Result<(Verb, Vec<u8>), FrameError>> {
    let mut parser = RequestParser::new();
    let mut seen = Vec::new();
    let mut start = 0;
    for &cut in cuts.iter().chain([&stream.len()]) {
        parser.push(&stream[start..cut]);
        all(&mut parser, &mut seen);
        start = cut;
    }
    seen
}

fn get(body: &[u8]) -> Result<(Verb, Vec<u8>), FrameError> {
    Ok((Verb::Git(Operation::Get), body.to_vec()))
}

#[test]
fn a_request_is_read_back_as_it_was_written() {
    for text in [&b"protocol=https\nhost=a\n"[..], b"protocol=https\nhost=a", b""] {
        for operation in [Operation::Erase, Operation::Get, Operation::Store] {
            let mut stream = Wiped::default();
            write_request(operation, text, &mut stream);
            let mut parser = RequestParser::new();
            parser.push(stream.expose_secret());
            let request = parser.next_request().unwrap().unwrap();
            assert_eq!(request.verb, Verb::Git(operation));
            assert_eq!(request.body.expose_secret(), if text.is_empty() { b"" } else { &b"protocol=https\nhost=a\n"[..] });
            assert!(parser.is_idle());
        }
    }
}

#[test]
fn requests_may_follow_each_other_on_a_connection() {
    let seen = pieces(b"scm-agent/1 get\na=b\n\nscm-agent/1 status\n\nscm-agent/1 get\r", &[]);
    assert_eq!(seen, [get(b"a=b\n"), Ok((Verb::Other("status".into()), Vec::new()))]);
}

#[test]
fn a_blank_line_may_end_with_crlf() {
    assert_eq!(pieces(b"scm-agent/1 get\na=b\r\n\r\n", &[]), [get(b"a=b\r\n")]);
}

#[test]
fn a_request_that_has_begun_is_not_idle() {
    let mut parser = RequestParser::new();
    assert!(parser.is_idle());
    parser.push(b"scm-agent/1 get\na=b\n");
    assert!(parser.next_request().unwrap().is_none());
    assert!(!parser.is_idle());
}

#[test]
fn a_wrong_first_line_is_refused() {
    let long = format!("scm-agent/1 {}\n\n", "a".repeat(MAX_VERB_BYTES + 1));
    let table: &[(&[u8], FrameError)] = &[
        (b"\n\n", FrameError::Version),
        (b"get\n\n", FrameError::Version),
        (b"scm-agent/2 get\n\n", FrameError::Version),
        (b"scm-agent/1\n\n", FrameError::Version),
        (b"scm-agent/10 get\n\n", FrameError::Version),
        (b"scm-agent/1get\n\n", FrameError::Version),
        (b"SCM-AGENT/1 get\n\n", FrameError::Version),
        (b" scm-agent/1 get\n\n", FrameError::Version),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", FrameError::Version),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", FrameError::Version),
        (b"scm-agent/1 \n\n", FrameError::Verb),
        (b"scm-agent/1  get\n\n", FrameError::Verb),
        (b"scm-agent/1 get \n\n", FrameError::Verb),
        (b"scm-agent/1 get\r\n\r\n", FrameError::Verb),
        (b"scm-agent/1 GET\n\n", FrameError::Verb),
        (b"scm-agent/1 get\0\n\n", FrameError::Verb),
        (b"scm-agent/1 ge\xff\n\n", FrameError::Verb),
        (b"scm-agent/1 ../x\n\n", FrameError::Verb),
        (long.as_bytes(), FrameError::Verb),
    ];
    for (stream, error) in table {
        assert_eq!(pieces(stream, &[]), [Err(*error)], "{}", stream.escape_ascii());
    }
}

#[test]
fn an_endless_first_line_is_refused_before_it_ends() {
    assert_eq!(pieces(&[b'x'; MAX_HEAD_BYTES + 1], &[]), [Err(FrameError::Version)]);
    assert_eq!(pieces(&[b'x'; MAX_HEAD_BYTES], &[]), []);
}

#[test]
fn a_verb_may_be_as_long_as_promised() {
    let name = "a".repeat(MAX_VERB_BYTES);
    let stream = format!("scm-agent/1 {name}\n\n");
    assert_eq!(pieces(stream.as_bytes(), &[]), [Ok((Verb::Other(name), Vec::new()))]);
}

#[test]
fn nothing_follows_an_error() {
    let mut parser = RequestParser::new();
    parser.push(b"bad\n\n");
    assert_eq!(parser.next_request().unwrap_err(), FrameError::Version);
    parser.push(b"scm-agent/1 get\na=b\n\n");
    assert_eq!(parser.next_request().unwrap_err(), FrameError::Version);
}

/// A request whose body has `size` bytes in lines of `line` bytes.
fn sized(size: usize, line: usize, end: &[u8]) -> Vec<u8> {
    let mut stream = b"scm-agent/1 get\n".to_vec();
    for at in 1..=size {
        stream.push(if at % line == 0 || at == size { b'\n' } else { b'a' });
    }
    stream.extend_from_slice(end);
    stream
}

#[test]
fn a_request_of_the_greatest_size_passes_and_one_byte_more_does_not() {
    for end in [&b"\n"[..], b"\r\n"] {
        let seen = pieces(&sized(MAX_REQUEST_BYTES, 1_000, end), &[]);
        assert!(seen[0].as_ref().is_ok_and(|(_, body)| body.len() == MAX_REQUEST_BYTES));
        assert_eq!(pieces(&sized(MAX_REQUEST_BYTES + 1, 1_000, end), &[]), [Err(FrameError::TooLarge)]);
        let seen = pieces(&sized(MAX_LINE_BYTES, MAX_LINE_BYTES, end), &[]);
        assert!(seen[0].as_ref().is_ok_and(|(_, body)| body.len() == MAX_LINE_BYTES));
        assert_eq!(pieces(&sized(MAX_LINE_BYTES + 1, MAX_LINE_BYTES + 1, end), &[]), [Err(FrameError::TooLarge)]);
    }
}

#[test]
fn a_body_without_end_is_refused_early() {
    let mut parser = RequestParser::new();
    parser.push(b"scm-agent/1 get\n");
    let mut pushed = 0;
    while parser.next_request().is_ok() {
        parser.push(&[b'a'; 512]);
        pushed += 512;
        assert!(pushed <= MAX_REQUEST_BYTES + 512);
    }
    assert!(parser.is_idle(), "nothing is kept after an error");
}

#[test]
fn a_large_request_gives_the_same_result_wherever_it_is_cut() {
    for size in [MAX_REQUEST_BYTES - 1, MAX_REQUEST_BYTES, MAX_REQUEST_BYTES + 1, MAX_REQUEST_BYTES + 2] {
        for end in [&b"\n"[..], b"\r\n"] {
            let stream = sized(size, 1_000, end);
            let whole = pieces(&stream, &[]);
            for cut in stream.len() - 6..stream.len() {
                assert_eq!(pieces(&stream, &[cut]), whole, "{size} {cut}");
            }
            let tail: Vec<usize> = (stream.len() - 6..stream.len()).collect();
            assert_eq!(pieces(&stream, &tail), whole, "{size}");
        }
    }
}

#[test]
fn git_s_text_ends_before_its_blank_line_however_it_arrives() {
    for (text, end) in [
        (&b""[..], None),
        (b"\n", Some(0)),
        (b"\r\n", Some(0)),
        (b"\r", None),
        (b"a=b\n", None),
        (b"a=b\n\r", None),
        (b"a=b\n\nc", Some(4)),
        (b"a=b\r\n\r\nc", Some(5)),
        (b"a=b\nc=d\n\r\n\n", Some(8)),
    ] {
        assert_eq!(text_end(text, 0), end, "{}", text.escape_ascii());
        let step = (1..=text.len()).find_map(|length| text_end(&text[..length], length - 1));
        assert_eq!(step, end, "{} byte by byte", text.escape_ascii());
    }
}

#[test]
fn messages_are_one_printable_line() {
    let mut out = Vec::new();
    write_message("a\nhost=evil\r\0\u{1b}[2J\u{9b}é", &mut out);
    assert_eq!(out, "message=a host=evil   [2J é\n".as_bytes());
    let mut out = Vec::new();
    write_error(&"é".repeat(MAX_MESSAGE_BYTES), &mut out);
    assert_eq!(out, format!("error={}\n\n", "é".repeat(MAX_MESSAGE_BYTES / 2)).as_bytes());
}

proptest! {
    #[test]
    fn a_stream_gives_the_same_requests_wherever_it_is_cut(
        parts in proptest::collection::vec(
            prop_oneof![
                Just(&b"scm-agent/1 get\n"[..]), Just(&b"scm-agent/1 status\n"[..]), Just(&b"scm-agent/"[..]), Just(&b"\n"[..]),
                Just(&b"\r\n"[..]), Just(&b"host=a\n"[..]), Just(&b"key"[..]), Just(&b"\r"[..]), Just(&b"\0"[..])
            ],
            0..12,
        ),
        cuts in proptest::collection::vec(0_usize..200, 0..8),
    ) {
        let stream = parts.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.sort_unstable();
        let whole = pieces(&stream, &[]);
        prop_assert_eq!(pieces(&stream, &cuts), whole.clone());
        prop_assert_eq!(pieces(&stream, &(0..stream.len()).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0_usize..400) {
        let cut = cut.min(bytes.len());
        prop_assert_eq!(pieces(&bytes, &[cut]), pieces(&bytes, &[]));
    }
}
