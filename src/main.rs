//! `scm-agent`: the daemon and the operator's commands.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use scm_agent::cli::{self, Cli, Io};
use scm_agent::error::{Error, Kind};
use scm_agent::harden;
use zeroizing_alloc::ZeroAlloc;

/// Wipes every heap block when it is freed: TLS, HTTP and JSON buffers hold copies of secrets that no type of ours can reach.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    // Before anything secret exists in this process.
    if let Err(error) = harden::process() {
        let error = Error::new(Kind::Internal, "cannot protect this process's memory").because(error);
        let _ = std::io::stderr().write_all(error.report().as_bytes());
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    let stdout_is_terminal = std::io::stdout().is_terminal();
    let mut io =
        Io { stdin: &mut std::io::stdin().lock(), stdout: &mut std::io::stdout(), stderr: &mut std::io::stderr(), stdout_is_terminal };
    match cli::run(cli, &mut io) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io.stderr.write_all(error.report().as_bytes());
            ExitCode::from(error.kind().exit_code())
        }
    }
}
