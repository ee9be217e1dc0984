//! `scm-agent oauth-app`: the app of a host for other OAuth tooling, as JSON, for the environment, or as git configuration.
//!
//! What the two last hold is for Git Credential Manager and git-credential-oauth, which read git's configuration: each setting under the
//! name that each of them knows, and for the one place that the integration covers. Settings of Git Credential Manager's that would hold
//! for every host (`GCM_OAUTH_*`) are left alone: with them it would give this host's token to any other that asks.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::{Io, client, target};
use crate::error::{Error, Kind};
use crate::oauth_app::{Answer, OAuthApp};

/// Arguments of `oauth-app`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The host, or a repository on it: https://HOST[/PATH]
    #[arg(value_name = "URL")]
    url: String,
    /// How to print it
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// Print the secret even to a terminal
    #[arg(long)]
    reveal: bool,
}

/// How the app is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Everything there is, as one document
    Json,
    /// Lines for a POSIX shell's `eval`, which hand git configuration to git and what it starts
    Env,
    /// A section for a file that git's configuration includes
    GitConfig,
}

/// How long the daemon may take: it may have to ask an issuer where its endpoints are.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The variable that says how many settings git takes from the environment (git-config(1)).
const COUNT: &str = "GIT_CONFIG_COUNT";

/// Where that is no number, or so many that nobody can have meant it, counting begins anew.
const MAX_COUNT: usize = 1_000_000;

/// Runs `oauth-app`. Where the secret may not be printed, it is not asked for.
///
/// # Errors
/// When the URL is none, standard output is a terminal, no daemon answers, it does not give the app, or the app has not what the format
/// takes.
pub fn run(args: &Args, socket: impl FnOnce() -> Result<PathBuf, Error>, io: &mut Io<'_>) -> Result<(), Error> {
    let url = target::url(&args.url)?;
    if io.stdout_is_terminal && !args.reveal {
        return Err(Error::new(Kind::User, "standard output is a terminal, and a secret shown there stays there")
            .hint("send the output to a file or a program, or add --reveal"));
    }
    let app = match client::ask_within(TIMEOUT, &socket()?, "oauth-app", &[("url", &url)])? {
        Answer::Given(app) => app,
        Answer::Refused(refused) => {
            let error = Error::new(Kind::User, refused.error);
            return Err(match refused.next {
                Some(next) => error.hint(next),
                None => error,
            });
        }
    };
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *io.stdout, &app).map_err(std::io::Error::from)?;
            writeln!(io.stdout)?;
        }
        Format::Env => {
            let taken = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).filter(|&count| count < MAX_COUNT).unwrap_or(0);
            environment(&app.url, &settings(&app)?, taken, io.stdout)?;
        }
        Format::GitConfig => section(&app, &settings(&app)?, io.stdout)?,
    }
    io.stdout.flush()?;
    if let (Some(problem), Format::Json) = (&app.problem, args.format) {
        writeln!(io.stderr, "warning: nobody can sign in with it as it is: {problem}")?;
    }
    Ok(())
}

/// A setting's name below `credential.URL`, and its value.
type Setting<'a> = (&'static str, std::borrow::Cow<'a, str>);

/// What the two tools read, each by the name that it knows.
///
/// # Errors
/// When the app lacks an endpoint that both of them need.
fn settings(app: &OAuthApp) -> Result<Vec<Setting<'_>>, Error> {
    let (Some(authorize), Some(token)) = (&app.authorization_endpoint, &app.token_endpoint) else {
        let reason = app.problem.as_deref().unwrap_or("the host has no sign-in by browser");
        return Err(Error::new(Kind::User, format!("Git Credential Manager and git-credential-oauth cannot use the app: {reason}"))
            .hint("for what there is: --format json"));
    };
    // Both of them: names in git's configuration have no case.
    let mut settings: Vec<Setting<'_>> =
        vec![("oauthClientId", (&*app.client_id).into()), ("oauthClientSecret", app.client_secret.expose_secret().into())];
    if !app.scopes.is_empty() {
        settings.push(("oauthScopes", app.scopes.join(" ").into()));
    }
    // git-credential-oauth, which before 0.5.1 knew places on the host itself only.
    let here = |url| on_the_host(&app.url, url);
    settings.extend([("oauthAuthURL", here(authorize).into()), ("oauthTokenURL", here(token).into())]);
    let device = app.device_authorization_endpoint.as_deref();
    settings.extend(device.map(|device| ("oauthDeviceAuthURL", here(device).into())));
    let redirect = app.redirect_uris.first().map(String::as_str);
    // Without a port, versions before 0.11 cannot listen there. By itself it takes any.
    let with_port = redirect.filter(|redirect| url::Url::parse(redirect).is_ok_and(|redirect| redirect.port().is_some()));
    settings.extend(with_port.map(|redirect| ("oauthRedirectURL", redirect.into())));
    // Git Credential Manager, whose other providers have apps of their own.
    settings.push(("provider", "generic".into()));
    settings.extend([("oauthAuthorizeEndpoint", (&**authorize).into()), ("oauthTokenEndpoint", (&**token).into())]);
    // Its device flow never shows the secret.
    let device = device.filter(|_| !app.device_flow_needs_secret);
    settings.extend(device.map(|device| ("oauthDeviceEndpoint", device.into())));
    settings.extend(redirect.map(|redirect| ("oauthRedirectUri", redirect.into())));
    // It always puts the secret into the form; with this it does so twice.
    let form_alone = app.token_endpoint_auth_methods.iter().any(|way| way == "client_secret_post");
    settings.push(("oauthUseClientAuthHeader", if form_alone { "false" } else { "true" }.into()));
    if !app.username.is_empty() {
        settings.push(("oauthDefaultUserName", (&*app.username).into()));
    }
    // git keeps paths to itself else, and the section would never be found.
    if app.url.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) {
        settings.push(("useHttpPath", "true".into()));
    }
    Ok(settings)
}

