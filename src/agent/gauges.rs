//! What is held now, as numbers: the status without anything in it that names a caller, a host or an integration.

use super::Agent;
use crate::metrics::Gauges;
use crate::metrics::labels::{Holder, Registered, Secret, TokenState};
use crate::status::{self, Status};

impl Agent {
    /// Counts what is held. With thousands of integrations that takes some milliseconds.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let poll_interval = self.broker.lists().borrow().state.poll_interval;
        Gauges {
            connections_limit: number(self.config.limits.max_connections),
            paused: number(self.broker.paused_tokens()),
            poll_interval,
            ..counted(&self.status(None))
        }
    }
}

fn counted(status: &Status) -> Gauges {
    let tokens = status.integrations.iter().flat_map(|integration| &integration.tokens);
    Gauges {
        connections: number(status.connections),
        degraded: number(status.degraded.len()),
        integrations: tally(status.integrations.iter().map(|integration| secret(integration.secret))),
        keys: tally(status.key.iter().map(|key| match key.registered {
            Some(true) => Registered::Yes,
            Some(false) => Registered::No,
            None => Registered::Unknown,
        })),
        last_attempt: status.sync.last_attempt,
        last_success: status.sync.last_success,
        memory_locked: status.memory.locked,
        stale: status.sync.stale,
        store_healthy: status.store.healthy,
        sync_failures: u64::from(status.sync.consecutive_failures),
        tokens: tally(tokens.map(|token| (holder(&token.grant), state(token.state)))),
        watching: status.sync.watching,
        // Not in the status.
        connections_limit: 0,
        paused: 0,
        poll_interval: std::time::Duration::ZERO,
    }
}

/// How often each of a handful of things is there.
fn tally<T: PartialEq>(things: impl Iterator<Item = T>) -> Vec<(T, u64)> {
    let mut counts: Vec<(T, u64)> = Vec::new();
    for thing in things {
        match counts.iter_mut().find(|(other, _)| *other == thing) {
            Some((_, count)) => *count += 1,
            None => counts.push((thing, 1)),
        }
    }
    counts
}

/// By the words of [`status::Token::grant`].
fn holder(grant: &str) -> Holder {
    match grant {
        "pat" => Holder::Pat,
        "user" => Holder::User,
        _ => Holder::Service,
    }
}

fn state(state: status::TokenState) -> TokenState {
    match state {
        status::TokenState::Failing => TokenState::Failing,
        status::TokenState::NeedsLogin => TokenState::NeedsLogin,
        status::TokenState::Refreshing => TokenState::Refreshing,
        status::TokenState::Valid => TokenState::Valid,
    }
}

fn secret(secret: status::Secret) -> Secret {
    match secret {
        status::Secret::Missing => Secret::Missing,
        status::Secret::Ok => Secret::Ok,
        status::Secret::Quarantined => Secret::Quarantined,
        status::Secret::Undecryptable => Secret::Undecryptable,
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    #[test]
    fn what_the_status_lists_is_counted() {
        let token = |grant: &str, state| status::Token {
            subject: "uid 1000 as canary".to_owned(),
            grant: grant.to_owned(),
            expires_at: None,
            state,
            last_error: None,
        };
        let mut status = samples::status();
        let mut integration = samples::integration("canary.example", "service");
        integration.tokens = vec![
            token("service", status::TokenState::Valid),
            token("user", status::TokenState::NeedsLogin),
            token("user", status::TokenState::NeedsLogin),
            token("pat", status::TokenState::Valid),
        ];
        let other = status::Integration { secret: status::Secret::Undecryptable, tokens: Vec::new(), ..integration.clone() };
        status.integrations = vec![integration.clone(), other, status::Integration { tokens: Vec::new(), ..integration }];
        status.degraded = vec!["canary".to_owned(); 3];
        status.connections = 5;
        status.sync.last_success = Some(7);
        let gauges = counted(&status);
        let tokens =
            [(Holder::Service, TokenState::Valid, 1), (Holder::User, TokenState::NeedsLogin, 2), (Holder::Pat, TokenState::Valid, 1)];
        assert_eq!(gauges.tokens, tokens.map(|(holder, state, count)| ((holder, state), count)));
        assert_eq!(gauges.integrations, [(Secret::Ok, 2), (Secret::Undecryptable, 1)]);
        assert_eq!((gauges.degraded, gauges.connections, gauges.last_success), (3, 5, Some(7)));
        assert!(gauges.store_healthy && gauges.memory_locked && !gauges.stale);
        assert!(!format!("{gauges:?}").contains("canary"));
    }
}
