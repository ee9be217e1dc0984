//! Which `credential` sections git needs for the integrations of the daemon's list, and how they are written.
//!
//! Where an integration covers a whole host, one section forgets every helper that was named before and names ours. Where it covers
//! paths only, each path has such a section, and the host's own section merely adds ours behind what is there: it has git tell the path,
//! and catches what the paths' sections miss (another case, a request without a path), while other owners on the host keep their helpers.
//!
//! Hosts come from the control plane. What is written of them is what [`HostPattern`] accepts: letters, digits, dots and the like, with
//! everything else in a path percent-encoded, so that nothing in a list can end a section and begin another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use super::text::{quoted_for_git, quoted_for_shell};
use crate::cli::client::DEFAULT_SOCKET;
use crate::error::{Error, Kind};
use crate::integration::host;
use crate::integration::location::HostPattern;
use crate::integration::path::{self, Segment};
use crate::integration::{ScmId, ScmIntegration};
use crate::status::Integration;

/// A section `[credential "URL"]`. In the order of their URLs, a host's own section comes before those of its paths, as git applies
/// every section that matches, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Section {
    /// The URL that git's own is held against; of a host with an underscore also without the scheme.
    pub(crate) url: String,
    /// Whether ours is to be the only helper there, because all that lies below the URL is ours.
    pub(crate) only: bool,
    /// Whether git has to tell the path, or the daemon cannot tell the integrations apart.
    pub(crate) use_http_path: bool,
}

/// What of a host and port is ours.
#[derive(Debug, Default)]
struct HostOnList {
    /// Integrations there, also those that answer nothing.
    integrations: usize,
    /// Whether one that answers covers it whole.
    whole: bool,
    /// Whether one that covers it whole is GitHub's.
    github: bool,
    /// The paths that those that answer cover, as registered.
    paths: BTreeSet<Vec<Segment>>,
}

/// The sections that git needs, in the order in which they are written.
pub(crate) fn wanted(integrations: &[Integration]) -> Vec<Section> {
    let mut hosts: BTreeMap<(String, u16), HostOnList> = BTreeMap::new();
    for row in integrations {
        let integration = definition(row);
        let Ok(pattern) = HostPattern::parse(&integration) else { continue };
        let answers = can_answer(row);
        let segments = segments(&integration, &pattern);
        for (name, segments) in spellings(&pattern, segments) {
            let host = hosts.entry((name, pattern.port())).or_default();
            host.integrations += 1;
            if answers && segments.is_empty() {
                host.whole = true;
                host.github |= integration.scm_id == ScmId::GitHub;
            } else if answers {
                host.paths.insert(segments);
            }
        }
    }
    let mut sections = BTreeSet::new();
    for ((name, port), host) in &hosts {
        for origin in origins(name, *port) {
            add(&mut sections, &origin, host);
        }
        // As the registry has it: gists of a GitHub that goes by a name, unless their host is registered itself.
        let gists = (format!("gist.{name}"), *port);
        let named = name.parse::<Ipv4Addr>().is_err() && !name.starts_with("gist.") && host::parse(gists.0.as_bytes()).is_ok();
        if host.github && named && !hosts.contains_key(&gists) {
            let host = HostOnList { integrations: 1, whole: true, ..HostOnList::default() };
            origins(&gists.0, *port).iter().for_each(|origin| add(&mut sections, origin, &host));
        }
    }
    sections.into_iter().collect()
}

/// Whether git may get something of an integration: a token of the app or the user, or a personal access token.
fn can_answer(row: &Integration) -> bool {
    let in_force = row.quarantine.as_ref().is_none_or(|held| held.serving);
    in_force && (row.pat || matches!(row.grant.as_str(), "service" | "user" | "pat"))
}

fn definition(row: &Integration) -> ScmIntegration {
    ScmIntegration {
        id: row.id.clone(),
        scm_id: ScmId::from(row.scm_id.as_str()),
        host: row.host.clone(),
        oauth: None,
        pat: row.pat,
        runner_id: String::new(),
        virtual_directory: row.virtual_directory.clone(),
    }
}

/// The path segments that a valid integration covers, in the case in which they are registered: git compares paths to the letter.
fn segments(integration: &ScmIntegration, pattern: &HostPattern) -> Vec<Segment> {
    let rest = integration.host.split_once("://").map_or(integration.host.as_str(), |(_, rest)| rest);
    let parse = |text: &str| path::parse(text.as_bytes()).unwrap_or_default();
    let mut segments = rest.split_once('/').map_or_else(Vec::new, |(_, path)| parse(path));
    // The organisation in the name of a host is a segment of the place.
    if let Some(organisation) = visual_studio_organisation(rest) {
        if segments.first().is_some_and(|first| first.eq_ignore_ascii_case(b"DefaultCollection")) {
            segments.remove(0);
        }
        segments.insert(0, organisation);
    }
    if pattern.depth() > segments.len() {
        segments.extend(parse(&integration.virtual_directory));
    }
    segments
}

