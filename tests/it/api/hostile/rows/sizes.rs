//! Too much of it: integrations, pages, and replies of every length that is allowed.

use scm_agent::api::{MAX_INTEGRATIONS, MAX_PAGE_BYTES};

use super::*;

/// All of these.
pub fn all() -> Vec<Row> {
    [lists(), pages(), legal_sizes()].concat()
}

/// Too many of them.
fn lists() -> Vec<Row> {
    let minimal = |number: usize| format!(r#"{{"id":"{number}","host":"h{number}"}}"#);
    let many = |count: usize| (0..count).map(minimal).collect::<Vec<_>>().join(",");
    let canary = format!(r#""{CANARY}":1"#);
    let over_pages = move |number: usize| {
        let entries = (number * 100..(number + 1) * 100).map(minimal).collect::<Vec<_>>().join(",");
        Play::body(format!(r#"{{"integrations":[{entries}],"pagination":{{"nextToken":"page {number}"}}}}"#))
    };
    vec![
        Row::new("5,001 on one page", Play::body(format!(r#"{{{canary},"integrations":[{}]}}"#, many(MAX_INTEGRATIONS + 1))), TOO_MANY),
        Row::paged("5,001 over pages", over_pages, TOO_MANY),
        Row::new("5,001 that are none", Play::body(format!(r#"{{"integrations":[{}0]}}"#, "0,".repeat(MAX_INTEGRATIONS))), TOO_MANY),
    ]
}

/// Page tokens that lead nowhere.
fn pages() -> Vec<Row> {
    const CIRCLE: Expected = Expected::Error("the list of integrations from HOST goes round in circles: a page token came twice");
    let token = |token: String| Play::body(json!({ "pagination": { "nextToken": token }, "integrations": [], "x": CANARY }).to_string());
    let circle = |length: usize| Row::paged(format!("a circle of {length}"), move |number| token((number % length).to_string()), CIRCLE);
    vec![
        circle(1),
        circle(2),
        circle(7),
        Row::paged(
            "pages without an end",
            move |number| token(number.to_string()),
            Expected::Error("the list of integrations from HOST does not end after 200 pages"),
        ),
        Row::paged(
            "long tokens without an end",
            move |number| token(format!("{number:04096}")),
            Expected::Error("the list of integrations from HOST does not end after 200 pages"),
        ),
        Row::paged(
            "a good page, then HTML",
            move |number| {
                if number == 0 { token("n".into()) } else { Play::reply("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n", CANARY) }
            },
            Expected::Error("HOST answered with text/html (HTTP 200)"),
        ),
        Row::paged("a good page, then a reset", move |number| if number == 0 { token("n".into()) } else { Play::Reset }, BROKEN),
    ]
}

/// Replies as long as they may be, of what takes the most memory for its bytes.
pub fn legal_sizes() -> Vec<Row> {
    // Fills a page with repetitions between a beginning and an end.
    let fill = |begin: &str, piece: &str, end: &str| {
        let count = (MAX_PAGE_BYTES - begin.len() - end.len()) / piece.len();
        format!("{begin}{}{end}", piece.repeat(count))
    };
    let nested = |open: &str, close: &str| {
        let depth = MAX_PAGE_BYTES / (open.len() + close.len()) - 100;
        format!("{{\"{CANARY}\":{}1{},\"integrations\":[{}]}}", open.repeat(depth), close.repeat(depth), good())
    };
    let around = |begin: &str, piece: &str, end: &str| fill(&format!("{{\"integrations\":[{},{begin}", good()), piece, end);
    let chunked = |body: String| {
        let chunks: Vec<String> =
            body.as_bytes().chunks(4093).map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk))).collect();
        raw("transfer-encoding: chunked\r\n", format!("{}0\r\n\r\n", chunks.concat()))
    };
    let refused = error(&fill(r#"{"code":"internal","message":""#, "\\u0020", "\"}"));
    let many_details = error(&fill(r#"{"code":"internal","details":["#, r#"{"type":"google.rpc.RetryInfo","value":"AA"},"#, "0]}"));
    vec![
        Row::new("open lists", Play::body(fill("", "[", "")), NO_JSON),
        Row::new("open objects", Play::body(fill("", "{\"a\":", "")), NO_JSON),
        Row::new("open lists in an entry", Play::body(around("", "[", "")), NO_JSON),
        Row::new("nested lists", Play::body(nested("[", "]")), Expected::List(1, vec![])),
        Row::new("nested objects", Play::body(nested("{\"\":", "}")), Expected::List(1, vec![])),
        Row::new("blanks", Play::body(fill("{", " ", "}")), Expected::List(0, vec![])),
        Row::new("blanks in small chunks", chunked(fill("{", " ", "}")), Expected::List(0, vec![])),
        Row::new("empty entries", Play::body(around("", "{},", "0]}")), TOO_MANY),
        Row::new("nulls", Play::body(around("", "0,", "0]}")), TOO_MANY),
        Row::new(
            "a long string",
            Play::body(around("{\"id\":\"2\",\"host\":\"", "h", "\"}]}")),
            Expected::List(1, vec!["host is longer than 512 characters"]),
        ),
        Row::new(
            "a long string in escapes",
            Play::body(around("{\"id\":\"2\",\"host\":\"", "\\u0068", "\"}]}")),
            Expected::List(1, vec!["host is longer than 512 characters"]),
        ),
        Row::new(
            "a long ignored string in escapes",
            Play::body(around("{\"id\":\"2\",\"host\":\"h\",\"x\":\"", "\\u0068", "\"}]}")),
            Expected::List(2, vec![]),
        ),
        Row::new(
            "a long field's name in escapes",
            Play::body(around("{\"id\":\"2\",\"host\":\"h\",\"", "\\u0068", "\":1}]}")),
            Expected::List(2, vec![]),
        ),
        Row::new("a long number", Play::body(around("{\"id\":\"2\",\"host\":", "7", "}]}")), Expected::List(1, vec!["host is not text"])),
        Row::new("many fields", Play::body(around("{\"id\":\"2\",\"host\":\"h\"", ",\"x\":1", "}]}")), Expected::List(2, vec![])),
        Row::new(
            "a long secret",
            Play::body(around("{\"id\":\"2\",\"host\":\"h\",\"oauth\":{\"encryptedClientSecret\":\"", "AAAA", "\"}}]}")),
            Expected::List(1, vec!["oauth.encryptedClientSecret is longer than 16384 bytes"]),
        ),
        Row::new(
            "a long next token in escapes",
            Play::body(fill("{\"pagination\":{\"nextToken\":\"", "\\u0068", "\"}}")),
            Expected::Error("cannot read the reply of HOST: the field pagination.nextToken is not usable"),
        ),
        Row::new("a long message in escapes", refused, Expected::Error("HOST answered internal (HTTP 500)")),
        Row::new("many details", many_details, Expected::Error("HOST answered internal (HTTP 500)")),
    ]
}

/// As many integrations as there may be, each as costly as it may be, on pages of a hundred.
pub fn costly_lists() -> Vec<Row> {
    let list = |name: &str, count: usize, expected: Expected, entry: fn(usize) -> Value| {
        let script = move |number: usize| {
            let entries: Vec<Value> = (number * 100..(number + 1) * 100).map(entry).collect();
            let next = if (number + 1) * 100 == count { String::new() } else { format!("page {number}") };
            Play::body(json!({ "integrations": entries, "pagination": { "nextToken": next }, "x": CANARY }).to_string())
        };
        Row::paged(format!("{count} {name}"), script, expected)
    };
    let all = MAX_INTEGRATIONS;
    vec![
        list(
            "GitHubs, each on a host of its own",
            all,
            Expected::List(all, vec![]),
            |number| json!({ "id": id(number), "scmId": "github", "host": format!("git{number}.example"), "runnerId": RUNNER }),
        ),
        list("apps with secrets for RSA-2048", 4_000, Expected::List(4_000, vec![]), app),
        list("deep paths", all, Expected::List(all, vec![]), |number| {
            let host = format!("git.example/{number}{}", "/a".repeat(60));
            json!({ "id": id(number), "scmId": "gitlab", "host": host, "runnerId": RUNNER, "virtualDirectory": "/b".repeat(30) })
        }),
        list(
            "of another runner",
            all,
            Expected::List(0, vec!["runnerId is that of another runner"; all]),
            |number| json!({ "id": format!("{number:0128}"), "host": "h", "runnerId": "another" }),
        ),
        list("with everything", all, TOO_MUCH, |number| {
            let issuer = format!("https://{}", "i".repeat(2_000));
            let oauth = json!({ "clientId": "c".repeat(512), "encryptedClientSecret": "A".repeat(15_000), "issuerUrl": issuer });
            let host = format!("git{number}.example/{}", "a".repeat(480));
            json!({ "id": id(number), "host": host, "oauth": oauth, "virtualDirectory": "v".repeat(256) })
        }),
        list("of nothing known", all, TOO_MUCH, |number| json!({ "id": id(number), "host": "h", "x": "x".repeat(20_000) })),
    ]
}

/// An integration as a runner with a key of RSA-2048 has it.
fn app(number: usize) -> Value {
    let oauth = json!({
        "clientId": format!("{number:020}"),
        "encryptedClientSecret": format!("{number:0341}A=="),
        "issuerUrl": "https://login.microsoftonline.example/0191e2d3-0000-7000-8000-000000000000/v2.0",
    });
    json!({ "id": id(number), "scmId": "azuredevops_entra", "host": format!("dev.azure.com/organisation-{number}"), "runnerId": RUNNER, "oauth": oauth })
}
