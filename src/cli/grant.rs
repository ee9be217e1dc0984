//! `scm-agent grant`: gives one systemd unit one host for as long as it runs, shows what units were given, or takes it back.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::status::{columns, span};
use super::{Io, client};
use crate::error::{Error, Kind};
use crate::status::{UnitGrant, UnitGrantAnswer, UnitGrantList, UnitGrantRevoked};

/// Arguments of `grant`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["unit", "list", "revoke"])))]
pub struct Args {
    /// The unit, with its whole name such as job-123.service; it has to run already
    #[arg(long, value_name = "UNIT", requires = "host")]
    unit: Option<String>,
    /// The host, with its path if only integrations below that are meant
    #[arg(long, value_name = "HOST[/PATH]", requires = "unit")]
    host: Option<String>,
    /// For how long at most, such as 30m or 1h, up to 7 days
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration, requires = "unit")]
    ttl: Duration,
    /// What: service (tokens of the app), own (what its user signed in for), app-secret; several with commas
    #[arg(long, value_name = "WORDS", default_value = "service", requires = "unit", value_delimiter = ',')]
    #[arg(value_parser = ["service", "own", "app-secret"], hide_possible_values = true)]
    allow: Vec<String>,
    /// Show what units have
    #[arg(long)]
    list: bool,
    /// Print it as JSON
    #[arg(long, conflicts_with = "revoke")]
    json: bool,
    /// Take a grant back
    #[arg(long, value_name = "ID")]
    revoke: Option<String>,
}

/// Runs `grant`.
///
/// # Errors
/// When no daemon answers, the caller is neither root nor the daemon's user, or the grant cannot be given or taken back.
pub fn run(args: &Args, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    match args {
        Args { unit: Some(unit), host: Some(host), ttl, allow, json, .. } => give(unit, host, *ttl, &allow.join(","), *json, socket, io),
        Args { revoke: Some(id), .. } => take_back(id, socket, io),
        Args { json, .. } => {
            let UnitGrantList { grants } = client::ask(socket, "grants")?;
            let text = if *json { pretty(&grants)? } else { table(&grants, SystemTime::now()) };
            Ok(io.stdout.write_all(text.as_bytes())?)
        }
    }
}

fn give(unit: &str, host: &str, ttl: Duration, allow: &str, json: bool, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let seconds = ttl.as_secs().to_string();
    let fields = [("unit", unit), ("host", host), ("ttl_seconds", &seconds), ("allow", allow)];
    let UnitGrantAnswer { grant, error, notes } = client::ask_about(socket, "grant", &fields)?;
    let Some(grant) = grant else {
        let reason = error.unwrap_or_else(|| "the agent gave nothing".to_owned());
        let runs = !reason.contains("does not run");
        let error = Error::new(Kind::User, reason);
        return Err(if runs {
            error
        } else {
            error.hint(format!("see whether it does: systemctl status {}", super::explain::quoted(unit)))
        });
    };
    if json {
        io.stdout.write_all(pretty(&grant)?.as_bytes())?;
    } else {
        let UnitGrant { id, unit, host, allow, .. } = &grant;
        writeln!(io.stdout, "{unit} has {} of {host} until it ends, and for {} at most", allow.join(", "), span(ttl.as_secs()))?;
        writeln!(io.stdout, "to take it back: scm-agent grant --revoke {id}")?;
    }
    for note in notes {
        writeln!(io.stderr, "note: {note}")?;
    }
    Ok(())
}

fn take_back(id: &str, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let UnitGrantRevoked { revoked, problem } = client::ask_about(socket, "grant-revoke", &[("id", id)])?;
    if !revoked {
        return Err(Error::new(Kind::User, "there is no such grant, or it has ended").hint("see those there are: scm-agent grant --list"));
    }
    writeln!(io.stdout, "taken back; what git was given before stays good until it expires")?;
    match problem {
        None => Ok(()),
        Some(problem) => Err(Error::new(Kind::Internal, format!("it may come back when the agent restarts: {problem}"))),
    }
}

fn table(grants: &[UnitGrant], now: SystemTime) -> String {
    if grants.is_empty() {
        return "no unit has a grant\n".to_owned();
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut rows = vec![["ID", "UNIT", "HOST", "ALLOW", "LEFT", "BY"].map(str::to_owned)];
    rows.extend(grants.iter().map(|UnitGrant { id, unit, host, allow, granted_by, expires_at, .. }| {
        let left = span(expires_at.saturating_sub(now));
        [id.clone(), unit.clone(), host.clone(), allow.join(","), left, format!("uid {granted_by}")]
    }));
    let mut text = String::new();
    columns(&rows, &mut text);
    text
}

fn pretty(document: &impl serde::Serialize) -> Result<String, Error> {
    let mut text = serde_json::to_string_pretty(document).map_err(std::io::Error::from)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_grant() {
        let grant = UnitGrant {
            id: "0a1b2c3d".to_owned(),
            unit: "job-123.service".to_owned(),
            cgroup: "/system.slice/job-123.service".to_owned(),
            host: "gitlab.example.com".to_owned(),
            allow: vec!["service".to_owned(), "own".to_owned()],
            granted_at: 1_000,
            granted_by: 0,
            expires_at: 4_600,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let expected = format!(
            "ID        UNIT             HOST                ALLOW        {0:<2$}  BY\n\
             0a1b2c3d  job-123.service  gitlab.example.com  service,own  {1:<2$}  uid 0\n",
            "LEFT",
            span(3_600),
            span(3_600).len().max(4),
        );
        assert_eq!(table(std::slice::from_ref(&grant), now), expected);
        assert_eq!(table(&[], now), "no unit has a grant\n");
    }
}
