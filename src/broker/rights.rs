//! What a caller may have of an integration, by the operator's rules.

use std::sync::Arc;

use super::Caller;
use crate::denial::{Denial, Event};
use crate::integration::ScmIntegration;
use crate::integration::location::{HostPattern, Location};

/// One thing that a caller may have or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// The app's credentials themselves.
    AppSecret,
    /// Access that the caller brought along: by signing in.
    Own,
    /// The app's own access tokens.
    Service,
}

/// All that a caller may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// The app's credentials themselves.
    pub app_secret: bool,
    /// Access that the caller brought along: by signing in.
    pub own: bool,
    /// The app's own access tokens.
    pub service: bool,
}

impl Rights {
    /// Everything.
    const ALL: Self = Self { app_secret: true, own: true, service: true };
    /// Nothing.
    pub const NONE: Self = Self { app_secret: false, own: false, service: false };
    /// What whoever may connect has where there are no rules.
    pub const WITHOUT_RULES: Self = Self { app_secret: false, own: true, service: true };

    /// Whether one of them is there.
    #[must_use]
    pub fn has(self, right: Right) -> bool {
        match right {
            Right::AppSecret => self.app_secret,
            Right::Own => self.own,
            Right::Service => self.service,
        }
    }

    fn and(self, other: Self) -> Self {
        Self { app_secret: self.app_secret && other.app_secret, own: self.own && other.own, service: self.service && other.service }
    }
}

/// A rule, as far as it is about places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// The places that it is about; all of them where it is empty.
    pub hosts: Vec<HostPattern>,
    /// Its place among all rules, from 1.
    pub number: usize,
    /// What it gives.
    pub rights: Rights,
}

impl HostRule {
    fn covers(&self, place: &HostPattern) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|host| host.covers(place))
    }

    /// Whether it is about a part of a place only.
    fn is_within(&self, place: &HostPattern) -> bool {
        self.hosts.iter().any(|host| place.covers(host))
    }
}

/// The rules that are about one caller, in their order; by default there are no rules for anybody.
#[derive(Debug, Clone, Default)]
pub struct CallerRules(Option<Vec<Arc<HostRule>>>);

/// What the rules say of a caller and an integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What the caller may have.
    pub rights: Rights,
    /// The number of the rule that says so; `None` where no rule is about the two.
    pub rule: Option<usize>,
}

impl CallerRules {
    /// The rules of an operator who has written some.
    #[must_use]
    pub fn listed(rules: Vec<Arc<HostRule>>) -> Self {
        Self(Some(rules))
    }

    /// Whether the operator has written any rules.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.0.is_some()
    }

    /// Says what the caller may have of an integration: what the first rule gives that is about all of it.
    ///
    /// A token is good for everything that its integration covers, whatever path git asks with. So a rule about a part of that
    /// gives nothing, but what it withholds is withheld.
    #[must_use]
    pub fn verdict(&self, integration: &ScmIntegration) -> Verdict {
        let Some(rules) = &self.0 else { return Verdict { rights: Rights::WITHOUT_RULES, rule: None } };
        let nothing = Verdict { rights: Rights::NONE, rule: None };
        let Ok(place) = HostPattern::parse(integration) else { return nothing };
        let (mut most, mut withholding) = (Rights::ALL, None);
        for rule in rules {
            if rule.covers(&place) {
                let rights = rule.rights.and(most);
                let number = if rights == rule.rights { None } else { withholding };
                return Verdict { rights, rule: number.or(Some(rule.number)) };
            }
            if rule.is_within(&place) {
                withholding = withholding.or(Some(rule.number).filter(|_| most.and(rule.rights) != most));
                most = most.and(rule.rights);
            }
        }
        nothing
    }
}

impl Caller {
    /// Whether this is all that the caller may have of an integration. Nothing is written to the audit log.
    #[must_use]
    pub fn has_only(&self, right: Right, integration: &ScmIntegration) -> bool {
        let Verdict { rights, .. } = self.rules.verdict(integration);
        rights.has(right) && [Right::Own, Right::Service].into_iter().all(|other| other == right || !rights.has(other))
    }

    /// Whether the caller may have something of an integration. A refusal is written to the audit log with what was tried.
    #[must_use]
    pub fn may(&self, right: Right, integration: &ScmIntegration, location: &Location, operation: &'static str) -> bool {
        let Verdict { rights, rule } = self.rules.verdict(integration);
        let may = rights.has(right);
        if !may {
            self.log_denied(rule, integration, location, operation);
        }
        may
    }

