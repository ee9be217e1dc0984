//! `scm-agent status`: what the daemon holds and how fresh, as a page or as JSON, once or again and again.

mod page;
mod table;
mod watch;

use std::path::Path;
use std::time::{Duration, SystemTime};

use self::page::View;
use super::style::ColorWhen;
use super::{Io, client};
use crate::error::Error;
use crate::status::Status;

pub(in crate::cli) use self::page::{columns, cut_words, span};
pub(in crate::cli) use self::table::wrap;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
    /// Show every integration and every problem on a terminal too
    #[arg(long)]
    all: bool,
    /// Show it again every so many seconds, until q or Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    watch: Option<u32>,
    /// Use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
}

/// Runs `status`.
///
/// # Errors
/// When no daemon answers. With `--watch` that is shown, and waited out.
pub fn run(args: &Args, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    if let Some(seconds) = args.watch {
        return watch::run(args, socket, Duration::from_secs(seconds.into()), io);
    }
    let status: Status = client::ask(socket, "status")?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&status).map_err(std::io::Error::from)?;
        json.push('\n');
        json
    } else {
        let mut text = page::lines(&status, &view(args, io.stdout_is_terminal)).join("\n");
        text.push('\n');
        text
    };
    io.stdout.write_all(text.as_bytes())?;
    Ok(())
}

/// How it is to be shown on standard output, whatever that is.
fn view(args: &Args, is_terminal: bool) -> View {
    let size = if is_terminal { screen() } else { None };
    View {
        limit: size.filter(|_| !args.all).map(|(_, height)| height),
        now: SystemTime::now(),
        paint: args.color.paint(is_terminal),
        width: size.map(|(width, _)| width),
    }
}

/// Columns and rows of the terminal, if it says.
pub(in crate::cli) fn screen() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
