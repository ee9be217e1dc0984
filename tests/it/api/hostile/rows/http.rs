//! Below the body: lengths, encodings, heads, statuses, and time.

use std::time::Duration;

use super::*;

/// All of these.
pub fn all() -> Vec<Row> {
    [lengths(), encodings(), heads(), statuses(), waits()].concat()
}

/// Bodies whose length is not what it is said to be.
fn lengths() -> Vec<Row> {
    let list = page(&json!({ "id": id(2), "host": "two.example" }).to_string());
    let blanks = [CANARY.as_bytes(), &[b' '; 65_536]].concat();
    let flood = |head: &str, piece: Vec<u8>| Play::Flood(format!("{OK}{head}\r\n").into_bytes(), piece);
    let chunk = [format!("{:x}\r\n", blanks.len()).as_bytes(), &blanks, b"\r\n"].concat();
    let small_chunks = format!("40\r\n{}\r\n", " ".repeat(64)).repeat(1_000).into_bytes();
    let chunked = |body: &str| raw("transfer-encoding: chunked\r\n", body);
    let with_length = |length: &str| raw(&format!("content-length: {length}\r\n"), &list);
    let right = list.len();
    let mut rows = vec![
        Row::new("10 GiB announced", flood("content-length: 10737418240\r\n", blanks.clone()), TOO_LONG),
        Row::new("10 GiB announced, nothing sent", with_length("10737418240"), TOO_LONG),
        Row::new("chunks without an end", flood("transfer-encoding: chunked\r\n", chunk), TOO_LONG),
        Row::new("small chunks without an end", flood("transfer-encoding: chunked\r\n", small_chunks), TOO_LONG),
        Row::new("bytes without an end", flood("connection: close\r\n", blanks), TOO_LONG),
        Row::new("length one too small", with_length(&(right - 1).to_string()), NO_JSON),
        Row::new("length zero", with_length("0"), NO_JSON),
        Row::new("length one too large", with_length(&(right + 1).to_string()), BROKEN),
        Row::new("length twice, the same", with_length(&format!("{right}\r\ncontent-length: {right}")), Expected::List(2, vec![])),
        Row::new("length twice, another", with_length(&format!("{right}\r\ncontent-length: 2")), BROKEN),
        Row::new("length as a list", with_length(&format!("{right}, 2")), BROKEN),
        Row::new(
            "a second reply behind the first",
            raw(&format!("content-length: {right}\r\n"), format!("{list}{OK}\r\n{{}}")),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "length and chunks",
            raw(&format!("content-length: {right}\r\ntransfer-encoding: chunked\r\n"), format!("{right:x}\r\n{list}\r\n0\r\n\r\n")),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "length and chunks that are none",
            raw(&format!("content-length: {right}\r\ntransfer-encoding: chunked\r\n"), &list),
            BROKEN,
        ),
        Row::new(
            "chunks, twice",
            raw("transfer-encoding: chunked, chunked\r\n", format!("{right:x}\r\n{list}\r\n0\r\n\r\n")),
            Expected::List(2, vec![]),
        ),
        Row::new("chunks that stop", chunked(&format!("{right:x}\r\n{list}\r\n")), BROKEN),
        Row::new("a chunk too short", chunked(&format!("{:x}\r\n{list}\r\n0\r\n\r\n", right - 1)), BROKEN),
        Row::new("a chunk too long", chunked(&format!("{:x}\r\n{list}\r\n0\r\n\r\n", right + 7)), BROKEN),
        Row::new("a huge chunk extension", chunked(&format!("{right:x};{}\r\n{list}\r\n0\r\n\r\n", "x".repeat(1_000_000))), BROKEN),
        Row::new("a huge trailer", chunked(&format!("{right:x}\r\n{list}\r\n0\r\nx: {}\r\n\r\n", "x".repeat(1_000_000))), BROKEN),
    ];
    for length in ["-1", "+5", "5 5", "0x10", "1e3", CANARY, "", "18446744073709551616", "99999999999999999999999999"] {
        rows.push(Row::new(format!("length {length:?}"), with_length(length), BROKEN));
    }
    for size in ["-1", "+5", "g", "", " ", "ffffffffffffffff0", "0x5", "5 5", CANARY] {
        rows.push(Row::new(format!("chunk size {size:?}"), chunked(&format!("{size}\r\n{list}\r\n0\r\n\r\n")), BROKEN));
    }
    rows.push(Row::new("chunk of 16 EiB", chunked(&format!("ffffffffffffffff\r\n{list}")), BROKEN));
    rows
}

