//! Colours for people: whether there are any, and which.

use std::ffi::OsString;

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless the environment says otherwise
    #[default]
    Auto,
    /// Anywhere
    Always,
    /// Nowhere
    Never,
}

impl ColorWhen {
    /// What that comes to. `NO_COLOR` (<https://no-color.org>), `CLICOLOR` and `CLICOLOR_FORCE` (<https://bixense.com/clicolors/>) and
    /// `TERM` count where nothing was said.
    #[must_use]
    pub fn paint(self, is_terminal: bool) -> Paint {
        self.decide(is_terminal, |name| std::env::var_os(name))
    }

    fn decide(self, is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Paint {
        let says = |name: &str, word: &str| variable(name).is_some_and(|value| value == word);
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let is_on = match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if is_set("NO_COLOR") => false,
            Self::Auto if is_set("CLICOLOR_FORCE") && !says("CLICOLOR_FORCE", "0") => true,
            Self::Auto => is_terminal && !says("CLICOLOR", "0") && is_set("TERM") && !says("TERM", "dumb"),
        };
        Paint { is_on }
    }
}

/// What a piece of text is to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Does not work.
    Bad,
    /// Of no interest while all is well.
    Dim,
    /// All is well.
    Good,
    /// A heading.
    Heading,
    /// Anything else.
    Plain,
    /// Needs attention.
    Warn,
}

/// Puts colours around text, or does not.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    is_on: bool,
}

impl Paint {
    /// Text in a colour of the terminal's own sixteen, so that it suits dark and light ones.
    #[must_use]
    pub fn text(self, style: Style, text: &str) -> String {
        let code = match style {
            _ if !self.is_on || text.is_empty() => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Bad => "1;31",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Heading => "1",
            Style::Warn => "33",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A list of findings: the state that begins a line, and what to do next, which an arrow begins.
    #[must_use]
    pub fn findings(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (words, end) = line.strip_suffix('\n').map_or((line, ""), |words| (words, "\n"));
            let style = match words.split(' ').next() {
                Some("FAIL") => Style::Bad,
                Some("ok") => Style::Good,
                Some("skip") => Style::Dim,
                Some("warn") => Style::Warn,
                _ if words.trim_start().starts_with("-> ") => Style::Heading,
                _ => Style::Plain,
            };
            let painted = if style == Style::Heading { words.len() } else { words.find(' ').unwrap_or(words.len()) };
            out.push_str(&self.text(style, &words[..painted]));
            out.push_str(&words[painted..]);
            out.push_str(end);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_their_state_and_what_to_do_in_colours() {
        let text = "FAIL  key   none\n            -> scm-agent keygen\nok    git   2.47\nwarn  x     y\n            FAIL z\n";
        assert_eq!(ColorWhen::Never.paint(true).findings(text), text);
        let expected = "\u{1b}[1;31mFAIL\u{1b}[0m  key   none\n\u{1b}[1m            -> scm-agent keygen\u{1b}[0m\n\
            \u{1b}[32mok\u{1b}[0m    git   2.47\n\u{1b}[33mwarn\u{1b}[0m  x     y\n            FAIL z\n";
        assert_eq!(ColorWhen::Always.paint(false).findings(text), expected);
    }

    #[test]
    fn colours_are_for_terminals_unless_somebody_says_otherwise() {
        let is_on = |when: ColorWhen, is_terminal, variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
            when.decide(is_terminal, find).is_on
        };
        let xterm = ("TERM", "xterm");
        for (variables, terminal, pipe) in [
            (&[xterm][..], true, false),
            (&[], false, false),
            (&[("TERM", "dumb")], false, false),
            (&[xterm, ("NO_COLOR", "1")], false, false),
            (&[xterm, ("NO_COLOR", "")], true, false),
            (&[xterm, ("CLICOLOR", "0")], false, false),
            (&[xterm, ("CLICOLOR", "1")], true, false),
            (&[xterm, ("CLICOLOR_FORCE", "1")], true, true),
            (&[xterm, ("CLICOLOR_FORCE", "0")], true, false),
            (&[xterm, ("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
        ] {
            let found = (is_on(ColorWhen::Auto, true, variables), is_on(ColorWhen::Auto, false, variables));
            assert_eq!(found, (terminal, pipe), "{variables:?}");
            assert!(is_on(ColorWhen::Always, false, variables) && !is_on(ColorWhen::Never, true, variables), "{variables:?}");
        }
    }
}
