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

fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(number * 24 * 60 * 60)
}

fn admit(pins: &mut Pins, list: IntegrationList) -> Admission {
    pins.admit(list, day(1_000))
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
        let admission = admit(&mut pins, expected.clone());
        assert_eq!((admission.list, admission.quarantined), (expected.clone(), Vec::new()));
    }
}

#[test]
fn each_of_the_six_fields_that_changes_under_an_old_ciphertext_is_held_back() {
    for (field, swap) in SWAPS {
        let mut pins = Pins::default();
        let before = integration("a", 1);
        admit(&mut pins, list(std::slice::from_ref(&before)));
        let mut swapped = before.clone();
        swap(&mut swapped);
        let admission = admit(&mut pins, list(&[swapped.clone(), before.clone()]));
        // Beside it, what was trusted is untouched.
        let [held] = &admission.quarantined[..] else { panic!("{field}: {admission:?}") };
        assert_eq!((fields(held), &*held.proposed), (vec![field], &swapped));
        assert!(admission.list.integrations.iter().all(|admitted| **admitted == before), "{field}: {admission:?}");
        assert_eq!(held.trusted.is_none(), field == "id", "{field}");
        // In its place, it stays in use.
        let admission = admit(&mut pins, list(&[swapped]));
        let expected = if field == "id" { Vec::new() } else { vec![Arc::new(before)] };
        assert_eq!(admission.list.integrations, expected, "{field}");
    }
}

#[test]
fn a_new_ciphertext_may_come_with_anything_new() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[integration("a", 1)]));
    for (number, (field, swap)) in (2..).zip(SWAPS) {
        let mut rotated = integration("a", number);
        swap(&mut rotated);
        let admission = admit(&mut pins, list(std::slice::from_ref(&rotated)));
        assert_eq!((admission.list, admission.quarantined), (list(&[rotated]), Vec::new()), "{field}");
    }
}

#[test]
fn an_old_ciphertext_stays_bound_after_rotation_and_removal() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[integration("a", 1)]));
    admit(&mut pins, list(&[integration("a", 2)]));
    admit(&mut pins, list(&[]));
    for (field, swap) in SWAPS {
        let mut swapped = integration("a", 1);
        swap(&mut swapped);
        let admission = admit(&mut pins, list(&[swapped]));
        assert_eq!(admission.list, list(&[]), "{field}");
        assert_eq!(fields(&admission.quarantined[0]), [field]);
    }
    let back = list(&[integration("a", 1)]);
    assert_eq!(admit(&mut pins, back.clone()).list, back);
}

#[test]
fn taking_away_needs_no_trust() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[integration("a", 1)]));
    let mut swapped = ScmIntegration { pat: false, ..integration("a", 1) };
    app(&mut swapped).client_id = "evil".to_owned();
    let admission = admit(&mut pins, list(&[swapped]));
    assert_eq!(admission.list, list(&[ScmIntegration { pat: false, ..integration("a", 1) }]));
    let without_app = ScmIntegration { oauth: None, host: "elsewhere.example.com".to_owned(), ..integration("a", 1) };
    assert_eq!(admit(&mut pins, list(std::slice::from_ref(&without_app))).list, list(&[without_app]));
    assert_eq!(admit(&mut pins, list(&[])).list, list(&[]));
}

#[test]
fn what_is_held_back_can_grant_no_personal_access_token_that_was_not_allowed() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[ScmIntegration { pat: false, ..integration("a", 1) }]));
    let mut swapped = integration("a", 1);
    swapped.host = "evil.example.com".to_owned();
    assert!(!admit(&mut pins, list(&[swapped])).list.integrations[0].pat);
}

#[test]
fn what_an_operator_accepts_is_admitted_and_the_way_back_is_another_change() {
    for (field, swap) in SWAPS {
        let mut pins = Pins::default();
        let before = integration("a", 1);
        admit(&mut pins, list(std::slice::from_ref(&before)));
        let mut swapped = before.clone();
        swap(&mut swapped);
        let held = admit(&mut pins, list(std::slice::from_ref(&swapped))).quarantined;
        pins.accept(&held[0]);
        let admission = admit(&mut pins, list(std::slice::from_ref(&swapped)));
        assert_eq!((admission.list, admission.quarantined), (list(std::slice::from_ref(&swapped)), Vec::new()), "{field}");
        // What was accepted by mistake, or left behind, is not good for ever. Another id is another matter: both may have it.
        let back = admit(&mut pins, list(std::slice::from_ref(&before))).quarantined;
        assert_eq!(back.len(), usize::from(field != "id"), "{field}");
        // Nothing else was accepted with it.
        let mut other = swapped;
        app(&mut other).issuer_url = Some("https://third.example.com".to_owned());
        assert_eq!(admit(&mut pins, list(&[other])).quarantined.len(), 1, "{field}");
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
    assert!(names.iter().all(|name| name.len() == 32));
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn an_entry_that_is_unreadable_for_a_while_keeps_its_trusted_definition() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[integration("a", 1)]));
    let unreadable = RejectedIntegration { id: Some("a".to_owned()), position: 0, reason: "host is missing".to_owned() };
    let admission = admit(&mut pins, IntegrationList { integrations: Vec::new(), rejected: vec![unreadable] });
    assert!(admission.list.integrations.is_empty(), "it answers nothing meanwhile");
    let mut swapped = integration("a", 1);
    swapped.host = "evil.example.com".to_owned();
    assert_eq!(admit(&mut pins, list(&[swapped])).list, list(&[integration("a", 1)]));
}

