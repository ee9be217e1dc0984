//! What a running daemon cannot take over from a configuration that changed.

use super::{Config, Source};

impl Config {
    /// The keys that count from the next start on only, of those that are other than in the configuration of this start: sockets,
    /// places on disk, and whose list it is that is kept there.
    #[must_use]
    pub fn needs_restart(&self, started_with: &Self) -> Vec<String> {
        let (now, then) = (&self.agent, &started_with.agent);
        let plane = (&self.control_plane, &started_with.control_plane);
        let changed = [
            (
                "control_plane.url",
                matches!((&plane.0.source, &plane.1.source), (Source::Url(now), then) if !matches!(then, Source::Url(then) if now == then)),
            ),
            (
                "control_plane.file",
                matches!((&plane.0.source, &plane.1.source), (Source::File(now), then) if !matches!(then, Source::File(then) if now == then)),
            ),
            ("control_plane.runner_id", plane.0.runner_id != plane.1.runner_id),
            ("control_plane.poll_interval", plane.0.poll_interval != plane.1.poll_interval),
            ("control_plane.watch", plane.0.watch != plane.1.watch),
            ("agent.socket", now.socket != then.socket),
            ("agent.socket_group", now.socket_group != then.socket_group),
            ("agent.socket_mode", now.socket_mode != then.socket_mode),
            ("agent.state_dir", now.state_dir != then.state_dir),
            ("agent.sandbox", now.sandbox != then.sandbox),
            ("store.kind", self.store.kind != started_with.store.kind),
        ];
        changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key.to_owned()).collect()
    }

    /// Whether the list is that of the same runner at the same place. A token for another one must not be shown to this one.
    #[must_use]
    pub fn has_source_of(&self, started_with: &Self) -> bool {
        let (now, then) = (&self.control_plane, &started_with.control_plane);
        now.source == then.source && now.runner_id == then.runner_id
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};

    fn config(lines: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, lines).unwrap();
        Config::load(Some(&path), &Environment::default()).unwrap()
    }

    const PLANE: &str = "[control_plane]\nrunner_id = \"0b4b1f4e-3f1a-4c5d-9e6f-7a8b9c0d1e2f\"\n";

    #[test]
    fn each_key_that_cannot_be_taken_over_is_named_and_no_other() {
        let then = config(&format!("{PLANE}[agent]\nsocket = \"/a\"\n"));
        assert_eq!(then.needs_restart(&then.clone()), Vec::<String>::new());
        let other = PLANE.replace("0b4b", "1b4b");
        for (lines, expected) in [
            (
                format!(
                    "{PLANE}[agent]\nsocket = \"/a\"\nmax_connections = 7\nmax_requests_per_second = 7\nrequest_timeout = \"1m\"\n[log]\nlevel = \"trace\"\n"
                ),
                &[][..],
            ),
            (format!("{PLANE}token_file = \"/t\"\nproxy = \"http://p.example\"\n[agent]\nsocket = \"/a\"\n[scm]\ntimeout = \"1s\"\n"), &[]),
            (
                format!(
                    "{PLANE}[agent]\nsocket = \"/b\"\nsocket_group = \"0\"\nsocket_mode = \"0600\"\nstate_dir = \"/s\"\nsandbox = \"off\"\n"
                ),
                &["agent.socket", "agent.socket_group", "agent.socket_mode", "agent.state_dir", "agent.sandbox"],
            ),
            (
                format!("{PLANE}url = \"https://other.example\"\n[agent]\nsocket = \"/a\"\n[store]\nkind = \"memory\"\n"),
                &["control_plane.url", "store.kind"],
            ),
            (
                format!(
                    "{PLANE}poll_interval = \"2m\"\nwatch = false\n[agent]\nsocket = \"/a\"\n[log]\nformat = \"json\"\naudit_file = \"/a\"\n"
                ),
                &["control_plane.poll_interval", "control_plane.watch"],
            ),
            (format!("{other}[agent]\nsocket = \"/a\"\n"), &["control_plane.runner_id"]),
            (format!("{PLANE}[agent]\nsocket = \"/a\"\n[metrics]\nsocket_group = \"0\"\n"), &[]),
            (format!("{PLANE}[agent]\nsocket = \"/a\"\n[metrics]\nlisten = \"unix:/m\"\nsocket_group = \"0\"\n"), &[]),
            (
                "[control_plane]\nfile = \"/list\"\n[agent]\nsocket = \"/a\"\n".to_owned(),
                &["control_plane.file", "control_plane.runner_id"],
            ),
        ] {
            let now = config(&lines);
            assert_eq!(now.needs_restart(&then), expected, "{lines}");
            let same = !expected.iter().any(|key| ["control_plane.url", "control_plane.file", "control_plane.runner_id"].contains(key));
            assert_eq!(now.has_source_of(&then), same, "{lines}");
        }
    }
}
