//! Nothing that anybody writes makes the configuration panic, or shows up in what it says.

use proptest::prelude::*;
use scm_agent::config::KEYS;

use super::{Folder, LEAST};

/// What stands for a secret in a generated value.
const CANARY: &str = "cAnArY";

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("nan".to_owned()),
        any::<String>().prop_map(|text| serde_json::Value::from(format!("{CANARY}{text}")).to_string().replace('\u{7f}', "")),
        "[a-z0-9:/@.~?#%]{0,12}".prop_map(|text| format!("\"https://{CANARY}@{text}\"")),
        "[0-9]{1,25}(us|ms|s|m|h|d|y|month|)".prop_map(|text| format!("\"{text}\"")),
    ]
}

fn value() -> impl Strategy<Value = String> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(", "))),
            inner.prop_map(|value| format!("{{ host = {value} }}")),
        ]
    })
}

fn key() -> impl Strategy<Value = (String, String)> {
    let known: Vec<(String, String)> =
        KEYS.iter().flat_map(|(section, names)| names.iter().map(|name| ((*section).to_owned(), (*name).to_owned()))).collect();
    prop_oneof![3 => prop::sample::select(known), 1 => ("[a-z_]{1,14}", "[a-zA-Z_-]{1,20}")]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn a_tree_of_random_values_loads_or_gives_problems_without_values(entries in prop::collection::vec((key(), value()), 0..12)) {
        let text: String = entries.iter().map(|((section, name), value)| format!("{section}.{name} = {value}\n")).collect();
        let folder = Folder::new(&text);
        if let Err(error) = folder.load(&[]) {
            let shown = format!("{error}{error:?}").to_lowercase();
            prop_assert!(!error.problems().is_empty());
            prop_assert!(!shown.contains(&CANARY.to_lowercase()), "{shown}\n{text}");
        }
    }

    #[test]
    fn each_problem_is_one_line(entries in prop::collection::vec((key(), value()), 0..12), name in any::<String>()) {
        let name = serde_json::Value::from(name).to_string().replace('\u{7f}', "");
        let text: String = entries.iter().map(|((section, name), value)| format!("[{section}]\n{name} = {value}\n")).collect();
        let folder = Folder::new(&format!("{text}\n[log]\n{name} = 1\n"));
        if let Err(error) = folder.load(&[]) {
            prop_assert!(error.problems().iter().all(|problem| !problem.to_string().contains(char::is_control)));
        }
    }

    #[test]
    fn random_text_never_panics(text in "\\PC*", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = Folder::new(&text);
        let _ = folder.load(&[]);
        folder.write("config.toml", bytes);
        let _ = folder.load(&[]);
    }

    #[test]
    fn random_variables_never_panic_and_are_never_shown(
        entries in prop::collection::vec((key(), "[^\0]{0,20}", "(|[0-9]{1,6}|X)"), 0..8),
        stray in "[A-Z_0-9a-zÀ-ÿ]{0,20}",
    ) {
        let folder = Folder::new(LEAST);
        let mut variables: Vec<(String, String)> = entries
            .into_iter()
            .map(|((section, name), value, index)| {
                let index = if index.is_empty() { index } else { format!("{index}__") };
                (format!("SCM_AGENT__{section}__{index}{name}").to_uppercase(), format!("{CANARY}{value}"))
            })
            .collect();
        variables.push((format!("SCM_AGENT__{stray}"), CANARY.to_owned()));
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let error = folder.load(&variables).unwrap_err();
        let shown = format!("{error}{error:?}").to_lowercase();
        prop_assert!(!shown.contains(&CANARY.to_lowercase()), "{shown}");
    }

    #[test]
    fn what_loads_is_shown_as_what_loads_again(entries in prop::collection::vec((key(), value()), 0..4)) {
        let mut text = LEAST.to_owned();
        for ((section, name), value) in &entries {
            let folder = Folder::new(&format!("{text}{section}.{name} = {value}\n"));
            let table = match &**section {
                // The key that every table needs, unless it is the one.
                "access" if name == "allow" => "[[access]]\n".to_owned(),
                "access" => "[[access]]\nallow = []\n".to_owned(),
                "provider" => format!("[[provider]]\nhost = \"{}.example\"\n", text.len()),
                _ => format!("[{section}]\n"),
            };
            let longer = format!("{text}{table}{name} = {value}\n");
            folder.write("config.toml", &longer);
            if folder.load(&[]).is_ok() {
                text = longer;
            }
        }
        let shown = Folder::new(&text).load(&[]).unwrap().to_toml();
        let again = Folder::new(&shown).load(&[]).unwrap().to_toml();
        let values = |shown: &str| shown.lines().map(|line| line.rsplit_once(" # ").map_or(line, |(value, _)| value).to_owned()).collect::<Vec<_>>();
        prop_assert_eq!(values(&again), values(&shown));
    }
}
