//! The file source.

use scm_agent::api::{IntegrationFile, MAX_FILE_BYTES};
use scm_agent::integration::source::{IntegrationSource, SourceErrorKind};
use serde_json::json;

use super::{id, integrations};

/// What the source makes of a file with this content: how many integrations, or the message.
async fn outcome(content: &[u8]) -> Result<(usize, usize), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("integrations.json");
    std::fs::write(&path, content).unwrap();
    let source = IntegrationFile::new(&path);
    assert_eq!(source.describe(), path.display().to_string());
    let place = path.display().to_string();
    source.fetch().await.map(|list| (list.integrations.len(), list.rejected.len())).map_err(|error| {
        assert_eq!((error.kind, error.retry_after), (SourceErrorKind::Operator, None));
        assert!(error.message.contains(&place), "{error}");
        error.message.replace(&place, "FILE")
    })
}

#[tokio::test]
async fn a_saved_reply_is_read_whole_whatever_its_runner() {
    let mut all = integrations(250);
    all[3]["host"] = json!("");
    all[4]["runnerId"] = json!(id(77));
    let saved = json!({ "pagination": {}, "integrations": all });
    assert_eq!(outcome(serde_json::to_string_pretty(&saved).unwrap().as_bytes()).await, Ok((249, 1)));
    assert_eq!(outcome(b"{}\n").await, Ok((0, 0)));
}

#[tokio::test]
async fn what_is_no_saved_reply_is_told_with_its_place_but_not_its_content() {
    let intro = "the integrations file FILE is no saved ListSCMIntegrations reply: ";
    for (content, expected) in [
        (&b""[..], "not a JSON object (line 1, column 0)"),
        (b"[]", "not a JSON object (line 1, column 0)"),
        (b"{\n  \"integrations\": canary\n}", "not a JSON object (line 2, column 19)"),
        (b"{\"integrations\": {\"canary\": 1}}", "the field integrations is not usable"),
        (b"{\"integrations\": []} canary", "not a JSON object (line 1, column 22)"),
        (b"\xef\xbb\xbf{}", "not a JSON object (line 1, column 1)"),
        (b"{\"canary\": \"\xff\"}", "not UTF-8 text"),
    ] {
        let message = outcome(content).await.unwrap_err();
        assert_eq!(message, format!("{intro}{expected}"));
    }
}

#[tokio::test]
async fn one_page_of_several_is_not_taken_for_the_list() {
    let page = json!({ "pagination": { "nextToken": "canary" }, "integrations": integrations(2) });
    let message = outcome(page.to_string().as_bytes()).await.unwrap_err();
    assert_eq!(message, "the integrations file FILE holds one page of several: its field pagination.nextToken is not empty");
}

#[tokio::test]
async fn a_file_that_is_too_long_missing_or_no_file_is_refused() {
    let message = outcome(&vec![b' '; MAX_FILE_BYTES + 1]).await.unwrap_err();
    assert_eq!(message, format!("cannot use the integrations file FILE: it is longer than {MAX_FILE_BYTES} bytes"));
    let error = IntegrationFile::new("/nonexistent/list.json").fetch().await.unwrap_err();
    assert!(error.message.starts_with("cannot use the integrations file /nonexistent/list.json: it cannot be read: "), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = IntegrationFile::new(folder.path()).fetch().await.unwrap_err();
    assert!(error.message.ends_with(": it is not a regular file"), "{error}");
}

#[tokio::test]
async fn a_changed_file_counts_at_the_next_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("integrations.json");
    let source = IntegrationFile::new(&path);
    for count in [1, 3, 0] {
        std::fs::write(&path, json!({ "integrations": integrations(count) }).to_string()).unwrap();
        assert_eq!(source.fetch().await.unwrap().integrations.len(), count);
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_written_or_gone_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("integrations.json");
    std::fs::write(&path, b"{}").unwrap();
    let source = IntegrationFile::new(&path);
    let changes: [&dyn Fn(); 4] = [
        &|| std::fs::write(&path, b"{} ").unwrap(),
        &|| {
            std::fs::write(folder.path().join("new"), b"{} ").unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
        },
        &|| std::fs::remove_file(&path).unwrap(),
        &|| std::fs::write(&path, b"{}").unwrap(),
    ];
    for change in changes {
        let _ = source.fetch().await;
        tokio::time::timeout(std::time::Duration::from_millis(20), source.changed()).await.unwrap_err();
        change();
        source.changed().await;
    }
}
