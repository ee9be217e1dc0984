//! What a person reads during a login.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use url::Url;

use super::super::Io;
use super::super::status::span;
use super::super::target::is_loopback;
use super::surroundings::Terminal;

/// A URL that may be shown as a link and given to a browser: `https`, or `http` on this machine.
///
/// Its text is ASCII without blanks, so that neither a terminal nor an opener can take it for anything else, and a host that
/// looks like another one is seen.
pub(super) fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let good = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
    good.then_some(url)
}

/// What a user types or compares on the host's page.
pub(super) struct DeviceCode<'a> {
    /// The host, as registered.
    pub(super) host: &'a str,
    /// The code.
    pub(super) user_code: &'a str,
    /// Where to type it.
    pub(super) page: &'a Url,
    /// Where it is typed already.
    pub(super) complete: Option<&'a Url>,
}

impl DeviceCode<'_> {
    /// The instructions; the code is always shown (RFC 8628, section 3.3.1).
    pub(super) fn instructions(&self, terminal: Option<Terminal>) -> String {
        let Self { host, user_code, page, complete } = self;
        let mut text = format!("To sign in to {host}, open this page in any browser:\n\n  ");
        let target = complete.unwrap_or(page);
        text.push_str(&link(target, terminal));
        text.push_str("\n\n");
        match complete {
            None => text.push_str(&format!("and enter the code {user_code}\n\n")),
            Some(_) => text.push_str(&format!("and see that it shows the code {user_code}, or enter it at {}\n\n", link(page, terminal))),
        }
        if let Some(code) = terminal.and_then(|terminal| qr_code(target, terminal)) {
            text.push_str(&code);
            text.push('\n');
        }
        text
    }
}

/// A URL that a terminal makes clickable (OSC 8); bare anywhere else.
pub(super) fn link(url: &Url, terminal: Option<Terminal>) -> String {
    match terminal {
        None => url.to_string(),
        Some(_) => format!("\x1b]8;;{url}\x1b\\{url}\x1b]8;;\x1b\\"),
    }
}

/// A QR code of half blocks with its quiet zone, black on white whatever the terminal's colours are; `None` where it would not
/// be read: the terminal is too narrow, or shows no UTF-8.
fn qr_code(url: &Url, terminal: Terminal) -> Option<String> {
    let code = QrCode::with_error_correction_level(url.as_str(), EcLevel::L).ok().filter(|_| terminal.utf8)?;
    if code.width() + 2 * QUIET_MODULES > terminal.columns {
        return None;
    }
    // The crate draws what it calls dark; here the light modules are drawn, on black.
    let drawn = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true).build();
    Some(drawn.lines().map(|line| format!("\x1b[97;40m{line}\x1b[0m\n")).collect())
}

/// The light border that a reader needs, in modules (ISO/IEC 18004).
const QUIET_MODULES: usize = 4;

/// The line on standard error that says how long there is to wait; it is written over on a terminal and stands there once elsewhere.
pub(super) struct Countdown {
    on_terminal: bool,
    quiet: bool,
    shown: bool,
}

impl Countdown {
    /// Nothing at all is written where `quiet`.
    pub(super) fn new(on_terminal: bool, quiet: bool) -> Self {
        Self { on_terminal, quiet, shown: false }
    }

    /// Says how much time is left. That standard error cannot be written to stops no login.
    pub(super) fn show(&mut self, left_seconds: u64, io: &mut Io<'_>) {
        let left = span(left_seconds);
        match (self.quiet, self.on_terminal, self.shown) {
            (false, true, _) => {
                let _ = write!(io.stderr, "\r\x1b[Kwaiting for you to sign in, {left} left (Ctrl-C gives up)");
            }
            (false, false, false) => {
                let _ = writeln!(io.stderr, "waiting for you to sign in, for {left} at most");
            }
            (true, _, _) | (false, false, true) => {}
        }
        self.shown = true;
        let _ = io.stderr.flush();
    }

