//! In the body: what is no JSON, and what is no list or no integration.

use super::*;

/// All of these.
pub fn all() -> Vec<Row> {
    [texts(), fields(), entries(), ids()].concat()
}

/// What is no JSON text, or too deep a one.
fn texts() -> Vec<Row> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let (lists, objects) = (deep("[", "]"), format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
    let mut rows = vec![
        Row::new("a byte order mark", Play::body(format!("\u{feff}{}", page("{}"))), NO_JSON),
        Row::new("UTF-16", Play::body(page("{}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()), NO_JSON),
        Row::new("no UTF-8", Play::body([CANARY.as_bytes(), b"\xff"].concat()), NO_TEXT),
        Row::new(
            "no UTF-8 in a field",
            Play::body(
                page(r#"{"id":"2","host":"XY"}"#)
                    .replace("XY", "\u{80}")
                    .into_bytes()
                    .into_iter()
                    .filter(|byte| *byte != 0xc2)
                    .collect::<Vec<_>>(),
            ),
            NO_TEXT,
        ),
        Row::new("an overlong form", Play::body([b"{\"".as_slice(), b"\xc0\xaf", b"\":1}"].concat()), NO_TEXT),
        Row::new("a surrogate in UTF-8", Play::body([b"{\"".as_slice(), b"\xed\xa0\x80", b"\":1}"].concat()), NO_TEXT),
        Row::new("lists of depth 100,000", Play::body(&lists), NO_JSON),
        Row::new("lists of depth 100,000, open", Play::body("[".repeat(100_000)), NO_JSON),
        Row::new("objects of depth 100,000", Play::body(&objects), Expected::List(0, vec![])),
        Row::new(
            "depth in an ignored field",
            Play::body(page(&format!(r#"{{"id":"2","host":"two.example","x":{lists},"y":{objects}}}"#))),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "depth in a field",
            Play::body(page(&format!(r#"{{"id":"2","host":{lists}}}"#))),
            Expected::List(1, vec!["host is not text"]),
        ),
        Row::new("depth as an entry", Play::body(page(&lists)), Expected::List(1, vec!["the integration is not an object"])),
        Row::new("depth as the app", Play::body(page(&format!(r#"{{"id":"2","host":"h","oauth":{objects}}}"#))), Expected::List(2, vec![])),
        Row::new(
            "depth as the list",
            Play::body(format!(r#"{{"integrations":{lists}}}"#)),
            Expected::List(0, vec!["the integration is not an object"]),
        ),
        Row::new(
            "depth as the pagination",
            Play::body(format!(r#"{{"pagination":{lists}}}"#)),
            Expected::Error("cannot read the reply of HOST: the field pagination is not usable"),
        ),
        Row::new(
            "numbers beyond all bounds in ignored fields",
            Play::body(page(r#"{"id":"2","host":"h","x":1e999,"y":-0,"z":123456789012345678901234567890}"#)),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "a huge echo of the page size",
            Play::body(
                page("0").replace(
                    "\"integrations\"",
                    "\"pagination\":{\"pageSize\":1e999,\"page_size\":-99999999999999999999},\"integrations\"",
                ),
            ),
            Expected::List(1, vec!["the integration is not an object"]),
        ),
        Row::new(
            "a lone surrogate in an ignored field",
            Play::body(page(r#"{"id":"2","host":"h","x":"\ud800"}"#)),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "a lone surrogate as a field's name",
            Play::body(page(r#"{"id":"2","host":"h","\ud800":1}"#)),
            Expected::List(1, vec!["the integration is not an object"]),
        ),
        Row::new("two replies in one", Play::body(page("{}").repeat(2)), NO_JSON),
        Row::new(
            "a number of a million digits",
            Play::body(page(&format!(r#"{{"id":"2","host":{}}}"#, "9".repeat(1_000_000)))),
            Expected::List(1, vec!["host is not text"]),
        ),
        Row::new(
            "a field's name of a megabyte",
            Play::body(page(&format!(r#"{{"id":"2","host":"h","{}":1}}"#, "n".repeat(1_000_000)))),
            Expected::List(2, vec![]),
        ),
    ];
    for value in [
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "+1",
        ".5",
        "01",
        "0x10",
        "tru",
        "'a'",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\n\"",
        "\"\0\"",
        "/**/1",
        "1_0",
        ",",
    ] {
        rows.push(Row::new(format!("the value {value:?}"), Play::body(page(&format!(r#"{{"id":"2","host":"h","x":{value}}}"#))), NO_JSON));
    }
    for (name, body) in
        [("null", "null"), ("a list", "[]"), ("a string", "\"{}\""), ("a number", "7"), ("a bare word", "true"), ("only blanks", " \n")]
    {
        let expected = Expected::Error("cannot read the reply of HOST: not a JSON object (line ");
        rows.push(Row::new(format!("{name} instead of an object"), Play::body(body), expected));
    }
    rows
}

/// Fields around the list.
fn fields() -> Vec<Row> {
    const LIST: Expected = Expected::Error("cannot read the reply of HOST: the field integrations is not usable");
    const PAGINATION: Expected = Expected::Error("cannot read the reply of HOST: the field pagination is not usable");
    const NEXT: Expected = Expected::Error("cannot read the reply of HOST: the field pagination.nextToken is not usable");
    let body = |text: &str| Play::body(text.replace("CANARY", CANARY));
    let long = "n".repeat(4097);
    let row = |text: &str, expected: Expected| Row::new(text.chars().take(80).collect::<String>(), body(text), expected);
    vec![
        row(r#"{"integrations":null,"CANARY":1}"#, Expected::List(0, vec![])),
        row(r#"{"CANARY":[{"id":"1","host":"h"}]}"#, Expected::List(0, vec![])),
        row(r#"{"integrations":{},"CANARY":1}"#, LIST),
        row(r#"{"integrations":{"CANARY":1}}"#, LIST),
        row(r#"{"integrations":"CANARY"}"#, LIST),
        row(r#"{"integrations":""}"#, LIST),
        row(r#"{"integrations":0}"#, LIST),
        row(r#"{"integrations":false}"#, LIST),
        row(r#"{"integrations":[],"integrations":["CANARY"]}"#, LIST),
        row(r#"{"integrations":null,"integrations":["CANARY"]}"#, LIST),
        row(r#"{"integr\u0061tions":["CANARY"],"integrations":[]}"#, LIST),
        row(r#"{"pagination":"CANARY"}"#, PAGINATION),
        row(r#"{"pagination":["CANARY"]}"#, PAGINATION),
        row(
            r#"{"pagination":{},"pagination":{"nextToken":"CANARY"}}"#,
            Expected::Error("cannot read the reply of HOST: the field pagination is not usable"),
        ),
        row(r#"{"pagination":{"nextToken":7}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":["CANARY"]}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":{"CANARY":""}}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":true}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":"\udc00CANARY"}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":"","nextToken":"CANARY"}}"#, NEXT),
        row(r#"{"pagination":{"nextToken":"","next_token":"CANARY"}}"#, NEXT),
        row(&format!(r#"{{"pagination":{{"nextToken":"{long}"}}}}"#), NEXT),
        Row::new(
            "a next token of a megabyte",
            Play::body(format!(r#"{{"pagination":{{"nextToken":"{}"}}}}"#, CANARY.repeat(70_000))),
            NEXT,
        ),
    ]
}

/// One bad entry beside a good one: it alone is set aside.
fn entries() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |entry: String, reason: &'static str| {
        let name = entry.chars().take(100).collect::<String>();
        let expected = if reason.is_empty() { Expected::List(2, vec![]) } else { Expected::List(1, vec![reason]) };
        rows.push(Row::new(name, Play::body(page(&entry)), expected));
    };
    for no_object in ["null", "7", "true", "\"Canary-5b1e0d97\"", "[\"2\",\"github\",\"Canary-5b1e0d97\"]", "[]"] {
        add(no_object.to_owned(), "the integration is not an object");
    }
    let valid = json!({ "id": id(2), "scmId": "gitlab", "host": "two.example", "runnerId": RUNNER, "oauth": { "clientId": "c", "encryptedClientSecret": "AAAA" }, "x": CANARY });
    let with = |field: &str, value: Value| {
        let mut entry = valid.clone();
        match field.strip_prefix("oauth.") {
            Some(field) => entry["oauth"][field] = value,
            None => entry[field] = value,
        }
        entry.to_string()
    };
    const FORBIDDEN_HOST: &str = "host contains a character that is not allowed in it";
    const FORBIDDEN_ID: &str = "id contains a character that is not allowed in it";
    const NOT_OBJECT: &str = "oauth is not an object";
    const NOT_BASE64: &str = "oauth.encryptedClientSecret is not base64";
    const SECRET_TOO_LONG: &str = "oauth.encryptedClientSecret is longer than 16384 bytes";
    for (field, value, reason) in [
        ("id", json!(7), "id is not text"),
        ("id", json!([CANARY]), "id is not text"),
        ("id", json!(""), "id is missing"),
        ("id", json!(null), "id is missing"),
        ("id", json!("a\0b"), FORBIDDEN_ID),
        ("id", json!("../../etc"), FORBIDDEN_ID),
        ("id", json!("{0191e2d3-1111-7000-8000-000000000002}"), FORBIDDEN_ID),
        ("id", json!("０191e2d3"), FORBIDDEN_ID),
        ("id", json!(CANARY.repeat(1_000)), "id is longer than 128 characters"),
        ("id", json!("no-uuid-at-all"), ""),
        ("id", json!(id(2).to_uppercase()), ""),
        ("id", json!(id(1).to_uppercase()), "id is that of an earlier integration in the list"),
        ("scmId", json!(7), "scmId is not text"),
        ("scmId", json!("\u{1b}]0;Canary-5b1e0d97\u{7}"), "scmId contains a character that is not allowed in it"),
        ("scmId", json!("git\u{202e}bal"), "scmId contains a character that is not allowed in it"),
        ("scmId", json!(CANARY.repeat(100)), "scmId is longer than 128 characters"),
        ("host", json!(7), "host is not text"),
        ("host", json!(null), "host is missing"),
        ("host", json!("a\u{0}b"), FORBIDDEN_HOST),
        ("host", json!("two.example\nX-Canary-5b1e0d97: 1"), FORBIDDEN_HOST),
        ("host", json!("two.example\r"), FORBIDDEN_HOST),
        ("host", json!("two .example"), FORBIDDEN_HOST),
        ("host", json!("two\u{7f}.example"), FORBIDDEN_HOST),
        ("host", json!("g\u{456}thub.com"), FORBIDDEN_HOST),
        ("host", json!("github\u{3002}com"), FORBIDDEN_HOST),
        ("host", json!("github.com\u{200b}"), FORBIDDEN_HOST),
        ("host", json!("ｇithub.com"), FORBIDDEN_HOST),
        ("host", json!("github.com@two.example"), "host has a user name before it"),
        ("host", json!("Canary-5b1e0d97:x@two.example"), "host has a user name before it"),
        ("host", json!("https://u@two.example"), "host has a user name before it"),
        ("host", json!("javascript://two.example"), "host has a scheme that is not https"),
        ("host", json!("http://two.example"), "host has a scheme that is not https"),
        ("host", json!("*.example"), "host has a character that no host name has"),
        ("host", json!("two.example."), "host ends with a dot"),
        ("host", json!("two..example"), "host has an empty label or one of more than 63 characters"),
        ("host", json!("two.example:99999"), "host has a port that is no number from 1 to 65535"),
        ("host", json!("two.example/a/../b"), "path in host has a segment that leads upwards"),
        ("host", json!("two.example/%2e%2e"), "path in host has a percent sign: its characters are written plainly"),
        ("host", json!("two.example?Canary-5b1e0d97"), "host has a query"),
        ("host", json!("two.example#Canary-5b1e0d97"), "host has a fragment"),
        ("host", json!(format!("{}.example", "h".repeat(10_000))), "host is longer than 512 characters"),
        ("host", json!(format!("two.example/{}", "a/".repeat(250))), ""),
        ("runnerId", json!(id(77)), "runnerId is that of another runner"),
        ("runnerId", json!(""), ""),
        ("runnerId", json!(RUNNER.to_uppercase()), ""),
        ("runnerId", json!(format!("{RUNNER}\0")), "runnerId contains a character that is not allowed in it"),
        ("runnerId", json!([RUNNER]), "runnerId is not text"),
        ("pat", json!("true"), "pat is not true or false"),
        ("pat", json!(1), "pat is not true or false"),
        ("pat", json!({ CANARY: true }), "pat is not true or false"),
        ("virtualDirectory", json!("/\u{0}"), "virtualDirectory contains a character that is not allowed in it"),
        ("virtualDirectory", json!("/../tfs"), "virtual directory has a segment that leads upwards"),
        ("virtualDirectory", json!("/".repeat(257)), "virtualDirectory is longer than 256 characters"),
        ("virtualDirectory", json!("/a".repeat(100)), ""),
        ("oauth", json!(null), ""),
        ("oauth", json!({}), ""),
        ("oauth", json!([]), NOT_OBJECT),
        ("oauth", json!([CANARY]), NOT_OBJECT),
        ("oauth", json!(CANARY), NOT_OBJECT),
        ("oauth", json!(false), NOT_OBJECT),
        ("oauth.clientId", json!(7), "oauth.clientId is not text"),
        ("oauth.clientId", json!(""), "oauth.clientId is missing"),
        ("oauth.clientId", json!("c\nCanary-5b1e0d97"), "oauth.clientId contains a character that is not allowed in it"),
        ("oauth.issuerUrl", json!("https://a/\u{0}"), "oauth.issuerUrl contains a character that is not allowed in it"),
        ("oauth.issuerUrl", json!(CANARY.repeat(1_000)), "oauth.issuerUrl is longer than 2048 characters"),
        ("oauth.encryptedClientSecret", json!(""), ""),
        ("oauth.encryptedClientSecret", json!("-_8"), ""),
        ("oauth.encryptedClientSecret", json!("+/8"), ""),
        ("oauth.encryptedClientSecret", json!("+_8="), NOT_BASE64),
        ("oauth.encryptedClientSecret", json!("AAAA\n"), NOT_BASE64),
        ("oauth.encryptedClientSecret", json!("A"), NOT_BASE64),
        ("oauth.encryptedClientSecret", json!("AAB="), NOT_BASE64),
        ("oauth.encryptedClientSecret", json!("Canary 5b1e0d97"), NOT_BASE64),
        ("oauth.encryptedClientSecret", json!([1, 2, 3]), "oauth.encryptedClientSecret is not text"),
        ("oauth.encryptedClientSecret", json!("A".repeat(1_398_104)), SECRET_TOO_LONG),
    ] {
        add(with(field, value), reason);
    }
    let twice = |pair: &str| format!(r#"{{"id":"2","host":"h","canary":"{CANARY}",{pair}}}"#);
    for (pair, reason) in [
        (r#""id":"2""#, "id occurs twice"),
        (r#""host":"h""#, "host occurs twice"),
        (r#""h\u006fst":"other""#, "host occurs twice"),
        (r#""scmId":"a","scm_id":"a""#, "scmId occurs twice"),
        (r#""scmId":null,"scm_id":"a""#, "scmId occurs twice"),
        (r#""pat":true,"pat":false"#, "pat occurs twice"),
        (r#""runnerId":"","runner_id":"""#, "runnerId occurs twice"),
        (r#""virtualDirectory":"","virtual_directory":"""#, "virtualDirectory occurs twice"),
        (r#""oauth":{},"oauth":{}"#, "oauth occurs twice"),
        (r#""oauth":{"clientId":"a","client_id":"b"}"#, "oauth.clientId occurs twice"),
        (r#""oauth":{"clientId":"a","issuerUrl":"","issuer_url":""}"#, "oauth.issuerUrl occurs twice"),
        (r#""oauth":{"clientId":"a","encryptedClientSecret":"","encrypted_client_secret":""}"#, "oauth.encryptedClientSecret occurs twice"),
    ] {
        add(twice(pair), reason);
    }
    rows
}

/// Ids and hosts that several share.
fn ids() -> Vec<Row> {
    const EARLIER: &str = "id is that of an earlier integration in the list";
    let entry = |host: &str| json!({ "id": id(2), "host": host, "x": CANARY }).to_string();
    let on_pages = |first: String, second: String| {
        move |number: usize| match number {
            0 => Play::body(page(&first).replace("\"integrations\"", "\"pagination\":{\"nextToken\":\"n\"},\"integrations\"")),
            _ => Play::body(format!(r#"{{"integrations":[{second}]}}"#)),
        }
    };
    let same_host =
        format!("{},{}", json!({ "id": id(2), "host": "good.example" }), json!({ "id": id(3), "host": "https://GOOD.example:443/" }));
    vec![
        Row::new("one entry twice", Play::body(page(&format!("{0},{0}", entry("h")))), Expected::List(2, vec![EARLIER])),
        Row::new("one id, two contents", Play::body(page(&format!("{},{}", entry("a"), entry("b")))), Expected::List(2, vec![EARLIER])),
        Row::paged("one entry on two pages", on_pages(entry("h"), entry("h")), Expected::List(2, vec![EARLIER])),
        Row::paged("one id on two pages", on_pages(entry("a"), entry("b")), Expected::List(2, vec![EARLIER])),
        Row::new(
            "a good one's id again",
            Play::body(page(&good().to_string().replace("good.example", "evil.example"))),
            Expected::List(1, vec![EARLIER]),
        ),
        Row::new("three integrations on one host", Play::body(page(&same_host)), Expected::List(3, vec![])),
        Row::new("no runner's id", Play::body(page(&entry("h"))), Expected::List(2, vec![])),
    ]
}
