//! `scm-agent key show`, and what the key commands share.

use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use zeroize::Zeroizing;

use super::Io;
use crate::error::{Error, Kind};
use crate::key::{self, LoadOptions, OaepHash, Problem, RunnerPrivateKey, RunnerPublicKey};

/// Shows what a key file holds
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Shows a key's algorithm, size, fingerprint and public half, never its private one
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The key file, private or public
    file: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Take 32 bare bytes for a private key
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Take 32 bare bytes for a public key
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    options: KeyOptions,
}

/// How the key commands read a key file.
#[derive(Debug, clap::Args)]
pub(super) struct KeyOptions {
    /// The file with the passphrase of the private key: one line, open to its owner only
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The hash of RSA-OAEP when sealing and unsealing; X25519 keys ignore it
    #[arg(long, value_name = "HASH", default_value = "sha256", value_parser = names::<OaepHash>(&OaepHash::NAMES))]
    oaep_hash: OaepHash,
}

impl KeyOptions {
    pub(super) fn load_options(self) -> LoadOptions {
        LoadOptions { passphrase_file: self.passphrase_file, oaep_hash: self.oaep_hash, owner: None }
    }

    pub(super) fn passphrase(self) -> Result<Option<Zeroizing<Vec<u8>>>, key::Error> {
        self.load_options().passphrase()
    }
}

/// Parses one of a list of names, and lists them in help and errors.
pub(super) fn names<T: FromStr + Clone + Send + Sync + 'static>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// Reads standard input to its end into a buffer of full size. `None` when there is more than the limit.
pub(super) fn read_bounded(stdin: &mut dyn Read, limit: usize) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; limit + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match stdin.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok((length <= limit).then_some(bytes))
}

#[derive(Serialize)]
struct Shown {
    algorithm: String,
    bits: usize,
    fingerprint: String,
    half: &'static str,
    development: bool,
    public_key_base64: String,
    public_key_pem: String,
}

/// Runs the command.
///
/// # Errors
/// [`Error`] when the file holds no key that this program takes.
pub(super) fn run(args: Args, io: &mut Io<'_>) -> Result<(), Error> {
    let Command::Show(ShowArgs { file, json, private, public, options }) = args.command;
    let options = options.load_options();
    // One look at the file where one is enough: what comes through a pipe can be read once only.
    let load_public = || RunnerPublicKey::load(&file, &options);
    let (key, half) = if public {
        (load_public()?, "public")
    } else {
        match RunnerPrivateKey::load(&file, &options) {
            Ok(key) => (key.into_public_key(), "private"),
            // A public key may lie open. If it is a private key that does, this says so again.
            Err(key::Error::KeyFile {
                problem: Problem::PublicKey | Problem::ForeignOwner { .. } | Problem::OpenToOthers { .. }, ..
            }) if !private => (load_public()?, "public"),
            Err(error) => return Err(error.into()),
        }
    };
    // Printing the wrong half as the one to register would give the private one away.
    if key.is_bare() && !private && !public {
        let message = format!("{} holds 32 bare bytes, which may be a private or a public key", file.display());
        return Err(Error::new(Kind::User, message).hint("say which with --private or --public"));
    }
    let shown = shown(&key, half);
    if json {
        let text = serde_json::to_string_pretty(&shown).map_err(|_| Error::new(Kind::Internal, "cannot write JSON"))?;
        writeln!(io.stdout, "{text}")?;
        return Ok(());
    }
    let Shown { algorithm, bits, fingerprint, half, development, public_key_base64, public_key_pem } = shown;
    writeln!(io.stdout, "algorithm    {algorithm}")?;
    writeln!(io.stdout, "size         {bits} bits")?;
    writeln!(io.stdout, "fingerprint  {fingerprint}")?;
    writeln!(io.stdout, "file holds   the {half} half")?;
    if development {
        writeln!(io.stdout, "warning      a development key: everyone has its private half")?;
    }
    writeln!(io.stdout, "to register  {public_key_base64}")?;
    write!(io.stdout, "{public_key_pem}")?;
    Ok(())
}

fn shown(key: &RunnerPublicKey, half: &'static str) -> Shown {
    Shown {
        algorithm: key.algorithm().to_string(),
        bits: key.algorithm().bits(),
        fingerprint: key.fingerprint().to_string(),
        half,
        development: key.fingerprint().is_development(),
        public_key_base64: key.to_registration_base64(),
        public_key_pem: key.to_pem(),
    }
}
