//! `scm-agent unseal`: what the daemon does before it asks an issuer for a token.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::Io;
use super::key::{KeyOptions, read_bounded};
use crate::error::{Error, Kind};
use crate::key::RunnerPrivateKey;

/// Opens the base64 ciphertext on standard input and writes the secret to standard output, nothing else
///
/// Refuses to write to a terminal, where the secret would stay on the screen and in its history, unless told to.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The private key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Write the secret even to a terminal
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    options: KeyOptions,
}

/// The most base64 text that is read. The longest ciphertext there is makes a third of it.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// With padding or without, as proto3 JSON readers must take it.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Runs the command.
///
/// # Errors
/// [`Error`] when standard output is a terminal, the key cannot be used, or the input does not open with it.
pub(super) fn run(args: Args, io: &mut Io<'_>) -> Result<(), Error> {
    let Args { key, reveal, options } = args;
    if io.stdout_is_terminal && !reveal {
        return Err(Error::new(Kind::User, "standard output is a terminal, and a secret shown there stays there")
            .hint("send the output to a file or a program, or add --reveal"));
    }
    let key = RunnerPrivateKey::load(&key, &options.load_options())?;
    let not_base64 = || Error::new(Kind::User, "standard input is not the base64 of a ciphertext");
    let input = read_bounded(io.stdin, MAX_INPUT_BYTES)?.ok_or_else(not_base64)?;
    let text: Vec<u8> = input.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if text.is_empty() {
        return Err(Error::new(Kind::User, "standard input is empty"));
    }
    let ciphertext = BASE64.decode(text).map_err(|_| not_base64())?;
    let secret = key.decrypt(&ciphertext).map_err(|error| {
        Error::new(Kind::User, error.to_string())
            .hint("compare the fingerprint of `scm-agent key show` with the key that it was sealed for, and --oaep-hash with its hash")
    })?;
    io.stdout.write_all(secret.expose_secret().as_bytes())?;
    io.stdout.flush()?;
    Ok(())
}
