//! `scm-agent status`: what the daemon holds and how fresh, as a table or as JSON.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::{Io, client};
use crate::config::Config;
use crate::error::Error;
use crate::status::{Secret, Status, TokenState};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `status`.
///
/// # Errors
/// When no daemon answers.
pub fn run(args: &Args, config: &Config, io: &mut Io<'_>) -> Result<(), Error> {
    let status: Status = client::ask(&config.agent.socket, "status")?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&status).map_err(std::io::Error::from)?;
        json.push('\n');
        json
    } else {
        table(&status, SystemTime::now())
    };
    io.stdout.write_all(text.as_bytes())?;
    Ok(())
}

/// The status for a person: health first, then one line for each integration.
fn table(status: &Status, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<13}{value}");
    };
    let health = if status.degraded.is_empty() { "ok".to_owned() } else { format!("degraded ({})", status.degraded.len()) };
    line("health", &health);
    line("daemon", &format!("scm-agent {}, pid {}, up {}", status.version, status.pid, span(status.uptime_seconds)));
    for key in &status.key {
        line("key", &format!("{} {}", key.algorithm, key.fingerprint));
    }
    let freshness = match status.sync.last_success {
        None => "no list yet".to_owned(),
        Some(at) => format!("list of {} ago", span(now.saturating_sub(at))),
    };
    line("source", &format!("{}, {freshness}", status.sync.source));
    if let Some(error) = &status.sync.last_error {
        line("", &format!("failing ({} times): {error}", status.sync.consecutive_failures));
    }
    let memory = match &status.memory.reason {
        None => "locked".to_owned(),
        Some(reason) => format!("not locked: {reason}"),
    };
    line("memory", &memory);
    line("connections", &status.connections.to_string());
    let mut rows = vec![["HOST", "SCM", "GRANT", "SECRET", "TOKEN", "INTEGRATION"].map(str::to_owned)];
    for integration in &status.integrations {
        let secret = match integration.secret {
            Secret::Missing => "missing",
            Secret::Ok => "ok",
            Secret::Quarantined => "quarantined",
            Secret::Undecryptable => "undecryptable",
        };
        let token = match integration.tokens.first() {
            None => "-".to_owned(),
            Some(token) => {
                let state = match token.state {
                    TokenState::Failing => "failing",
                    TokenState::NeedsLogin => "needs login",
                    TokenState::Refreshing => "refreshing",
                    TokenState::Valid => "valid",
                };
                match token.expires_at {
                    Some(end) => format!("{state}, {} left", span(end.saturating_sub(now))),
                    None => state.to_owned(),
                }
            }
        };
        rows.push([
            format!("{}{}", integration.host, integration.virtual_directory),
            integration.scm_id.clone(),
            integration.grant.clone(),
            secret.to_owned(),
            token,
            integration.id.clone(),
        ]);
    }
    if rows.len() > 1 {
        text.push('\n');
        columns(&rows, &mut text);
    } else {
        text.push_str("\nno integrations\n");
    }
    if !status.degraded.is_empty() {
        text.push('\n');
        for reason in &status.degraded {
            let _ = writeln!(text, "! {reason}");
        }
    }
    text
}

/// Writes rows as columns as wide as their widest cell.
fn columns<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// A length of time in its two largest units: `2h 5m`.
fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