    /// Writes a refusal by the access rules to the audit log, with the number of the rule and what was tried.
    pub(super) fn log_denied(&self, rule: Option<usize>, integration: &ScmIntegration, location: &Location, operation: &'static str) {
        self.denials.note(&Denial {
            host: Some(location),
            integration: Some(&integration.id),
            operation: Some(operation),
            reason: self.unit_problem.as_ref().map(|problem| problem as &dyn std::fmt::Display),
            rule,
            ..self.denial(Event::Access, "refused: access rules")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::ScmId;

    const SERVICE: Rights = Rights { service: true, ..Rights::NONE };
    const OWN: Rights = Rights { own: true, ..Rights::NONE };

    fn integration(host: &str) -> ScmIntegration {
        ScmIntegration {
            id: "0196f3a4-0000-7000-8000-000000000001".to_owned(),
            scm_id: ScmId::from("custom"),
            host: host.to_owned(),
            runner_id: String::new(),
            virtual_directory: String::new(),
            pat: false,
            oauth: None,
        }
    }

    fn rules(rules: &[(&[&str], Rights)]) -> CallerRules {
        let rule = |(index, (hosts, rights)): (usize, &(&[&str], Rights))| {
            let hosts = hosts.iter().map(|host| HostPattern::of_host(host).unwrap()).collect();
            Arc::new(HostRule { hosts, number: index + 1, rights: *rights })
        };
        CallerRules::listed(rules.iter().enumerate().map(rule).collect())
    }

    fn verdict(given: &[(&[&str], Rights)], host: &str) -> (Rights, Option<usize>) {
        let Verdict { rights, rule } = rules(given).verdict(&integration(host));
        (rights, rule)
    }

    #[test]
    fn without_rules_everyone_has_service_tokens_and_their_own_but_never_the_secret() {
        let Verdict { rights, rule } = CallerRules::default().verdict(&integration("a.example"));
        assert_eq!((rights, rule), (Rights { app_secret: false, own: true, service: true }, None));
    }

    #[test]
    fn where_there_are_rules_and_none_matches_there_is_nothing() {
        assert_eq!(verdict(&[], "a.example"), (Rights::NONE, None));
        assert_eq!(verdict(&[(&["b.example", "a.example:8443", "example"], Rights::ALL)], "a.example"), (Rights::NONE, None));
    }

    #[test]
    fn the_first_rule_that_covers_the_integration_counts() {
        let given: [(&[&str], Rights); 3] = [(&["b.example", "A.Example"], SERVICE), (&[], OWN), (&["c.example"], Rights::ALL)];
        assert_eq!(verdict(&given, "a.example"), (SERVICE, Some(1)));
        assert_eq!(verdict(&given, "a.example:443/team"), (SERVICE, Some(1)));
        assert_eq!(verdict(&given, "c.example"), (OWN, Some(2)));
    }

    #[test]
    fn a_path_is_whole_segments_and_its_case_counts_except_on_azure_devops() {
        let given: [(&[&str], Rights); 2] = [(&["git.example/acme"], SERVICE), (&["dev.azure.com/Acme"], OWN)];
        assert_eq!(verdict(&given, "git.example/acme/tools"), (SERVICE, Some(1)));
        assert_eq!(verdict(&given, "git.example/acme-evil"), (Rights::NONE, None));
        assert_eq!(verdict(&given, "git.example/Acme"), (Rights::NONE, None));
        assert_eq!(verdict(&given, "dev.azure.com/aCME"), (OWN, Some(2)));
        assert_eq!(verdict(&given, "acme.visualstudio.com"), (OWN, Some(2)));
    }

    #[test]
    fn a_rule_about_a_part_of_an_integration_gives_nothing_but_withholds() {
        assert_eq!(verdict(&[(&["a.example/team"], Rights::ALL)], "a.example"), (Rights::NONE, None));
        let withheld: [(&[&str], Rights); 2] = [(&["a.example/secret"], OWN), (&[], Rights::WITHOUT_RULES)];
        assert_eq!(verdict(&withheld, "a.example"), (OWN, Some(1)));
        // What it does not withhold is the later rule's.
        let given: [(&[&str], Rights); 2] = [(&["a.example/team"], Rights::ALL), (&[], SERVICE)];
        assert_eq!(verdict(&given, "a.example"), (SERVICE, Some(2)));
        // A part of another place is no part of this one.
        assert_eq!(verdict(&withheld, "b.example"), (Rights::WITHOUT_RULES, Some(2)));
        assert_eq!(verdict(&withheld, "a.example/team"), (Rights::WITHOUT_RULES, Some(2)));
    }
}
