//! The effective configuration as TOML that says where each value came from and loads again.

use std::fmt::Write as _;

use super::{Config, Origin, Setting, keys};
use crate::http::{NO_PROXY_VARIABLES, PROXY_VARIABLES};

impl Config {
    /// The effective values in TOML, each with its origin in a comment; no secret.
    #[must_use]
    pub fn to_toml(&self) -> String {
        self.to_toml_beside(|_| false)
    }

    /// The same, with the environment's proxies named where they count instead of a key; `is_set` says which variables have a value.
    #[must_use]
    pub fn to_toml_beside(&self, is_set: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let mut table = None;
        for setting in &self.settings {
            if table != Some((setting.section, setting.table)) {
                table = Some((setting.section, setting.table));
                let blank = if text.is_empty() { "" } else { "\n" };
                let (open, close) = if keys::listed(setting.section).is_some() { ("[[", "]]") } else { ("[", "]") };
                let _ = writeln!(text, "{blank}{open}{}{close}", setting.section);
            }
            let _ = writeln!(text, "{}", line(setting, &is_set));
        }
        text
    }
}

fn line(Setting { name, value, origin, .. }: &Setting, is_set: &dyn Fn(&str) -> bool) -> String {
    let variables: &[&str] = match *name {
        "proxy" => &PROXY_VARIABLES,
        "no_proxy" => &NO_PROXY_VARIABLES,
        _ => &[],
    };
    match (value, origin) {
        (Some(value), origin) => format!("{name} = {value} # {}", one_line(origin)),
        // The token is in a variable: not set as a key, but not missing either.
        (None, Origin::Variable(variable)) => format!("# {name} is not set: the token is in {variable}"),
        (None, _) => match variables.iter().find(|variable| is_set(variable)) {
            Some(variable) => format!("# {name} is not set; the environment's {variable} counts"),
            None => format!("# {name} is not set"),
        },
    }
}

/// A comment ends with the line, and a path may hold a line's end.
fn one_line(origin: &Origin) -> String {
    origin.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
