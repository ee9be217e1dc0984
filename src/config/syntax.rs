//! How hosts, URLs, scopes and ids are written.

use url::Url;

use crate::http::is_loopback_name;

use super::Cause;
use super::layer::Entry;
use super::reader::{quoted, quoted_list, text, texts};

/// A host with its port and path, in one spelling.
pub(super) fn host(entry: &Entry) -> Result<(String, String), Cause> {
    let written = text(entry)?;
    let url = Url::parse(&format!("https://{written}")).map_err(|_| Cause::Host)?;
    let foreign =
        written.contains(['@', '?', '#', '\\', ' ', '%']) || written.contains("://") || written.starts_with('/') || written.contains("//");
    // A dot at the end makes a name absolute, and is no part of it.
    let name = url.host_str().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    let empty_port = written.split('/').next().is_some_and(|authority| authority.ends_with(':'));
    let empty_label = name.is_empty() || name.starts_with('.') || name.contains("..") || name.ends_with('.');
    if foreign || empty_port || empty_label {
        return Err(Cause::Host);
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{name}{port}{}", url.path().trim_end_matches('/'));
    let shown = quoted(&host);
    Ok((host, shown))
}

/// `scope-token` of RFC 6749 section 3.3.
pub(super) fn scopes(entry: &Entry) -> Result<(Vec<String>, String), Cause> {
    let scopes = texts(entry)?;
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if !scopes.iter().all(|scope| scope.bytes().all(allowed)) {
        return Err(Cause::Scope);
    }
    let shown = quoted_list(&scopes);
    Ok((scopes, shown))
}

/// What a URL that carries secrets must be.
pub(super) struct Urls {
    /// Whether http may stand for this machine.
    pub(super) loopback: bool,
}

impl Urls {
    /// A URL that says where, and nothing else.
    pub(super) fn plain(&self, entry: &Entry) -> Result<(Url, String), Cause> {
        let written = text(entry)?;
        let url = Url::parse(&written).map_err(|_| Cause::NotAUrl)?;
        // The parser repairs what a person should: blanks around it, `https:host`, `https:\\host`.
        let repaired = written.contains([' ', '\\']) || !written.contains("://");
        if repaired || !matches!(url.scheme(), "http" | "https") {
            return Err(Cause::NotAUrl);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Cause::UrlUserinfo);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Cause::UrlQuery);
        }
        if url.scheme() == "http" && !(self.loopback && is_loopback_name(&url)) {
            return Err(Cause::InsecureUrl);
        }
        let shown = quoted(url.as_str());
        Ok((url, shown))
    }
}

/// RFC 9562 section 4, in either case.
pub(super) fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
