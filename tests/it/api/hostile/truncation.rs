//! A reply of three pages, cut off at every one of its bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scm_agent::integration::source::{IntegrationSource, SourceErrorKind};
use serde_json::json;

use super::super::{client, integrations};
use super::matrix::assert_kept;
use crate::support::hostile::{HostileServer, Play};

const PAGES: usize = 3;

/// The pages of a list, as bodies.
fn bodies() -> Vec<Vec<u8>> {
    let all = integrations(2 * PAGES);
    let page = |(number, entries): (usize, &[serde_json::Value])| {
        let pagination = if number + 1 < PAGES { json!({ "nextToken": format!("page-from:{}", number + 1) }) } else { json!({}) };
        json!({ "pagination": pagination, "integrations": entries }).to_string().into_bytes()
    };
    all.chunks(2).enumerate().map(page).collect()
}

/// Cuts each page at every byte, with the pages before it whole, and holds on to every error. `cut` makes the reply.
async fn cut_everywhere(pages: Vec<Vec<u8>>, cut: fn(&[u8]) -> Play, whole: fn(&[u8]) -> Play) {
    let server = HostileServer::start().await;
    let client = client(&server.url());
    let pages: Arc<[Vec<u8>]> = pages.into();
    let place = Arc::new((AtomicUsize::new(PAGES), AtomicUsize::new(0)));
    let (served, at) = (Arc::clone(&pages), Arc::clone(&place));
    server.set(move |number| {
        let (page, length) = (at.0.load(Ordering::SeqCst), at.1.load(Ordering::SeqCst));
        // Every list is asked for from its first page, and no cut one gets beyond the cut.
        let number = number % (page + 1).min(PAGES);
        if number == page { cut(&served[number][..length]) } else { whole(&served[number]) }
    });
    let good = client.fetch().await.unwrap();
    assert_eq!((good.integrations.len(), good.rejected.len(), server.requests()), (2 * PAGES, 0, PAGES));
    let mut errors = Vec::new();
    for page in 0..PAGES {
        place.0.store(page, Ordering::SeqCst);
        server.restart();
        for length in 0..pages[page].len() {
            place.1.store(length, Ordering::SeqCst);
            let error = client.fetch().await.expect_err(&format!("{length} bytes of page {page}"));
            assert_eq!(error.kind, SourceErrorKind::Transient, "{error}");
            errors.push(error);
        }
    }
    assert_kept(good, &errors).await;
}

#[tokio::test]
async fn a_connection_that_ends_at_any_byte_of_any_page_costs_no_list() {
    let replies = bodies().into_iter().map(|body| match Play::body(body) {
        Play::Bytes(bytes) => bytes,
        _ => Vec::new(),
    });
    cut_everywhere(replies.collect(), |bytes| Play::Bytes(bytes.to_vec()), |bytes| Play::Bytes(bytes.to_vec())).await;
}

#[tokio::test]
async fn a_body_that_ends_at_any_byte_of_any_page_costs_no_list() {
    // As from a proxy that lost the rest and counted what it had.
    cut_everywhere(bodies(), |body| Play::body(body), |body| Play::body(body)).await;
}