/// The organisation of `<organisation>.visualstudio.com`, in lower case.
fn visual_studio_organisation(host: &str) -> Option<Segment> {
    let authority = host.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let name = authority.strip_suffix(":443").unwrap_or(&authority);
    name.strip_suffix(VISUAL_STUDIO).filter(|label| !label.is_empty() && !label.contains('.')).map(|label| label.as_bytes().to_vec())
}

/// A place under each of the names that git may have for it: an Azure DevOps organisation has two.
fn spellings(pattern: &HostPattern, segments: Vec<Segment>) -> Vec<(String, Vec<Segment>)> {
    let own = pattern.host().to_owned();
    if (own.as_str(), pattern.port()) != AZURE_DEVOPS {
        return vec![(own, segments)];
    }
    let old = match segments.split_first() {
        // Every organisation's: git takes `*` for one label.
        None => Some((format!("*{VISUAL_STUDIO}"), Vec::new())),
        Some((organisation, below)) => std::str::from_utf8(organisation)
            .ok()
            .filter(|label| !label.contains(['.', ':', '[']))
            .and_then(|label| host::parse(format!("{label}{VISUAL_STUDIO}").as_bytes()).ok())
            .map(|(name, _)| (name, below.to_vec())),
    };
    std::iter::once((own, segments)).chain(old).collect()
}

/// `scheme://host[:port]`. On loopback both schemes: the daemon may be permitted to answer `http` there.
fn origins(host: &str, port: u16) -> Vec<String> {
    let with_port = |scheme: &str, own: u16| {
        if port == own { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") }
    };
    let mut origins = vec![with_port("https", 443)];
    if host::is_loopback(host) {
        origins.push(with_port("http", 80));
    }
    origins
}

/// Adds the sections of a host under one of its origins.
fn add(sections: &mut BTreeSet<Section>, origin: &str, host: &HostOnList) {
    let shared = host.integrations > 1 || origin == "https://dev.azure.com";
    let plain = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    if plain.contains('_') {
        // git (2.39 to 2.47, measured) escapes the underscore in its own URL and then compares it with no section's. It does
        // compare such a host as it is with a section that has no scheme; only a path below it cannot be told there.
        let use_http_path = shared || !host.whole;
        if host.whole || !host.paths.is_empty() {
            sections.insert(Section { url: plain.to_owned(), only: true, use_http_path });
            sections.insert(Section { url: origin.to_owned(), only: true, use_http_path });
        }
    } else if host.whole {
        sections.insert(Section { url: origin.to_owned(), only: true, use_http_path: shared });
    } else if !host.paths.is_empty() {
        sections.insert(Section { url: origin.to_owned(), only: false, use_http_path: true });
        for path in &host.paths {
            let path: Vec<String> = path.iter().map(|segment| percent_encoded(segment)).collect();
            sections.insert(Section { url: format!("{origin}/{}", path.join("/")), only: true, use_http_path: true });
        }
    }
}

/// A path segment as git spells it in what it compares: all but unreserved characters (RFC 3986 section 2.3) percent-encoded.
fn percent_encoded(segment: &[u8]) -> String {
    let mut text = String::new();
    for &byte in segment {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// What git is told to run: our helper by its short name, with the socket where it is not the default.
///
/// # Errors
/// When the socket's path has a character that cannot stand in git's configuration.
pub(crate) fn helper(socket: &Path) -> Result<String, Error> {
    if socket == Path::new(DEFAULT_SOCKET) {
        return Ok("scm-agent".to_owned());
    }
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let path = absolute.to_str().filter(|path| !path.contains(char::is_control)).ok_or_else(|| {
        Error::new(Kind::Config, "agent.socket has a control character in it, or is no UTF-8, so git cannot be told of it")
            .hint("give agent.socket another path")
    })?;
    Ok(format!("scm-agent --socket {}", quoted_for_shell(path)))
}

/// The lines of the sections.
pub(super) fn render(sections: &[Section], helper: &str) -> String {
    let helper = quoted_for_git(helper);
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("[credential \"{}\"]\n", section.url));
        if section.only {
            text.push_str("\thelper =\n");
        }
        text.push_str(&format!("\thelper = {helper}\n"));
        if section.use_http_path {
            text.push_str("\tuseHttpPath = true\n");
        }
    }
    text
}

const AZURE_DEVOPS: (&str, u16) = ("dev.azure.com", 443);
const VISUAL_STUDIO: &str = ".visualstudio.com";

#[cfg(test)]
mod tests;
