//! `scm-agent trust`: shows what is held back side by side with what was trusted, and accepts one integration.
//!
//! What is accepted is what was shown: the daemon refuses when the control plane has said something else in between.

use std::fmt::Write as _;
use std::path::Path;

use super::{Io, client};
use crate::error::{Error, Kind};
use crate::status::{Integration, Quarantine, Status, Trust};

/// Arguments of `trust`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the integration to accept; without it, all that is held back is shown
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Accept only this change, as an earlier `scm-agent trust` named it
    #[arg(long, value_name = "NAME", requires = "id")]
    change: Option<String>,
    /// Print what is held back as JSON
    #[arg(long, conflicts_with = "id")]
    json: bool,
}

/// Runs `trust`.
///
/// # Errors
/// When no daemon answers, nothing is held back under the id, it is another change, or the caller is neither root nor the daemon's
/// user.
pub fn run(args: &Args, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let status: Status = client::ask(socket, "status")?;
    let held: Vec<(&Integration, &Quarantine)> =
        status.integrations.iter().filter_map(|integration| Some((integration, integration.quarantine.as_ref()?))).collect();
    let Some(id) = &args.id else {
        let text = if args.json { json(&held)? } else { table(&held) };
        io.stdout.write_all(text.as_bytes())?;
        return Ok(());
    };
    let (integration, quarantine) = held.into_iter().find(|(integration, _)| integration.id.eq_ignore_ascii_case(id)).ok_or_else(|| {
        Error::new(Kind::User, format!("nothing is held back of an integration {}", plain(id))).hint("see what is: scm-agent trust")
    })?;
    if args.change.as_ref().is_some_and(|change| *change != quarantine.change) {
        return Err(changed(&integration.id));
    }
    io.stdout.write_all(entry(integration, quarantine).as_bytes())?;
    let outcome: Trust = client::ask_about(socket, "trust", &[("id", &integration.id), ("change", &quarantine.change)])?;
    match outcome.error {
        None => writeln!(io.stdout, "accepted; it is in use now")?,
        Some(error) if outcome.accepted => return Err(not_kept(error, &integration.id)),
        Some(_) => return Err(changed(&integration.id)),
    }
    Ok(())
}

fn changed(id: &str) -> Error {
    Error::new(Kind::Upstream, format!("what is held back of integration {id} is no longer what was shown; nothing was accepted"))
        .hint("look again: scm-agent trust")
}

/// It is in use and not on the disk. A directory that was not usable at the start is not used before the next one.
fn not_kept(error: String, id: &str) -> Error {
    Error::new(Kind::Internal, error)
        .hint("it is in use now; once the state directory (agent.state_dir) can be written to, it is saved by itself with a later list")
        .hint(format!(
            "if the daemon restarts before that, as it must where the directory was not usable at its start, the change may be held back \
             again: then look, and run again: scm-agent trust {id}"
        ))
}

fn table(held: &[(&Integration, &Quarantine)]) -> String {
    if held.is_empty() {
        return "nothing is held back\n".to_owned();
    }
    let mut text = String::new();
    for (integration, quarantine) in held {
        text.push_str(&entry(integration, quarantine));
        let _ = writeln!(text, "  to accept this: scm-agent trust {} --change {}\n", integration.id, quarantine.change);
    }
    text.push_str("Accept only what you or your administrator changed: the app's secret goes to whatever stands under \"now\".\n");
    text
}

/// One integration: what was trusted and what is proposed, field by field.
fn entry(integration: &Integration, quarantine: &Quarantine) -> String {
    let name = format!("{}{}", integration.host, integration.virtual_directory);
    let mut text = format!("integration {} ({} {})\n", integration.id, plain(&integration.scm_id), plain(&name));
    let mut rows = vec![[String::new(), "trusted".to_owned(), "now".to_owned()]];
    let shown = |value: &str| if value.is_empty() { "(none)".to_owned() } else { plain(value) };
    rows.extend(quarantine.fields.iter().map(|field| [plain(&field.field), shown(&field.trusted), shown(&field.proposed)]));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    for [field, trusted, proposed] in &rows {
        let _ = writeln!(text, "  {field:<first$}  {trusted:<second$}  {proposed}");
    }
    text.push_str("  the secret is the same as before, which is why this is held back; ");
    text.push_str(if quarantine.serving { "what was trusted stays in use\n" } else { "it gives no tokens\n" });
    text
}

fn json(held: &[(&Integration, &Quarantine)]) -> Result<String, Error> {
    let documents: Vec<_> = held
        .iter()
        .map(|(integration, quarantine)| {
            serde_json::json!({
                "id": integration.id, "scm_id": integration.scm_id, "host": integration.host,
                "change": quarantine.change, "serving": quarantine.serving, "fields": quarantine.fields,
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&documents).map_err(std::io::Error::from)?;
    text.push('\n');
    Ok(text)
}

/// Text of the control plane's as ASCII: what looks like another host is not to be taken for it.
fn plain(text: &str) -> String {
    text.chars()
        .map(
            |character| {
                if character.is_ascii_graphic() || character == ' ' {
                    character.to_string()
                } else {
                    character.escape_unicode().to_string()
                }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{QuarantinedField, Secret};

    fn integration() -> Integration {
        Integration {
            id: "0196f3a4-0000-7000-8000-000000000001".to_owned(),
            scm_id: "gitlab".to_owned(),
            host: "scm.example.com".to_owned(),
            virtual_directory: String::new(),
            client_id: Some("client".to_owned()),
            issuer: None,
            oauth: true,
            pat: false,
            secret: Secret::Quarantined,
            grant: "service".to_owned(),
            note: None,
            tokens: Vec::new(),
            quarantine: Some(Quarantine {
                change: "0123456789abcdef".to_owned(),
                serving: true,
                fields: vec![
                    QuarantinedField {
                        field: "host".to_owned(),
                        trusted: "scm.example.com".to_owned(),
                        proposed: "\u{455}cm.example.com".to_owned(),
                    },
                    QuarantinedField {
                        field: "oauth.issuerUrl".to_owned(),
                        trusted: String::new(),
                        proposed: "https://new.example".to_owned(),
                    },
                ],
            }),
        }
    }

    #[test]
    fn what_was_trusted_and_what_is_proposed_stand_side_by_side_in_ascii() {
        let integration = integration();
        let expected = "\
integration 0196f3a4-0000-7000-8000-000000000001 (gitlab scm.example.com)
                   trusted          now
  host             scm.example.com  \\u{455}cm.example.com
  oauth.issuerUrl  (none)           https://new.example
  the secret is the same as before, which is why this is held back; what was trusted stays in use
  to accept this: scm-agent trust 0196f3a4-0000-7000-8000-000000000001 --change 0123456789abcdef

Accept only what you or your administrator changed: the app's secret goes to whatever stands under \"now\".
";
        assert_eq!(table(&[(&integration, integration.quarantine.as_ref().unwrap())]), expected);
        assert_eq!(table(&[]), "nothing is held back\n");
    }

    #[test]
    fn what_is_accepted_and_not_kept_is_said_to_be_in_use_and_when_it_is_to_be_accepted_again() {
        let report = not_kept("integration 7 is accepted: the disk is full".to_owned(), "7").report();
        for part in ["error: integration 7 is accepted", "hint: it is in use now", "saved by itself", "scm-agent trust 7\n"] {
            assert!(report.contains(part), "{report}");
        }
    }
}
