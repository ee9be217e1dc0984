//! What git asks for, and what an integration covers: the same kind of place, compared exactly.
//!
//! A place is a host, a port and leading path segments. Hosts are equal or they are not: no suffix, no wildcard. The one place
//! with two names is an Azure DevOps organisation, `dev.azure.com/<org>` and `<org>.visualstudio.com`; it is kept under the
//! first.

use std::fmt;

use super::host::{self, HostError};
use super::path::{self, PathError, Segment};
use super::{ScmId, ScmIntegration};

/// What git asks a credential for.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    https: bool,
    host: String,
    port: u16,
    place: Place,
}

/// Why git's request is for nobody here. Without an answer git asks its next helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// The host is not plainly a host.
    #[error("host {0}")]
    Host(HostError),
    /// The path could mean another place to the server.
    #[error("path {0}")]
    Path(PathError),
    /// Neither `https` nor `http` on a permitted loopback.
    #[error("protocol is not https")]
    Protocol,
    /// The user name has a control character.
    #[error("username has a control character")]
    Username,
}

/// Where a host leaves off: the parts that are compared.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Host and port, as the registry looks them up.
    pub(super) key: (String, u16),
    /// The leading path segments that are known.
    pub(super) segments: Vec<Segment>,
    /// The same in ASCII lower case, for places that ignore it.
    pub(super) folded: Vec<Segment>,
    /// Whether git told the path, so that nothing follows the segments.
    pub(super) complete: bool,
}

impl Location {
    /// Reads the attributes of git's request. Without a path (git leaves it out unless `credential.useHttpPath` is set) the user
    /// name stands for the organisation on `dev.azure.com`, where clone URLs carry it.
    ///
    /// `allow_insecure_loopback` lets `http` stand on `127.0.0.1`, `[::1]` and `localhost`.
    ///
    /// # Errors
    /// When no integration could ever answer, whatever is registered.
    pub fn from_git(
        protocol: &[u8],
        host: &[u8],
        path: Option<&[u8]>,
        username: Option<&[u8]>,
        allow_insecure_loopback: bool,
    ) -> Result<Self, NotServed> {
        let https = match protocol {
            b"https" => true,
            b"http" if allow_insecure_loopback => false,
            _ => return Err(NotServed::Protocol),
        };
        let (host, port) = host::parse(host).map_err(NotServed::Host)?;
        if !https && !host::is_loopback(&host) {
            return Err(NotServed::Protocol);
        }
        if username.is_some_and(|name| name.iter().any(u8::is_ascii_control)) {
            return Err(NotServed::Username);
        }
        let port = port.unwrap_or(if https { HTTPS_PORT } else { HTTP_PORT });
        // git itself takes an empty path for none.
        let path = path.filter(|path| !path.is_empty()).map(path::parse).transpose().map_err(NotServed::Path)?;
        let complete = path.is_some();
        let (canonical, mut segments) = canonical(&host, port, path.unwrap_or_default());
        if !complete
            && segments.is_empty()
            && canonical == (AZURE_DEVOPS, HTTPS_PORT)
            && let Some(organisation) = username.filter(|name| !name.is_empty())
        {
            segments.push(organisation.to_vec());
        }
        let key = (canonical.0.to_owned(), canonical.1);
        let folded = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
        Ok(Self { https, host, port, place: Place { key, segments, folded, complete } })
    }

    /// The host in lower case, without a port; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own if git named none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `https`, or `http` on a permitted loopback.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// `host`, or `host:port` where the port is not the scheme's own.
    #[must_use]
    pub fn host_port(&self) -> String {
        let own = if self.https { HTTPS_PORT } else { HTTP_PORT };
        if self.port == own { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether git told which path it is for.
    #[must_use]
    pub fn has_path(&self) -> bool {
        self.place.complete
    }

    /// Whether more than the host is known though git told no path: the organisation, by the user name.
    #[must_use]
    pub fn names_organisation(&self) -> bool {
        !self.place.complete && !self.place.segments.is_empty()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

/// Scheme, host and port: a path may name what is private, and a user name may be a token.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.host_port())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self}, {} segments, complete: {})", self.place.segments.len(), self.place.complete)
    }
}

/// What an integration covers: everything on a host and port below a path prefix of whole segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    key: (String, u16),
    prefix: Vec<Segment>,
    ignores_case: bool,
}

/// Why an integration's host or virtual directory covers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A fragment after `#`.
    #[error("host has a fragment")]
    Fragment,
    /// The host is not plainly a host.
    #[error("host {0}")]
    Host(HostError),
    /// The path after the host could mean another place.
    #[error("path in host {0}")]
    Path(PathError),
    /// A percent sign: git asks with decoded paths.
    #[error("path in host has a percent sign: its characters are written plainly")]
    Percent,
    /// A query after `?`.
    #[error("host has a query")]
    Query,
    /// A scheme that is not `https`, nor `http` on loopback.
    #[error("host has a scheme that is not https")]
    Scheme,
    /// The virtual directory could mean another place.
    #[error("virtual directory {0}")]
    VirtualDirectory(PathError),
    /// A percent sign, query or fragment in the virtual directory.
    #[error("virtual directory has a percent sign, a question mark or a number sign")]
    VirtualDirectoryCharacter,
}