    /// Leaves an empty line for what comes next.
    pub(super) fn clear(&mut self, io: &mut Io<'_>) {
        if self.shown && self.on_terminal && !self.quiet {
            let _ = write!(io.stderr, "\r\x1b[K");
            let _ = io.stderr.flush();
        }
        self.shown = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Terminal = Terminal { columns: 80, utf8: true };

    fn page() -> Url {
        web_url("https://scm.example.com/device").unwrap()
    }

    #[test]
    fn only_a_page_of_the_web_is_a_link() {
        for bad in ["javascript:alert(1)", "file:///etc/passwd", "http://scm.example.com/", "-x", "", "//scm.example.com", "ssh://a/b"] {
            assert!(web_url(bad).is_none(), "{bad}");
        }
        assert!(web_url("http://127.0.0.1:1/device").is_some());
        let hostile = web_url("https://\u{455}cm.example.com/\u{1b}]8;;x\u{7} \u{202e}a").unwrap();
        assert!(hostile.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{hostile}");
        assert!(hostile.as_str().starts_with("https://xn--"), "{hostile}");
    }

    #[test]
    fn without_a_terminal_the_instructions_are_plain_text() {
        let (page, complete) = (page(), web_url("https://scm.example.com/device?user_code=AB-CD").unwrap());
        let code = DeviceCode { host: "scm.example.com", user_code: "AB-CD", page: &page, complete: None };
        let expected = "\
To sign in to scm.example.com, open this page in any browser:

  https://scm.example.com/device

and enter the code AB-CD

";
        assert_eq!(code.instructions(None), expected);
        let expected = "\
To sign in to scm.example.com, open this page in any browser:

  https://scm.example.com/device?user_code=AB-CD

and see that it shows the code AB-CD, or enter it at https://scm.example.com/device

";
        assert_eq!(DeviceCode { complete: Some(&complete), ..code }.instructions(None), expected);
    }

    #[test]
    fn on_a_terminal_the_link_is_one_and_the_code_is_drawn_where_it_fits() {
        let page = page();
        let code = DeviceCode { host: "scm.example.com", user_code: "AB-CD", page: &page, complete: None };
        let shown = code.instructions(Some(WIDE));
        let link = "  \x1b]8;;https://scm.example.com/device\x1b\\https://scm.example.com/device\x1b]8;;\x1b\\\n";
        assert!(shown.contains(link), "{shown:?}");
        assert!(shown.contains('\u{2580}'), "no half blocks in {shown:?}");
        for unfit in [Terminal { columns: 30, ..WIDE }, Terminal { utf8: false, ..WIDE }] {
            let shown = code.instructions(Some(unfit));
            assert!(shown.contains(link) && !shown.contains('\u{2580}'), "{shown:?}");
        }
    }

    #[test]
    fn the_drawn_code_is_the_code_with_its_quiet_zone() {
        let page = page();
        let drawn = qr_code(&page, WIDE).unwrap();
        let code = QrCode::with_error_correction_level(page.as_str(), EcLevel::L).unwrap();
        let size = code.width() + 2 * QUIET_MODULES;
        let lines: Vec<Vec<char>> = drawn
            .lines()
            .map(|line| line.strip_prefix("\x1b[97;40m").unwrap().strip_suffix("\x1b[0m").unwrap().chars().collect())
            .collect();
        assert_eq!(lines.len(), size.div_ceil(2));
        let inside = QUIET_MODULES..size - QUIET_MODULES;
        for y in 0..size {
            assert_eq!(lines[y / 2].len(), size);
            for x in 0..size {
                let light = match lines[y / 2][x] {
                    '\u{2588}' => true,
                    '\u{2580}' => y % 2 == 0,
                    '\u{2584}' => y % 2 == 1,
                    _ => false,
                };
                let expected = if inside.contains(&x) && inside.contains(&y) {
                    code[(x - QUIET_MODULES, y - QUIET_MODULES)] == qrcode::Color::Light
                } else {
                    true
                };
                assert_eq!(light, expected, "module {x}, {y}");
            }
        }
    }

    #[test]
    fn the_time_left_is_one_line_that_moves_on_a_terminal_only() {
        let written = |on_terminal, quiet| {
            let mut stderr = Vec::new();
            let mut io = Io { stdin: &mut std::io::empty(), stdout: &mut std::io::sink(), stderr: &mut stderr, stdout_is_terminal: false };
            let mut countdown = Countdown::new(on_terminal, quiet);
            countdown.show(900, &mut io);
            countdown.show(61, &mut io);
            countdown.clear(&mut io);
            String::from_utf8(stderr).unwrap()
        };
        let moving = "\r\x1b[Kwaiting for you to sign in, 15m left (Ctrl-C gives up)\
                      \r\x1b[Kwaiting for you to sign in, 1m 1s left (Ctrl-C gives up)\r\x1b[K";
        assert_eq!(written(true, false), moving);
        assert_eq!(written(false, false), "waiting for you to sign in, for 15m at most\n");
        assert_eq!(written(true, true), "");
    }
}
