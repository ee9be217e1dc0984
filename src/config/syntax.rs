//! How hosts, URLs, scopes and ids are written.

use std::net::IpAddr;

use url::{Host, Url};

use crate::http::is_loopback_name;

use super::layer::Entry;
use super::reader::{quoted, quoted_list, text, texts};
use super::{Cause, ProxyUrl};

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

/// A proxy's URL.
pub(super) fn proxy(entry: &Entry) -> Result<(ProxyUrl, String), Cause> {
    let url = Url::parse(&text(entry)?).map_err(|_| Cause::NotAProxy)?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.path() == "/";
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err(Cause::NotAProxy);
    }
    let proxy = ProxyUrl(url);
    let shown = quoted(&proxy.redacted());
    Ok((proxy, shown))
}

/// What is asked without a proxy. The HTTP client takes anything for the name of a host and then never finds it, so that is
/// checked here.
pub(super) fn exceptions(entry: &Entry) -> Result<(Vec<String>, String), Cause> {
    let exceptions = texts(entry)?.iter().map(|text| exception(text)).collect::<Option<Vec<_>>>().ok_or(Cause::NotAnException)?;
    let shown = quoted_list(&exceptions);
    Ok((exceptions, shown))
}

fn exception(written: &str) -> Option<String> {
    if written == "*" || written.parse::<IpAddr>().is_ok() {
        return Some(written.to_owned());
    }
    if let Some((address, bits)) = written.split_once('/') {
        let most = if address.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
        return bits.parse::<u8>().ok().filter(|bits| *bits <= most).map(|bits| format!("{address}/{bits}"));
    }
    // A dot before the name is how others write that subdomains are meant too; here they always are.
    let name = written.strip_prefix('.').unwrap_or(written);
    let labels = name
        .strip_suffix('.')
        .unwrap_or(name)
        .split('.')
        .all(|label| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_'));
    match Host::parse(name).ok()? {
        Host::Domain(name) if labels => Some(name.trim_end_matches('.').to_owned()),
        _ => None,
    }
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

/// A redirect URI (RFC 8252 section 7.3). Hosts compare it to the letter, so that one that the parser would write otherwise is refused:
/// it could never be the one that the app registered.
pub(super) fn redirect_uri(entry: &Entry) -> Result<(Url, String), Cause> {
    let written = text(entry)?;
    let url = Url::parse(&written).map_err(|_| Cause::RedirectUri)?;
    let here = url.scheme() == "http" && is_loopback_name(&url) && url.port().is_some_and(|port| port != 0);
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !here || !bare || url.as_str() != written {
        return Err(Cause::RedirectUri);
    }
    Ok((url, quoted(&written)))
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
