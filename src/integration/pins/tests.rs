use super::*;
use crate::integration::source::RejectedIntegration;
use crate::integration::{OAuthApp, ScmId};

fn integration(id: &str, secret: u8) -> ScmIntegration {
    ScmIntegration {
        id: id.to_owned(),
        scm_id: ScmId::GitLab,
        host: "scm.example.com".to_owned(),
        oauth: Some(OAuthApp {
            client_id: "client".to_owned(),
            encrypted_client_secret: EncryptedClientSecret::new(vec![secret; 48]),
            issuer_url: Some("https://login.example.com".to_owned()),
        }),
        pat: true,
        runner_id: "runner".to_owned(),
        virtual_directory: String::new(),
    }
}

fn app(integration: &mut ScmIntegration) -> &mut OAuthApp {
    integration.oauth.as_mut().unwrap()
}

fn list(integrations: &[ScmIntegration]) -> IntegrationList {
    IntegrationList { integrations: integrations.iter().cloned().map(Arc::new).collect(), rejected: Vec::new() }
}

fn fields(quarantined: &Quarantined) -> Vec<&'static str> {
    quarantined.changes.iter().map(|change| change.field).collect()
}

/// A change of one field, and the field's name.
type Swap = (&'static str, fn(&mut ScmIntegration));

const SWAPS: [Swap; 6] = [
    ("id", |integration| integration.id = "b".to_owned()),
    ("scmId", |integration| integration.scm_id = ScmId::Other("other".to_owned())),
    ("host", |integration| integration.host = "evil.example.com".to_owned()),
    ("virtualDirectory", |integration| integration.virtual_directory = "/evil".to_owned()),
    ("oauth.clientId", |integration| app(integration).client_id = "evil".to_owned()),
    ("oauth.issuerUrl", |integration| app(integration).issuer_url = None),
];

#[test]
fn the_same_list_again_is_admitted_as_it_is() {
    let mut pins = Pins::default();
    let expected = list(&[integration("a", 1), integration("b", 2)]);
    for _ in 0..3 {
        let admission = pins.admit(expected.clone());
        assert_eq!((admission.list, admission.quarantined), (expected.clone(), Vec::new()));
    }
}

#[test]
fn each_of_the_six_fields_that_changes_under_an_old_ciphertext_is_held_back() {
    for (field, swap) in SWAPS {
        let mut pins = Pins::default();
        let before = integration("a", 1);
        pins.admit(list(std::slice::from_ref(&before)));
        let mut swapped = before.clone();
        swap(&mut swapped);
        let admission = pins.admit(list(&[swapped.clone(), before.clone()]));
        // Beside it, what was trusted is untouched.
        let [held] = &admission.quarantined[..] else { panic!("{field}: {admission:?}") };
        assert_eq!((fields(held), &*held.proposed), (vec![field], &swapped));
        assert!(admission.list.integrations.iter().all(|admitted| **admitted == before), "{field}: {admission:?}");
        assert_eq!(held.trusted.is_none(), field == "id", "{field}");
        // In its place, it stays in use.
        let admission = pins.admit(list(&[swapped]));
        let expected = if field == "id" { Vec::new() } else { vec![Arc::new(before)] };
        assert_eq!(admission.list.integrations, expected, "{field}");
    }
}

#[test]
fn a_new_ciphertext_may_come_with_anything_new() {
    let mut pins = Pins::default();
    pins.admit(list(&[integration("a", 1)]));
    for (number, (field, swap)) in (2..).zip(SWAPS) {
        let mut rotated = integration("a", number);
        swap(&mut rotated);
        let admission = pins.admit(list(std::slice::from_ref(&rotated)));
        assert_eq!((admission.list, admission.quarantined), (list(&[rotated]), Vec::new()), "{field}");
    }
}

#[test]
fn an_old_ciphertext_stays_bound_after_rotation_and_removal() {
    let mut pins = Pins::default();
    pins.admit(list(&[integration("a", 1)]));
    pins.admit(list(&[integration("a", 2)]));
    pins.admit(list(&[]));
    for (field, swap) in SWAPS {
        let mut swapped = integration("a", 1);
        swap(&mut swapped);
        let admission = pins.admit(list(&[swapped]));
        assert_eq!(admission.list, list(&[]), "{field}");
        assert_eq!(fields(&admission.quarantined[0]), [field]);
    }
    let back = list(&[integration("a", 1)]);
    assert_eq!(pins.admit(back.clone()).list, back);
}

#[test]
fn taking_away_needs_no_trust() {
    let mut pins = Pins::default();
    pins.admit(list(&[integration("a", 1)]));
    let mut swapped = ScmIntegration { pat: false, ..integration("a", 1) };
    app(&mut swapped).client_id = "evil".to_owned();
    let admission = pins.admit(list(&[swapped]));
    assert_eq!(admission.list, list(&[ScmIntegration { pat: false, ..integration("a", 1) }]));
    let without_app = ScmIntegration { oauth: None, host: "elsewhere.example.com".to_owned(), ..integration("a", 1) };
    assert_eq!(pins.admit(list(std::slice::from_ref(&without_app))).list, list(&[without_app]));
    assert_eq!(pins.admit(list(&[])).list, list(&[]));
}

#[test]
fn what_is_held_back_can_grant_no_personal_access_token_that_was_not_allowed() {
    let mut pins = Pins::default();
    pins.admit(list(&[ScmIntegration { pat: false, ..integration("a", 1) }]));
    let mut swapped = integration("a", 1);
    swapped.host = "evil.example.com".to_owned();
    assert!(!pins.admit(list(&[swapped])).list.integrations[0].pat);
}

#[test]
fn what_an_operator_accepts_is_admitted_and_so_is_the_way_back() {
    for (field, swap) in SWAPS {
        let mut pins = Pins::default();
        let before = integration("a", 1);
        pins.admit(list(std::slice::from_ref(&before)));
        let mut swapped = before.clone();
        swap(&mut swapped);
        let held = pins.admit(list(std::slice::from_ref(&swapped))).quarantined;
        pins.accept(&held[0]);
        for accepted in [&swapped, &before, &swapped] {
            let admission = pins.admit(list(std::slice::from_ref(accepted)));
            assert_eq!((admission.list, admission.quarantined), (list(std::slice::from_ref(accepted)), Vec::new()), "{field}");
        }
        // Nothing else was accepted with it.
        let mut other = swapped;
        app(&mut other).issuer_url = Some("https://third.example.com".to_owned());
        assert_eq!(pins.admit(list(&[other])).quarantined.len(), 1, "{field}");
    }
}

#[test]
fn a_proposal_is_named_by_all_of_its_fields() {
    let mut names: Vec<String> = vec![fingerprint(&integration("a", 1)), fingerprint(&integration("a", 2))];
    for (_, swap) in SWAPS {
        let mut swapped = integration("a", 1);
        swap(&mut swapped);
        names.push(fingerprint(&swapped));
    }
    assert!(names.iter().all(|name| name.len() == 16));
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn an_entry_that_is_unreadable_for_a_while_keeps_its_trusted_definition() {
    let mut pins = Pins::default();
    pins.admit(list(&[integration("a", 1)]));
    let unreadable = RejectedIntegration { id: Some("a".to_owned()), position: 0, reason: "host is missing".to_owned() };
    let admission = pins.admit(IntegrationList { integrations: Vec::new(), rejected: vec![unreadable] });
    assert!(admission.list.integrations.is_empty(), "it answers nothing meanwhile");
    let mut swapped = integration("a", 1);
    swapped.host = "evil.example.com".to_owned();
    assert_eq!(pins.admit(list(&[swapped])).list, list(&[integration("a", 1)]));
}

#[test]
fn one_of_two_that_share_a_new_ciphertext_is_held_back() {
    let mut pins = Pins::default();
    let admission = pins.admit(list(&[integration("a", 1), integration("b", 1)]));
    assert_eq!(admission.list, list(&[integration("a", 1)]));
    assert_eq!(fields(&admission.quarantined[0]), ["id"]);
}

#[test]
fn memory_of_past_ciphertexts_is_bounded_and_never_loses_a_current_one() {
    let mut pins = Pins::default();
    let numbered = |number: u32| {
        let mut made = integration(&format!("id-{number}"), 0);
        app(&mut made).encrypted_client_secret = EncryptedClientSecret::new(number.to_be_bytes().to_vec());
        made
    };
    let kept = numbered(0);
    for round in 0..6 {
        let batch: Vec<ScmIntegration> = std::iter::once(kept.clone()).chain((1..=4_000).map(|n| numbered(round * 4_000 + n))).collect();
        pins.admit(list(&batch));
    }
    assert!(pins.seals.len() <= MAX_PAST_SEALS + 4_001, "{}", pins.seals.len());
    let mut swapped = kept;
    swapped.host = "evil.example.com".to_owned();
    assert_eq!(pins.admit(list(&[swapped])).quarantined.len(), 1);
}

#[test]
fn a_host_that_only_waits_for_trust_is_known_as_such() {
    let mut pins = Pins::default();
    pins.admit(list(&[integration("a", 1)]));
    let mut moved = integration("a", 1);
    moved.host = "new.example.com".to_owned();
    let mut relocated = integration("b", 1);
    relocated.host = "other.example.com".to_owned();
    let quarantine = Quarantine::new(pins.admit(list(&[moved, relocated])).quarantined);
    let location = |host: &str| Location::from_git(b"https", host.as_bytes(), None, None, false).unwrap();
    assert_eq!(quarantine.for_host(&location("other.example.com")).unwrap().id, "b");
    assert_eq!(quarantine.for_host(&location("new.example.com")), None, "its trusted definition answers elsewhere");
    assert_eq!(quarantine.for_host(&location("scm.example.com")), None);
    assert_eq!((quarantine.entries().len(), quarantine.get("b").is_some(), quarantine.get("c")), (2, true, None));
}