/// Compressed bodies: small ones that would unpack to gigabytes.
fn encodings() -> Vec<Row> {
    let (deflate, zstd) = (deflate_bomb(), zstd_bomb());
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &deflate].concat();
    let zlib = [&[0x78, 0x9c][..], &deflate].concat();
    let list = page("{}");
    let encoded = |header: &str, body: &[u8]| Play::reply(&format!("{OK}{header}\r\n"), body);
    vec![
        Row::new("gzip bomb", encoded("content-encoding: gzip", &gzip), ENCODED),
        Row::new("deflate bomb", encoded("content-encoding: deflate", &zlib), ENCODED),
        Row::new("zstd bomb", encoded("content-encoding: zstd", &zstd), ENCODED),
        Row::new("br", encoded("content-encoding: br", &[0xcf, 0xff, 0xff, 0x7f, 0xf8, 0x27, 0x00, 0xe2, 0xb1, 0x40]), ENCODED),
        Row::new("x-gzip", encoded("content-encoding: x-gzip", &gzip), ENCODED),
        Row::new("gzip in gzip", encoded("content-encoding: gzip, gzip", &gzip), ENCODED),
        Row::new("identity, then gzip", encoded("content-encoding: identity\r\ncontent-encoding: gzip", &gzip), ENCODED),
        Row::new("identity and gzip", encoded("content-encoding: identity, gzip", list.as_bytes()), ENCODED),
        Row::new("an encoding of its own", encoded(&format!("content-encoding: {CANARY}"), list.as_bytes()), ENCODED),
        Row::new("a gzip bomb that does not say so", encoded("x: y", &gzip), NO_TEXT),
        Row::new("a zstd bomb that does not say so", encoded("x: y", &zstd), NO_TEXT),
        Row::new(
            "gzip as a transfer encoding",
            raw("transfer-encoding: gzip, chunked\r\n", [format!("{:x}\r\n", gzip.len()).as_bytes(), &gzip, b"\r\n0\r\n\r\n"].concat()),
            NO_TEXT,
        ),
    ]
}

/// A megabyte that unpacks to 160: fixed Huffman codes for "258 bytes from 1 back", 13 bits each (RFC 1951 section 3.2.6).
fn deflate_bomb() -> Vec<u8> {
    let mut bits = vec![true, true, false];
    // The literal 0, then length 285 and distance 0 for ever; codes are packed from their most significant bit.
    bits.extend([false, false, true, true, false, false, false, false]);
    let copy = [true, true, false, false, false, true, false, true, false, false, false, false, false];
    bits.extend(copy.iter().copied().cycle().take(copy.len() * 600_000));
    bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |value, (index, bit)| value | u8::from(*bit) << index)).collect()
}

/// A megabyte that unpacks to 32 gigabytes: blocks of 128 KiB of one byte (RFC 8878 section 3.1.1.2).
fn zstd_bomb() -> Vec<u8> {
    let block_header: u32 = (131_072 << 3) | (1 << 1);
    let block = [&block_header.to_le_bytes()[..3], b" "].concat();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x70][..], &block.repeat(262_144)].concat()
}

