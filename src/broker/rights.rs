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

    fn or(self, other: Self) -> Self {
        Self { app_secret: self.app_secret || other.app_secret, own: self.own || other.own, service: self.service || other.service }
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

/// A rule that is, or may be, about a caller.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Whether it is. One that only may be gives nothing, but what it withholds is withheld.
    pub is_certain: bool,
    /// The rule.
    pub rule: Arc<HostRule>,
}

/// What somebody was given for a while, beyond the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The place: integrations that lie wholly within it.
    pub host: HostPattern,
    /// By what it is known.
    pub id: Arc<str>,
    /// What was given.
    pub rights: Rights,
}

/// The rules that are about one caller, in their order, and what it was given beyond them; by default there are no rules for anybody.
#[derive(Debug, Clone, Default)]
pub struct CallerRules {
    granted: Vec<Granted>,
    rules: Option<Vec<Listed>>,
}

/// What the rules say of a caller and an integration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The grant that gives what the rules do not.
    pub grant: Option<Arc<str>>,
    /// What the caller may have.
    pub rights: Rights,
    /// The number of the rule that says so; `None` where no rule is about the two.
    pub rule: Option<usize>,
}

impl CallerRules {
    /// The rules of an operator who has written some.
    #[must_use]
    pub fn listed(rules: Vec<Listed>) -> Self {
        Self { granted: Vec::new(), rules: Some(rules) }
    }

    /// The same, with what the caller was given.
    #[must_use]
    pub fn with_granted(self, granted: Vec<Granted>) -> Self {
        Self { granted, ..self }
    }

    /// Whether the operator has written any rules.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.rules.is_some()
    }

    /// Says what the caller may have of an integration: what the first rule gives that is about all of it.
    ///
    /// A token is good for everything that its integration covers, whatever path git asks with. So a rule about a part of that
    /// gives nothing, but what it withholds is withheld. What was granted comes on top of that.
    #[must_use]
    pub fn verdict(&self, integration: &ScmIntegration) -> Verdict {
        let place = HostPattern::parse(integration).ok();
        let (by_rules, rule) = match (&self.rules, &place) {
            (None, _) => (Rights::WITHOUT_RULES, None),
            (Some(_), None) => (Rights::NONE, None),
            (Some(rules), Some(place)) => by_rules(rules, place),
        };
        let mut verdict = Verdict { grant: None, rights: by_rules, rule };
        for granted in self.granted.iter().filter(|granted| place.as_ref().is_some_and(|place| granted.host.covers(place))) {
            let rights = verdict.rights.or(granted.rights);
            if rights != verdict.rights {
                verdict = Verdict { grant: verdict.grant.or_else(|| Some(Arc::clone(&granted.id))), rights, ..verdict };
            }
        }
        verdict
    }
}

/// What the first rule gives that is about all of a place, and its number.
fn by_rules(rules: &[Listed], place: &HostPattern) -> (Rights, Option<usize>) {
    let (mut most, mut withholding) = (Rights::ALL, None);
    for Listed { is_certain, rule } in rules {
        if *is_certain && rule.covers(place) {
            let rights = rule.rights.and(most);
            let number = if rights == rule.rights { None } else { withholding };
            return (rights, number.or(Some(rule.number)));
        }
        if rule.covers(place) || rule.is_within(place) {
            withholding = withholding.or(Some(rule.number).filter(|_| most.and(rule.rights) != most));
            most = most.and(rule.rights);
        }
    }
    (Rights::NONE, None)
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
        let Verdict { rights, rule, .. } = self.rules.verdict(integration);
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
            Listed { is_certain: true, rule: Arc::new(HostRule { hosts, number: index + 1, rights: *rights }) }
        };
        CallerRules::listed(rules.iter().enumerate().map(rule).collect())
    }

    fn verdict(given: &[(&[&str], Rights)], host: &str) -> (Rights, Option<usize>) {
        let Verdict { rights, rule, .. } = rules(given).verdict(&integration(host));
        (rights, rule)
    }

    #[test]
    fn without_rules_everyone_has_service_tokens_and_their_own_but_never_the_secret() {
        let Verdict { rights, rule, .. } = CallerRules::default().verdict(&integration("a.example"));
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
    fn what_was_granted_comes_on_top_of_the_rules_for_its_place_alone() {
        let granted = |host: &str, rights| Granted { host: HostPattern::of_host(host).unwrap(), id: format!("of {host}").into(), rights };
        let given: [(&[&str], Rights); 2] = [(&["a.example"], Rights::NONE), (&["b.example"], OWN)];
        let all = vec![
            granted("a.example/team", SERVICE),
            granted("b.example", OWN),
            granted("b.example/x", SERVICE),
            granted("d.example", SERVICE),
        ];
        let rules = rules(&given).with_granted(all.clone());
        let verdict = |host: &str| {
            let Verdict { grant, rights, rule } = rules.verdict(&integration(host));
            (grant.as_deref().map(str::to_owned), rights, rule)
        };
        assert_eq!(verdict("a.example/team/sub"), (Some("of a.example/team".to_owned()), SERVICE, Some(1)));
        assert_eq!(verdict("a.example"), (None, Rights::NONE, Some(1)));
        assert_eq!(verdict("a.example/team-evil"), (None, Rights::NONE, Some(1)));
        // What the rules give is not by a grant.
        assert_eq!(verdict("b.example"), (None, OWN, Some(2)));
        assert_eq!(verdict("b.example/x").1, Rights { service: true, ..OWN });
        assert_eq!(verdict("d.example"), (Some("of d.example".to_owned()), SERVICE, None));
        let without = CallerRules::default().with_granted(all).verdict(&integration("d.example"));
        assert_eq!((without.grant, without.rights), (None, Rights::WITHOUT_RULES));
    }

    #[test]
    fn a_rule_that_may_be_about_the_caller_gives_nothing_but_withholds() {
        let listed = |is_certain, hosts: &[&str], number, rights| {
            let hosts = hosts.iter().map(|host| HostPattern::of_host(host).unwrap()).collect();
            Listed { is_certain, rule: Arc::new(HostRule { hosts, number, rights }) }
        };
        let rules = CallerRules::listed(vec![listed(false, &["a.example"], 1, OWN), listed(true, &[], 2, Rights::WITHOUT_RULES)]);
        let verdict = |host: &str| (rules.verdict(&integration(host)).rights, rules.verdict(&integration(host)).rule);
        assert_eq!(verdict("a.example"), (OWN, Some(1)));
        assert_eq!(verdict("b.example"), (Rights::WITHOUT_RULES, Some(2)));
        let alone = CallerRules::listed(vec![listed(false, &[], 1, Rights::ALL)]);
        assert_eq!(alone.verdict(&integration("a.example")).rights, Rights::NONE);
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