/// An endpoint without its origin, where that is the host's own.
fn on_the_host<'a>(host: &str, endpoint: &'a str) -> &'a str {
    let origin =
        host.split_once("://").and_then(|(_, rest)| rest.find('/').map(|path| &host[..host.len() - rest.len() + path])).unwrap_or(host);
    endpoint.strip_prefix(origin).filter(|path| path.starts_with('/') && !path.starts_with("//")).unwrap_or(endpoint)
}

/// Settings for git's environment (git-config(1), "ENVIRONMENT"), after as many as there are already.
fn environment(url: &str, settings: &[Setting<'_>], taken: usize, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    for (number, (name, value)) in (taken..).zip(settings) {
        write!(out, "export GIT_CONFIG_KEY_{number}=")?;
        shell_quoted(&["credential.", url, ".", name], out)?;
        write!(out, "\nexport GIT_CONFIG_VALUE_{number}=")?;
        shell_quoted(&[value], out)?;
        writeln!(out)?;
    }
    // Last, so that a half of it does not count.
    writeln!(out, "export {COUNT}='{}'", taken + settings.len())
}

/// Writes texts as one word of a POSIX shell.
fn shell_quoted(texts: &[&str], out: &mut dyn std::io::Write) -> std::io::Result<()> {
    out.write_all(b"'")?;
    for byte in texts.iter().flat_map(|text| text.bytes()) {
        match byte {
            b'\'' => out.write_all(b"'\\''")?,
            _ => out.write_all(&[byte])?,
        }
    }
    out.write_all(b"'")
}

/// A section of a git configuration file (git-config(1), "CONFIGURATION FILE").
fn section(app: &OAuthApp, settings: &[Setting<'_>], out: &mut dyn std::io::Write) -> std::io::Result<()> {
    writeln!(out, "# The OAuth app of {}, with its secret: for the eyes of its user only.", app.host)?;
    out.write_all(b"[credential \"")?;
    config_quoted(&app.url, out)?;
    writeln!(out, "\"]")?;
    for (name, value) in settings {
        write!(out, "\t{name} = \"")?;
        config_quoted(value, out)?;
        writeln!(out, "\"")?;
    }
    Ok(())
}

/// Writes a text as it stands between quotes in git's configuration. There are no line ends in it.
fn config_quoted(text: &str, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.write_all(&[b'\\', byte])?,
            _ => out.write_all(&[byte])?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_on_the_host_is_named_by_its_path() {
        for (host, endpoint, expected) in [
            ("https://scm.example", "https://scm.example/oauth/authorize?x=y", "/oauth/authorize?x=y"),
            ("https://scm.example:8443", "https://scm.example:8443/token", "/token"),
            ("https://scm.example/git/lab", "https://scm.example/git/lab/oauth/token", "/git/lab/oauth/token"),
            // Others, whose names begin alike.
            ("https://scm.example", "https://scm.example.evil.example/token", "https://scm.example.evil.example/token"),
            ("https://scm.example", "https://scm.example:8443/token", "https://scm.example:8443/token"),
            ("https://scm.example", "http://scm.example/token", "http://scm.example/token"),
            // Which a browser would take for another host.
            ("https://scm.example", "https://scm.example//evil.example/token", "https://scm.example//evil.example/token"),
        ] {
            assert_eq!(on_the_host(host, endpoint), expected, "{host} {endpoint}");
        }
    }

    #[test]
    fn quotes_of_the_shell_and_of_git_hold_everything() {
        let quoted = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(quoted(&|out| shell_quoted(&["a'b", "$(c)\\"], out).unwrap()), "'a'\\''b$(c)\\'");
        assert_eq!(quoted(&|out| config_quoted("a'b\"c\\d;#", out).unwrap()), "a'b\\\"c\\\\d;#");
    }
}