/// Heads that are none, or too much of one.
fn heads() -> Vec<Row> {
    let list = page("{}");
    let bytes = |bytes: &[u8]| Play::Bytes(bytes.to_vec());
    let header = |header: &[u8]| {
        let length = format!("content-length: {}\r\n\r\n{list}", list.len());
        Play::Bytes([OK.as_bytes(), header, b"\r\n", length.as_bytes()].concat())
    };
    let status_line = |line: &str| Play::reply(&format!("{line}\r\ncontent-type: application/json\r\n"), &list);
    vec![
        Row::new("headers without an end", Play::Flood(OK.into(), format!("x-{CANARY}: a\r\n").repeat(1_000).into_bytes()), BROKEN),
        Row::new("a million headers", header(format!("x: {CANARY}\r\n").repeat(1_000_000).trim_end().as_bytes()), BROKEN),
        Row::new("one header without an end", Play::Flood(format!("{OK}x: ").into_bytes(), CANARY.repeat(1_000).into_bytes()), BROKEN),
        Row::new("a header name without an end", Play::Flood(OK.into(), b"x".repeat(10_000)), BROKEN),
        Row::new("one header of a megabyte", header(format!("x: {}", "y".repeat(1_000_000)).as_bytes()), BROKEN),
        Row::new("NUL in a header", header(b"x: a\0b"), BROKEN),
        Row::new("ESC in a header", header(b"x: a\x1b[2Jb"), BROKEN),
        Row::new("NUL in a header's name", header(b"x\0y: a"), BROKEN),
        Row::new("CR in a header", header(b"x: a\rb: c"), BROKEN),
        Row::new("no colon", header(CANARY.as_bytes()), BROKEN),
        Row::new("a blank before the colon", header(b"content-length : 2"), BROKEN),
        Row::new("a folded header", header(b"x: a\r\n b: c"), BROKEN),
        Row::new("a header without a name", header(b": a"), BROKEN),
        Row::new("HTTP/0.9", bytes(list.as_bytes()), BROKEN),
        Row::new("HTTP/0.9 HTML", bytes(format!("<html>{CANARY}</html>").as_bytes()), BROKEN),
        Row::new("nothing", bytes(b""), BROKEN),
        Row::new("a reset", Play::Reset, BROKEN),
        Row::new("SSH", bytes(format!("SSH-2.0-{CANARY}\r\n").as_bytes()), BROKEN),
        Row::new("TLS", bytes(b"\x15\x03\x01\x00\x02\x02\x46"), BROKEN),
        Row::new("HTTP/2", bytes(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"), BROKEN),
        Row::new("NULs", bytes(&[0; 100_000]), BROKEN),
        Row::new("a status line without an end", Play::Flood(b"HTTP/1.1 200 ".to_vec(), CANARY.repeat(1_000).into_bytes()), BROKEN),
        Row::new("blank lines without an end", Play::Flood(Vec::new(), b"\r\n".repeat(10_000)), BROKEN),
        Row::new("HTTP/9.9", status_line("HTTP/9.9 200 OK"), BROKEN),
        Row::new("no status", status_line("HTTP/1.1 OK"), BROKEN),
        Row::new("status 1000", status_line("HTTP/1.1 1000 OK"), BROKEN),
        Row::new("status -200", status_line("HTTP/1.1 -200 OK"), BROKEN),
        Row::new("status 099", status_line("HTTP/1.1 099 OK"), BROKEN),
    ]
}

/// Statuses that are no answer to this request, and content types that are none.
fn statuses() -> Vec<Row> {
    let list = page("{}");
    let typed = |content_type: &str| Play::reply(&format!("HTTP/1.1 200 OK\r\n{content_type}"), &list);
    let mut rows = vec![
        Row::new("200 without a body", Play::body(""), NO_JSON),
        Row::new(
            "204",
            Play::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
            Expected::Error("HOST answered with no content type (HTTP 204)"),
        ),
        Row::new(
            "204 with a type and a body",
            Play::reply("HTTP/1.1 204 No\r\ncontent-type: application/json\r\n", &list),
            Expected::Error("HOST answered unknown (HTTP 204)"),
        ),
        Row::new(
            "304",
            Play::Bytes(b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec()),
            Expected::Error("HOST answered with a redirect (HTTP 304), which is never followed"),
        ),
        Row::new("no content type", typed(""), Expected::Error("HOST answered with no content type (HTTP 200), not as the control plane")),
        Row::new(
            "HTML",
            typed("content-type: text/html\r\n"),
            Expected::Error("HOST answered with text/html (HTTP 200), not as the control plane"),
        ),
        Row::new(
            "a stream",
            typed("content-type: application/connect+json\r\n"),
            Expected::Error("HOST answered with application/connect+json (HTTP 200)"),
        ),
        Row::new("101", status_only("101 Switching Protocols"), Expected::Error("HOST answered with no content type (HTTP 101)")),
        Row::new(
            "an error of many details",
            error(&format!(r#"{{"code":"internal","details":[{}0]}}"#, "{},".repeat(100_000))),
            Expected::Error("HOST answered internal (HTTP 500)"),
        ),
        Row::new(
            "an error of great depth",
            error(&format!(r#"{{"code":"internal","details":{}"#, "[".repeat(100_000))),
            Expected::Error("HOST answered unknown (HTTP 500)"),
        ),
        Row::new("an error that is a list", error(&list), Expected::Error("HOST answered unknown (HTTP 500)")),
    ];
    for status in ["201 Created", "202 Accepted", "205 Reset Content", "206 Partial Content", "299 Odd", "999 Odd"] {
        let expected = Expected::Error("HOST answered unknown (HTTP ");
        rows.push(Row::new(status, Play::reply(&format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"), &list), expected));
    }
    rows
}

fn status_only(status: &str) -> Play {
    Play::Bytes(format!("HTTP/1.1 {status}\r\nconnection: upgrade\r\nupgrade: {CANARY}\r\n\r\n").into_bytes())
}

/// Replies that take their time, and more of it.
fn waits() -> Vec<Row> {
    let drip = |head: &str| Play::Drip(head.as_bytes().to_vec(), b' ', Duration::from_millis(50));
    let flood = |piece: &str| Play::Flood(Vec::new(), piece.as_bytes().to_vec());
    vec![
        Row::slow("a body that drips", drip(&format!("{OK}content-length: 1000\r\n\r\n"))),
        Row::slow("a chunk that drips", drip(&format!("{OK}transfer-encoding: chunked\r\n\r\n3e8\r\n"))),
        Row::slow("a head that drips", drip(&format!("{OK}x: "))),
        Row::slow("silence", Play::Drip(Vec::new(), b' ', Duration::from_secs(3600))),
        Row::slow(
            "silence after the head",
            Play::Drip(format!("{OK}content-length: 2\r\n\r\n").into_bytes(), b' ', Duration::from_secs(3600)),
        ),
        Row::slow("100 Continue for ever", flood(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(20))),
        Row::slow("early hints for ever", flood(&format!("HTTP/1.1 103 Early Hints\r\nlink: <{CANARY}>\r\n\r\n").repeat(20))),
    ]
}
