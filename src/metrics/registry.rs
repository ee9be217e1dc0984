//! Every metric with its name and its words, in the order of docs/metrics.md.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::count::Counters;
use super::labels::{
    Algorithm, Holder, Label, Operation, Outcome, Provider, Refresh, Registered, Rejected, Revocation, Secret, Served, Success, Sync,
    TokenGrant, TokenOutcome, TokenState,
};
use super::text::{Kind, Writer, whole};
use super::{Format, Gauges, Metrics, process};

/// Writes all of them.
pub(super) fn write(metrics: &Metrics, gauges: &Gauges, format: Format) -> String {
    let mut writer = Writer::new(format);
    let to = &mut writer;
    requests(metrics, gauges, to);
    tokens(metrics, gauges, to);
    list(metrics, gauges, to);
    health(metrics, gauges, to);
    process(metrics, to);
    writer.end()
}

fn requests(metrics: &Metrics, gauges: &Gauges, to: &mut Writer) {
    to.family(Kind::Counter, "scm_agent_requests", "Requests on the socket, by what was asked for and what was answered.");
    for (operation, outcome) in pairs::<Operation, Outcome>() {
        let count = metrics.requests.get_pair(operation, outcome);
        // Most pairs never come about, as what git asks for is not answered with a document.
        if count > 0 || can_be(operation, outcome) {
            to.sample(&[("operation", operation.text()), ("outcome", outcome.text())], whole(count));
        }
    }
    let help = "How long answers took: credentials that were there already (cached) or had to be fetched, gets without one, and all else.";
    to.family(Kind::Histogram, "scm_agent_request_duration_seconds", help);
    for served in Served::ALL {
        to.histogram(&[("token", served.text())], &metrics.request_durations[served.index()].read());
    }
    to.family(Kind::Counter, "scm_agent_denied", "What was refused to callers, by the reason.");
    for (reason, count) in metrics.denials.counts() {
        to.sample(&[("reason", reason.name())], whole(count));
    }
    to.family(Kind::Counter, "scm_agent_connections_accepted", "Connections that were served.");
    to.sample(&[], whole(metrics.connections.load(Ordering::Relaxed)));
    gauge(to, "scm_agent_connections", "Connections open now.", whole(gauges.connections));
    gauge(to, "scm_agent_connections_limit", "Connections that may be open.", whole(gauges.connections_limit));
}

/// Whether a pair is there from the start, so that its first increase is seen.
fn can_be(operation: Operation, outcome: Outcome) -> bool {
    use Outcome::{Credential, Denied, Document, Error, Message, Pat, Quit, Silence, Timeout};
    match operation {
        Operation::Get => matches!(outcome, Credential | Denied | Message | Pat | Quit | Silence | Timeout),
        Operation::Erase => matches!(outcome, Message | Silence),
        Operation::Store => outcome == Silence,
        Operation::Other => outcome == Error,
        _ => outcome == Document,
    }
}

fn tokens(metrics: &Metrics, gauges: &Gauges, to: &mut Writer) {
    to.family(Kind::Gauge, "scm_agent_tokens", "Tokens held now, by whose they are and how they fare.");
    for (holder, state) in pairs::<Holder, TokenState>() {
        let count = count_of(&gauges.tokens, (holder, state));
        to.sample(&[("grant", holder.text()), ("state", state.text())], whole(count));
    }
    to.family(
        Kind::Counter,
        "scm_agent_token_requests",
        "Tokens asked for at issuers, by the grant, what the host is, and what came of it.",
    );
    for grant in TokenGrant::ALL {
        for (provider, outcome) in pairs::<Provider, TokenOutcome>() {
            let labels = [("grant", grant.text()), ("provider", provider.text()), ("outcome", outcome.text())];
            to.sample(&labels, whole(metrics.token_requests[grant.index()].get_pair(provider, outcome)));
        }
    }
    to.family(Kind::Histogram, "scm_agent_token_request_duration_seconds", "How long issuers took to answer.");
    to.histogram(&[], &metrics.token_durations.read());
    to.family(Kind::Counter, "scm_agent_refreshes", "Renewals of users' sign-ins, by what came of them.");
    by_label::<Refresh>(&metrics.refreshes, "outcome", to);
    to.family(Kind::Counter, "scm_agent_tokens_rejected", "Tokens that hosts refused, by whether another one was fetched in their place.");
    by_label::<Rejected>(&metrics.rejected, "outcome", to);
    gauge(
        to,
        "scm_agent_tokens_paused",
        "Tokens that hosts refuse again and again, so that no others are fetched for a while.",
        whole(gauges.paused),
    );
    to.family(Kind::Counter, "scm_agent_revocations", "Tokens of integrations that are gone, by whether they could be revoked.");
    by_label::<Revocation>(&metrics.revocations, "outcome", to);
    to.family(Kind::Counter, "scm_agent_decrypts", "Sealed secrets that were tried to open, by the algorithm of the key that did.");
    for algorithm in Algorithm::ALL {
        let outcome = if *algorithm == Algorithm::None { Success::Failure } else { Success::Success };
        let labels = [("algorithm", algorithm.text()), ("outcome", outcome.text())];
        to.sample(&labels, whole(metrics.decrypts.get_pair(*algorithm, outcome)));
    }
}

