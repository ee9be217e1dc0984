//! `scm-agent seal`: what the control plane does when an OAuth app's secret is entered there.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Io;
use super::key::{KeyOptions, read_bounded};
use crate::error::{Error, Kind};
use crate::key::{self, RunnerPublicKey};
use crate::secret::{ClientSecret, SecretError};

/// Seals the client secret on standard input and prints it in base64
///
/// One line end at the end of the input is no part of the secret. A file of 32 bare bytes, raw or in base64, is taken for an
/// X25519 public key; for a private one, pass the public half that `key show` prints.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The key file, private or public
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    options: KeyOptions,
}

/// Runs the command.
///
/// # Errors
/// [`Error`] when the key cannot be used, or the input is empty, too long for the key, or no client secret.
pub(super) fn run(args: Args, io: &mut Io<'_>) -> Result<(), Error> {
    let Args { key, options } = args;
    let file = key.display().to_string();
    let key = RunnerPublicKey::load(&key, &options.load_options())?;
    if key.is_bare() {
        writeln!(io.stderr, "note: {file} holds 32 bare bytes, taken for a public key")?;
    }
    let limit = key.max_secret_bytes();
    // Two more for the line end.
    let too_long = || Error::from(key::Error::SecretTooLong { limit });
    let input = read_bounded(io.stdin, limit + 2)?.ok_or_else(too_long)?;
    let secret = ClientSecret::parse(without_line_end(input)).map_err(|error| {
        let error_text = match error {
            SecretError::Empty => "standard input is empty",
            SecretError::Charset => "standard input holds a character that no client secret can hold",
        };
        Error::new(Kind::User, error_text)
            .hint("a client secret is one line of visible ASCII characters and spaces: printf %s \"$SECRET\" | scm-agent seal --key FILE")
    })?;
    let sealed = key.seal(secret.expose_secret().as_bytes())?;
    writeln!(io.stdout, "{}", STANDARD.encode(sealed))?;
    Ok(())
}

fn without_line_end(mut input: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if input.last() == Some(&b'\n') {
        input.pop();
        if input.last() == Some(&b'\r') {
            input.pop();
        }
    }
    input
}
