//! Whether a request goes through a proxy, and through which.

use std::fmt;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::{BuildError, host_and_port, is_loopback_name};

/// Where the environment names a proxy for https URLs; the first that is set counts.
pub(crate) const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Where the environment names the hosts that are asked directly; the first that is set counts.
pub(crate) const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A proxy and what goes through it.
pub(super) struct Route {
    /// The proxy's URL, to be given to the client.
    pub(super) url: Url,
    /// Its host and port, for messages.
    pub(super) name: String,
    matcher: Matcher,
}

impl Route {
    /// The configured proxy, else that of the environment; with the configured exceptions, else those of the environment.
    pub(super) fn new(
        proxy: Option<&Url>,
        no_proxy: Option<&[String]>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, BuildError> {
        let set = |name: &&'static str| environment(name).filter(|value| !value.is_empty()).map(|value| (*name, value));
        let url = match proxy {
            Some(proxy) => proxy.clone(),
            None => match PROXY_VARIABLES.iter().find_map(set) {
                None => return Ok(None),
                Some((variable, value)) => usable(&value).ok_or(BuildError::ProxyVariable { variable })?,
            },
        };
        let exceptions = match no_proxy {
            Some(exceptions) => exceptions.join(","),
            None => NO_PROXY_VARIABLES.iter().find_map(set).map(|(_, value)| value).unwrap_or_default(),
        };
        let matcher = Matcher::builder().all(url.as_str()).no(exceptions).build();
        Ok(Some(Self { name: host_and_port(&url), url, matcher }))
    }

    /// Whether a request goes through the proxy.
    pub(super) fn takes(&self, url: &Url) -> bool {
        // A proxy is another machine: this one's loopback means nothing there.
        if is_loopback_name(url) {
            return false;
        }
        // The matcher looks at the host alone, in which the dot that makes a name absolute is no part of the name.
        let host = url.host_str().unwrap_or_default();
        let uri = format!("https://{}/", host.strip_suffix('.').unwrap_or(host)).parse::<Uri>();
        uri.map_or(true, |uri| self.matcher.intercept(&uri).is_some())
    }
}

/// Without the URL, which can hold a password.
impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the environment says, as curl reads it: the scheme may be left out.
fn usable(text: &str) -> Option<Url> {
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(proxy: Option<&str>, no_proxy: Option<&[&str]>, environment: &[(&str, &str)], url: &str) -> Option<(String, bool)> {
        let proxy = proxy.map(|proxy| Url::parse(proxy).unwrap());
        let no_proxy: Option<Vec<String>> = no_proxy.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect());
        let find = |name: &str| environment.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned());
        let route = Route::new(proxy.as_ref(), no_proxy.as_deref(), find).ok().unwrap()?;
        Some((route.name.clone(), route.takes(&Url::parse(url).unwrap())))
    }

    #[test]
    fn the_configured_proxy_goes_before_the_environments_and_the_capitals_before_the_small_letters() {
        let all = [("all_proxy", "http://d"), ("ALL_PROXY", "http://c"), ("https_proxy", "http://b:8"), ("HTTPS_PROXY", "http://u:p@a:9")];
        let name = |proxy, environment: &[(&str, &str)]| takes(proxy, None, environment, "https://x.example").map(|(name, _)| name);
        assert_eq!(name(Some("http://own:3128"), &all).as_deref(), Some("own:3128"));
        assert_eq!(name(None, &all).as_deref(), Some("a:9"));
        assert_eq!(name(None, &all[..3]).as_deref(), Some("b:8"));
        assert_eq!(name(None, &all[..2]).as_deref(), Some("c"));
        assert_eq!(name(None, &all[..1]).as_deref(), Some("d"));
        assert_eq!(name(None, &[("HTTP_PROXY", "http://a"), ("HTTPS_PROXY", "")]), None);
        assert_eq!(name(None, &[("HTTPS_PROXY", "bare.example:3128")]).as_deref(), Some("bare.example:3128"));
    }

    #[test]
    fn a_variable_that_names_no_http_proxy_is_an_error_that_names_the_variable() {
        for value in ["socks5h://canary:1080", "http://", "://canary", "http://canary:99999", "canary canary"] {
            let find = |name: &str| (name == "ALL_PROXY").then(|| value.to_owned());
            let Err(error) = Route::new(None, None, find) else { panic!("{value} is taken") };
            assert_eq!(error.to_string(), "the variable ALL_PROXY names no http or https proxy");
        }
    }

    #[test]
    fn exceptions_are_names_with_their_subdomains_addresses_networks_and_everything() {
        let direct = |no_proxy: &str, url: &str| !takes(Some("http://p"), Some(&[no_proxy]), &[], url).unwrap().1;
        for (no_proxy, url) in [
            ("example.com", "https://example.com/"),
            ("example.com", "https://git.example.com/"),
            ("example.com", "https://example.com./"),
            ("example.com", "https://EXAMPLE.com:8443/"),
            (".example.com", "https://git.example.com/"),
            ("10.0.0.0/8", "https://10.1.2.3/"),
            ("10.1.2.3", "https://10.1.2.3:8443/"),
            ("2001:db8::/32", "https://[2001:db8::1]/"),
            ("2001:db8::1", "https://[2001:db8::1]/"),
            ("*", "https://anything.example/"),
        ] {
            assert!(direct(no_proxy, url), "{no_proxy} does not except {url}");
        }
        for (no_proxy, url) in [
            ("example.com", "https://notexample.com/"),
            ("example.com", "https://example.com.evil.example/"),
            ("10.0.0.0/8", "https://11.0.0.1/"),
            ("10.0.0.0/8", "https://10.example/"),
        ] {
            assert!(!direct(no_proxy, url), "{no_proxy} excepts {url}");
        }
        // Without a configured list that of the environment counts, with one, even an empty one, it does not.
        let environment = [("NO_PROXY", "other.example, example.com"), ("no_proxy", "third.example")];
        assert_eq!(takes(Some("http://p"), None, &environment, "https://example.com/").unwrap(), ("p".to_owned(), false));
        assert!(takes(Some("http://p"), None, &environment, "https://third.example/").unwrap().1);
        assert!(takes(Some("http://p"), Some(&[]), &environment, "https://example.com/").unwrap().1);
        assert!(!takes(None, None, &[("ALL_PROXY", "p"), environment[0]], "https://example.com/").unwrap().1);
    }

    #[test]
    fn this_machines_names_never_go_through_a_proxy() {
        for url in ["http://localhost:9/", "https://127.0.0.1/", "http://[::1]:9/"] {
            assert!(!takes(Some("http://p"), Some(&[]), &[], url).unwrap().1, "{url}");
        }
        for url in ["https://localhost.example/", "https://127.0.0.2/"] {
            assert!(takes(Some("http://p"), Some(&[]), &[], url).unwrap().1, "{url}");
        }
    }
}