fn list(metrics: &Metrics, gauges: &Gauges, to: &mut Writer) {
    to.family(Kind::Gauge, "scm_agent_integrations", "Integrations in the list, by how it stands with their app's secret.");
    for secret in Secret::ALL {
        to.sample(&[("secret", secret.text())], whole(count_of(&gauges.integrations, *secret)));
    }
    to.family(
        Kind::Counter,
        "scm_agent_syncs",
        "Attempts to fetch the list, by what came of them: a failure passes, or waits for an operator.",
    );
    by_label::<Sync>(&metrics.syncs, "outcome", to);
    to.family(Kind::Histogram, "scm_agent_sync_duration_seconds", "How long fetching the list took, failures included.");
    to.histogram(&[], &metrics.sync_durations.read());
    let help = "When a whole list last came, or for a kept one was last known to be the current one.";
    to.family(Kind::Gauge, "scm_agent_sync_last_success_timestamp_seconds", help);
    at(to, gauges.last_success);
    to.family(Kind::Gauge, "scm_agent_sync_last_attempt_timestamp_seconds", "When an attempt to fetch the list last ended.");
    at(to, gauges.last_attempt);
    gauge(to, "scm_agent_sync_consecutive_failures", "Failed attempts since the last good one.", whole(gauges.sync_failures));
    gauge(to, "scm_agent_sync_poll_interval_seconds", "The time between two attempts.", gauges.poll_interval.as_secs_f64());
    let help = "1 while the list in use is older than it should be: kept from before the start, or not confirmed for three intervals.";
    gauge(to, "scm_agent_sync_stale", help, flag(gauges.stale));
    gauge(to, "scm_agent_sync_watching", "1 while the control plane tells of changes as they happen.", flag(gauges.watching));
}

fn health(metrics: &Metrics, gauges: &Gauges, to: &mut Writer) {
    gauge(
        to,
        "scm_agent_degraded_reasons",
        "How many things do not work as they should; `scm-agent status` names them.",
        whole(gauges.degraded),
    );
    to.family(Kind::Gauge, "scm_agent_keys", "The runner's keys, by whether they are the one that the control plane has.");
    for registered in Registered::ALL {
        to.sample(&[("registered", registered.text())], whole(count_of(&gauges.keys, *registered)));
    }
    gauge(to, "scm_agent_store_healthy", "1 while users' sign-ins can be kept.", flag(gauges.store_healthy));
    gauge(to, "scm_agent_memory_locked", "1 where secrets are kept out of swap.", flag(gauges.memory_locked));
    to.family(Kind::Counter, "scm_agent_reloads", "Times that the settings were read again, by whether they were taken over.");
    by_label::<Success>(&metrics.reloads, "outcome", to);
    let help = "0 while settings are in use that were not those of the last reload.";
    gauge(to, "scm_agent_reload_last_successful", help, flag(!metrics.last_reload_failed.load(Ordering::Relaxed)));
    to.family(Kind::Info, "scm_agent_build", "Which scm-agent this is.");
    to.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

/// The names that Prometheus' own clients have. What the kernel does not say is left out.
fn process(metrics: &Metrics, to: &mut Writer) {
    let process::Usage { cpu, max_fds, open_fds, resident_bytes, virtual_bytes } = process::usage();
    to.family(Kind::Counter, "process_cpu_seconds", "Processor time, of the process and of the kernel for it.");
    optional(to, cpu.map(|cpu| cpu.as_secs_f64()));
    to.family(Kind::Gauge, "process_open_fds", "Open file descriptors.");
    optional(to, open_fds.map(whole));
    to.family(Kind::Gauge, "process_max_fds", "File descriptors that may be open.");
    optional(to, max_fds.map(whole));
    to.family(Kind::Gauge, "process_resident_memory_bytes", "Memory that is in RAM.");
    optional(to, resident_bytes.map(whole));
    to.family(Kind::Gauge, "process_virtual_memory_bytes", "Address space.");
    optional(to, virtual_bytes.map(whole));
    let started = metrics.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    gauge(to, "process_start_time_seconds", "When the process started.", started.as_secs_f64());
}

fn gauge(to: &mut Writer, name: &'static str, help: &'static str, value: f64) {
    to.family(Kind::Gauge, name, help);
    to.sample(&[], value);
}

/// A time. One that never was has no sample.
fn at(to: &mut Writer, seconds: Option<u64>) {
    optional(to, seconds.map(whole));
}

fn optional(to: &mut Writer, value: Option<f64>) {
    if let Some(value) = value {
        to.sample(&[], value);
    }
}

fn count_of<T: PartialEq>(counts: &[(T, u64)], thing: T) -> u64 {
    counts.iter().find(|(other, _)| *other == thing).map_or(0, |(_, count)| *count)
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn by_label<L: Label>(counters: &Counters<L>, label: &'static str, to: &mut Writer) {
    for value in L::ALL {
        to.sample(&[(label, value.text())], whole(counters.get(*value)));
    }
}

fn pairs<A: Label, B: Label>() -> impl Iterator<Item = (A, B)> {
    A::ALL.iter().flat_map(|first| B::ALL.iter().map(|second| (*first, *second)))
}
