//! The effective configuration as TOML that says where each value came from and loads again.

use std::fmt::Write as _;

use super::keys::PROVIDER;
use super::{Config, Origin, Setting};

impl Config {
    /// The effective values in TOML, each with its origin in a comment; no secret.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut table = None;
        for setting in &self.settings {
            if table != Some((setting.section, setting.table)) {
                table = Some((setting.section, setting.table));
                let blank = if text.is_empty() { "" } else { "\n" };
                let (open, close) = if setting.section == PROVIDER { ("[[", "]]") } else { ("[", "]") };
                let _ = writeln!(text, "{blank}{open}{}{close}", setting.section);
            }
            let _ = writeln!(text, "{}", line(setting));
        }
        text
    }
}

fn line(Setting { name, value, origin, .. }: &Setting) -> String {
    match (value, origin) {
        (Some(value), origin) => format!("{name} = {value} # {}", one_line(origin)),
        // The token is in a variable: not set as a key, but not missing either.
        (None, Origin::Variable(variable)) => format!("# {name} is not set: the token is in {variable}"),
        (None, _) => format!("# {name} is not set"),
    }
}

/// A comment ends with the line, and a path may hold a line's end.
fn one_line(origin: &Origin) -> String {
    origin.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
