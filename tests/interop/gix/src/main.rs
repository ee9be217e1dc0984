//! `gix-caller HELPER URL [store|erase]`: asks one helper for a credential the way gitoxide does, prints user name, password and
//! `quit`, and then tells the helper that the credential was good, or that it was not.

use std::io::{Error, Result};

use gix_credentials::helper::{Action, Cascade, NextAction};
use gix_credentials::protocol::{Context, ContextOptions};
use gix_credentials::{Program, protocol};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or_else(|| Error::other("usage: gix-caller HELPER URL [store|erase]"));
    let (helper, url) = (next()?, next()?);
    let program = Program::from_custom_definition(helper).map_err(Error::other)?;
    let mut cascade = Cascade { programs: vec![program], ..Cascade::default() };
    match ask(&mut cascade, Action::Get(Context::from_url(url, ContextOptions::default())))? {
        None => println!("nothing"),
        Some(outcome) => {
            println!("username={}\npassword={}", outcome.identity.username, outcome.identity.password);
            let said: fn(NextAction) -> Action = match next() {
                Ok(word) if word == "store" => NextAction::store,
                Ok(word) if word == "erase" => NextAction::erase,
                _ => return Ok(()),
            };
            ask(&mut cascade, said(outcome.next))?;
        }
    }
    Ok(())
}

fn ask(cascade: &mut Cascade, action: Action) -> Result<Option<protocol::Outcome>> {
    let prompt = gix_prompt::Options { mode: gix_prompt::Mode::Disable, ..Default::default() };
    cascade.invoke(action, prompt).map_err(Error::other)
}