impl HostPattern {
    /// Reads what an integration's `host` and `virtual_directory` cover. A scheme, a slash at the end, upper case and a default
    /// port are tolerated in `host`.
    ///
    /// # Errors
    /// When the two do not plainly name a place.
    pub fn parse(integration: &ScmIntegration) -> Result<Self, PatternError> {
        let mut pattern = Self::of_host(&integration.host)?;
        if integration.virtual_directory.contains(['%', '?', '#']) {
            return Err(PatternError::VirtualDirectoryCharacter);
        }
        let directory = path::parse(integration.virtual_directory.as_bytes()).map_err(PatternError::VirtualDirectory)?;
        if integration.scm_id == ScmId::AzureDevOpsServer && !pattern.ignores_case {
            pattern.ignores_case = true;
            fold(&mut pattern.prefix);
        }
        append_directory(&mut pattern.prefix, directory, pattern.ignores_case);
        Ok(pattern)
    }

    /// Reads what a host with its port and leading path segments covers, written as in an integration's `host`.
    ///
    /// # Errors
    /// When it does not plainly name a place.
    pub fn of_host(host: &str) -> Result<Self, PatternError> {
        let (scheme, rest) = host.split_once("://").map_or((None, host), |(scheme, rest)| (Some(scheme), rest));
        if rest.contains('#') {
            return Err(PatternError::Fragment);
        }
        if rest.contains('?') {
            return Err(PatternError::Query);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = host::parse(authority.as_bytes()).map_err(PatternError::Host)?;
        let own_port = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None | Some("https") => HTTPS_PORT,
            Some("http") if host::is_loopback(&host) => HTTP_PORT,
            Some(_) => return Err(PatternError::Scheme),
        };
        if path.contains('%') {
            return Err(PatternError::Percent);
        }
        let path = path::parse(path.as_bytes()).map_err(PatternError::Path)?;
        let (canonical, mut prefix) = canonical(&host, port.unwrap_or(own_port), path);
        let ignores_case = canonical == (AZURE_DEVOPS, HTTPS_PORT);
        if ignores_case {
            fold(&mut prefix);
        }
        Ok(Self { key: (canonical.0.to_owned(), canonical.1), prefix, ignores_case })
    }

    /// Whether this covers all that another pattern covers. Case counts in paths unless one of the two ignores it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let ignores_case = self.ignores_case || other.ignores_case;
        let same = |(own, theirs): (&Segment, &Segment)| own == theirs || (ignores_case && own.eq_ignore_ascii_case(theirs));
        self.key == other.key && self.prefix.len() <= other.prefix.len() && self.prefix.iter().zip(&other.prefix).all(same)
    }

    /// Whether a place that git told lies within this: on the host and port, below the path.
    pub(super) fn holds(&self, location: &Location) -> bool {
        let Place { key, segments, folded, complete: _ } = location.place();
        let told = if self.ignores_case { folded } else { segments };
        self.key == *key && told.starts_with(&self.prefix)
    }

    /// The host in lower case, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.key.0
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.key.1
    }

    /// How many whole path segments a URL must start with.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.prefix.len()
    }

    pub(super) fn key(&self) -> &(String, u16) {
        &self.key
    }

    /// The segments with a slash between two, in lower case if case is ignored.
    pub(super) fn prefix(&self) -> Box<[u8]> {
        path::join(&self.prefix).into()
    }

    pub(super) fn ignores_case(&self) -> bool {
        self.ignores_case
    }
}

/// Whether a host and port are Azure DevOps Services', where organisations share one host and one provider.
pub(super) fn is_azure_devops((host, port): &(String, u16)) -> bool {
    host == AZURE_DEVOPS && *port == HTTPS_PORT
}

/// Moves `<org>.visualstudio.com[/DefaultCollection]` to `dev.azure.com/<org>`; everything else stays.
fn canonical(host: &str, port: u16, mut segments: Vec<Segment>) -> ((&str, u16), Vec<Segment>) {
    let organisation = host.strip_suffix(".visualstudio.com").filter(|label| !label.contains('.'));
    let (Some(organisation), HTTPS_PORT) = (organisation, port) else { return ((host, port), segments) };
    if segments.first().is_some_and(|first| first.eq_ignore_ascii_case(b"DefaultCollection")) {
        segments.remove(0);
    }
    segments.insert(0, organisation.as_bytes().to_vec());
    ((AZURE_DEVOPS, HTTPS_PORT), segments)
}

/// Appends the virtual directory, unless the host was registered with it already.
fn append_directory(prefix: &mut Vec<Segment>, mut directory: Vec<Segment>, ignores_case: bool) {
    if ignores_case {
        fold(&mut directory);
    }
    if !prefix.ends_with(&directory) {
        prefix.append(&mut directory);
    }
}

fn fold(segments: &mut [Segment]) {
    segments.iter_mut().for_each(|segment| segment.make_ascii_lowercase());
}

const AZURE_DEVOPS: &str = "dev.azure.com";
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
