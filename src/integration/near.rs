//! What comes near a place that git asks for without being it: so that a person sees why nobody answers, or why this one does.
//!
//! None of this decides anything. An integration that is near answers nothing, however near it is.

use std::sync::Arc;

use super::ScmIntegration;
use super::location::{HostPattern, Location};
use super::registry::IntegrationRegistry;

/// How many are named.
const MAX_NEAR: usize = 10;

/// Shorter hosts than this are all near each other.
const SHORTEST_SLIP: usize = 6;

/// An integration near a place.
#[derive(Debug, Clone)]
pub struct Near {
    /// The integration.
    pub integration: Arc<ScmIntegration>,
    /// What keeps it from answering.
    pub distance: Distance,
}

/// How an integration misses a place. The nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// It covers the place too, but another one names more of the path.
    LessOfThePath,
    /// On the same host and port it covers other paths.
    OtherPath,
    /// It is on another port of the same host.
    OtherPort {
        /// Its own.
        port: u16,
    },
    /// Its host differs by one slip of a finger.
    OtherSpelling,
}

impl IntegrationRegistry {
    /// The integrations near a place, except for one: the nearest first, by their ids where they are equally near.
    #[must_use]
    pub fn near(&self, location: &Location, except: Option<&str>) -> Vec<Near> {
        let others = self.integrations().iter().filter(|integration| Some(integration.id.as_str()) != except);
        let near = |integration: &Arc<ScmIntegration>| {
            let pattern = HostPattern::parse(integration).ok()?;
            Some(Near { integration: Arc::clone(integration), distance: distance(&pattern, location)? })
        };
        let mut found: Vec<Near> = others.filter_map(near).collect();
        found.sort_by(|a, b| (a.distance, &a.integration.id).cmp(&(b.distance, &b.integration.id)));
        found.truncate(MAX_NEAR);
        found
    }
}

fn distance(pattern: &HostPattern, location: &Location) -> Option<Distance> {
    let key = &location.place().key;
    let (host, port) = key;
    if pattern.key() == key {
        return Some(if pattern.holds(location) { Distance::LessOfThePath } else { Distance::OtherPath });
    }
    if pattern.host() == host {
        return Some(Distance::OtherPort { port: pattern.port() });
    }
    let is_slip = pattern.port() == *port && pattern.host().len() >= SHORTEST_SLIP && is_slip(pattern.host().as_bytes(), host.as_bytes());
    is_slip.then_some(Distance::OtherSpelling)
}

/// Whether one byte more, less or other, or two that changed places, is all that differs.
fn is_slip(a: &[u8], b: &[u8]) -> bool {
    let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..], &b[start..]);
    match (a, b) {
        ([], []) => false,
        ([_, rest @ ..], other) if rest == other => true,
        (other, [_, rest @ ..]) if rest == other => true,
        ([_, rest_a @ ..], [_, rest_b @ ..]) if rest_a == rest_b => true,
        ([first_a, second_a, rest_a @ ..], [first_b, second_b, rest_b @ ..]) => {
            (first_a, second_a) == (second_b, first_b) && rest_a == rest_b
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::ScmId;
    use crate::integration::source::IntegrationList;

    fn registry(hosts: &[(&str, &str)]) -> IntegrationRegistry {
        let integration = |(id, host): &(&str, &str)| {
            Arc::new(ScmIntegration {
                id: (*id).to_owned(),
                scm_id: ScmId::GitLab,
                host: (*host).to_owned(),
                runner_id: String::new(),
                virtual_directory: String::new(),
                pat: false,
                oauth: None,
            })
        };
        IntegrationRegistry::new(IntegrationList { integrations: hosts.iter().map(integration).collect(), rejected: Vec::new() })
    }

    fn near(registry: &IntegrationRegistry, host: &str, path: Option<&str>, except: Option<&str>) -> Vec<(String, Distance)> {
        let location = Location::from_git(b"https", host.as_bytes(), path.map(str::as_bytes), None, false).unwrap();
        registry.near(&location, except).into_iter().map(|near| (near.integration.id.clone(), near.distance)).collect()
    }

    fn expect(found: &[(String, Distance)], expected: &[(&str, Distance)]) {
        let expected: Vec<(String, Distance)> = expected.iter().map(|(id, distance)| ((*id).to_owned(), *distance)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_misses_by_a_path_a_port_or_a_slip_is_named_in_that_order() {
        let registry = registry(&[
            ("port", "scm.example.com:8443"),
            ("path", "scm.example.com/gitlab"),
            ("deeper", "scm.example.com/a/b"),
            ("shorter", "scm.example.com/a"),
            ("slip", "scn.example.com"),
            ("other", "git.example.com"),
        ]);
        let expected = [
            ("deeper", Distance::OtherPath),
            ("path", Distance::OtherPath),
            ("shorter", Distance::OtherPath),
            ("port", Distance::OtherPort { port: 8443 }),
            ("slip", Distance::OtherSpelling),
        ];
        expect(&near(&registry, "SCM.example.com", Some("x/y"), None), &expected);
        let expected = [
            ("shorter", Distance::LessOfThePath),
            ("path", Distance::OtherPath),
            ("port", Distance::OtherPort { port: 8443 }),
            ("slip", Distance::OtherSpelling),
        ];
        expect(&near(&registry, "scm.example.com", Some("a/b/c"), Some("deeper")), &expected);
        expect(&near(&registry, "unrelated.example", None, None), &[]);
    }

    #[test]
    fn only_one_slip_of_a_finger_is_plainly_a_slip() {
        for (typed, meant, expected) in [
            ("gihtub.com", "github.com", true),
            ("githb.com", "github.com", true),
            ("github.co", "github.com", true),
            ("githubb.com", "github.com", true),
            ("githab.com", "github.com", true),
            ("ggithub.com", "github.com", true),
            ("github.com", "github.com", false),
            ("gitlab.com", "github.com", false),
            ("gitbuh.com", "github.com", false),
            ("github.com.evil.tld", "github.com", false),
            ("www.github.com", "github.com", false),
            ("notgithub.com", "github.com", false),
        ] {
            assert_eq!(is_slip(typed.as_bytes(), meant.as_bytes()), expected, "{typed}");
            assert_eq!(is_slip(meant.as_bytes(), typed.as_bytes()), expected, "{typed}");
        }
        let registry = registry(&[("short", "a.io")]);
        expect(&near(&registry, "b.io", None, None), &[]);
    }

    #[test]
    fn of_many_only_some_are_named() {
        let hosts: Vec<(String, String)> = (0..100).map(|n| (format!("{n:03}"), format!("scm.example.com/{n}"))).collect();
        let hosts: Vec<(&str, &str)> = hosts.iter().map(|(id, host)| (id.as_str(), host.as_str())).collect();
        assert_eq!(near(&registry(&hosts), "scm.example.com", Some("x/y"), None).len(), MAX_NEAR);
    }
}
