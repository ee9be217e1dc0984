//! `scm-agent keygen`: a new private key for this runner.

use std::path::PathBuf;

use super::Io;
use super::key::KeyOptions;
use crate::error::Error;
use crate::key::{self, GeneratedKey, NewKey};

/// Makes a private key and prints the public half to register with the control plane
///
/// The file is PKCS#8 PEM with mode 0600. A file that exists is never overwritten.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What kind of key
    #[arg(long, value_name = "ALGORITHM", value_parser = super::key::names::<NewKey>(&NewKey::NAMES))]
    algorithm: NewKey,
    /// The file to write the private key to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    options: KeyOptions,
}

/// Runs the command.
///
/// # Errors
/// [`Error`] when the file exists or cannot be written, or the passphrase file cannot be used.
pub(super) fn run(args: Args, io: &mut Io<'_>) -> Result<(), Error> {
    let Args { algorithm, out, options } = args;
    let passphrase = options.passphrase()?;
    // Only to tell before the long part; the file is created in a way that cannot overwrite.
    if out.symlink_metadata().is_ok() {
        return Err(key::Error::Exists { path: out }.into());
    }
    if algorithm.takes_long() {
        writeln!(io.stderr, "making an {algorithm} key, which takes up to half a minute on a slow machine...")?;
    }
    let key = GeneratedKey::generate(algorithm)?;
    key.write(&out, passphrase.as_deref().map(Vec::as_slice))?;
    let public = key.public_key();
    writeln!(io.stderr, "wrote {} ({algorithm}, {})", out.display(), public.fingerprint())?;
    writeln!(io.stderr, "register this public key for the runner with the control plane:")?;
    writeln!(io.stdout, "{}", public.to_registration_base64())?;
    Ok(())
}