#[test]
fn one_of_two_that_share_a_new_ciphertext_is_held_back() {
    let mut pins = Pins::default();
    let admission = admit(&mut pins, list(&[integration("a", 1), integration("b", 1)]));
    assert_eq!(admission.list, list(&[integration("a", 1)]));
    assert_eq!(fields(&admission.quarantined[0]), ["id"]);
}

fn numbered(number: u32) -> ScmIntegration {
    let mut made = integration(&format!("id-{number}"), 0);
    app(&mut made).encrypted_client_secret = EncryptedClientSecret::new(number.to_be_bytes().to_vec());
    app(&mut made).client_id = "c".repeat(500);
    made
}

/// A list of 4,000 that were never seen.
fn flood(round: u32) -> IntegrationList {
    list(&(1..=4_000).map(|number| numbered(round * 4_000 + number)).collect::<Vec<_>>())
}

#[test]
fn a_flood_of_other_secrets_makes_none_forgotten_and_ends_with_what_is_new_held_back() {
    let mut pins = Pins::default();
    let known = integration("a", 1);
    admit(&mut pins, list(std::slice::from_ref(&known)));
    let mut held_back = 0;
    for round in 0..8 {
        let admission = admit(&mut pins, flood(round));
        assert_eq!(admission.forgotten, 0);
        held_back += admission.quarantined.len();
    }
    assert!(held_back > 4_000, "{held_back}");
    assert!(pins.seals.len() <= MAX_PAST_SEALS + 4_001, "{}", pins.seals.len());
    let text: usize = pins.seals.values().flat_map(|seal| &seal.uses).filter_map(|known| known.text.as_ref()).map(Use::bytes).sum();
    assert!(text < MAX_PAST_TEXT_BYTES + 4_001 * 600, "{text}");
    let mut swapped = known.clone();
    app(&mut swapped).issuer_url = Some("https://evil.example.com".to_owned());
    let admission = admit(&mut pins, list(&[swapped]));
    assert!(admission.list.integrations.is_empty());
    // The words are lost, the mark is not.
    assert!(admission.quarantined[0].changes.iter().all(|change| change.trusted == NOT_KNOWN), "{:?}", admission.quarantined);
    assert_eq!(admit(&mut pins, list(std::slice::from_ref(&known))).list, list(&[known]));
}

#[test]
fn what_is_long_gone_makes_room_and_only_then_is_new_trusted_again() {
    let mut pins = Pins::default();
    for round in 0..6 {
        pins.admit(flood(round), day(1_000));
    }
    let fresh = list(&[integration("a", 1)]);
    assert_eq!(pins.admit(fresh.clone(), day(1_029)).quarantined.len(), 1);
    // A clock that was set back makes nothing old.
    assert_eq!(pins.admit(fresh.clone(), day(10)).quarantined.len(), 1);
    let later = pins.admit(fresh.clone(), day(1_041));
    assert_eq!((later.forgotten, later.list), (0, fresh));
    assert_eq!(pins.seals.len(), MAX_PAST_SEALS + 1);
    assert_eq!(pins.admit(list(&[]), day(1_041)).forgotten, 1);
    assert_eq!(pins.seals.len(), MAX_PAST_SEALS);
}

#[test]
fn a_host_that_only_waits_for_trust_is_known_as_such() {
    let mut pins = Pins::default();
    admit(&mut pins, list(&[integration("a", 1)]));
    let mut moved = integration("a", 1);
    moved.host = "new.example.com".to_owned();
    let mut relocated = integration("b", 1);
    relocated.host = "other.example.com".to_owned();
    let quarantine = Quarantine::new(admit(&mut pins, list(&[moved, relocated])).quarantined);
    let location = |host: &str| Location::from_git(b"https", host.as_bytes(), None, None, false).unwrap();
    assert_eq!(quarantine.for_host(&location("other.example.com")).unwrap().id, "b");
    assert_eq!(quarantine.for_host(&location("new.example.com")), None, "its trusted definition answers elsewhere");
    assert_eq!(quarantine.for_host(&location("scm.example.com")), None);
    assert_eq!((quarantine.entries().len(), quarantine.get("b").is_some(), quarantine.get("c")), (2, true, None));
}
