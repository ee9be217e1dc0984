//! What the manual pages show as examples.

/// The page that an example stands on, what it does, and what to type. A test has the command line take each.
pub(super) const EXAMPLES: &[(&str, &str, &[&str])] = &[
    ("scm-agent", "Have a look at everything between the configuration and git:", &["scm-agent doctor"]),
    ("scm-agent", "Have git ask scm-agent, for every user of this host (as root):", &["scm-agent git setup"]),
    (
        "scm-agent-completions",
        "For bash, for oneself:",
        &["scm-agent completions bash > ~/.local/share/bash-completion/completions/scm-agent"],
    ),
    (
        "scm-agent-completions",
        "For zsh, for everyone (as root):",
        &["scm-agent completions zsh > /usr/local/share/zsh/site-functions/_scm-agent"],
    ),
    ("scm-agent-completions", "For fish, for oneself:", &["scm-agent completions fish > ~/.config/fish/completions/scm-agent.fish"]),
    ("scm-agent-config-check", "Before a reload:", &["scm-agent config check && scm-agent reload"]),
    ("scm-agent-doctor", "Why does this host answer \"repository not found\"?", &["scm-agent doctor https://github.com/acme/project.git"]),
    (
        "scm-agent-explain",
        "Which integration, rule and account would answer?",
        &["scm-agent explain https://dev.azure.com/acme/project/_git/repository"],
    ),
    ("scm-agent-git-setup", "See what would change, and change nothing:", &["scm-agent git setup --dry-run"]),
    (
        "scm-agent-git-setup",
        "In a file that the user's configuration includes:",
        &["scm-agent git setup --file ~/.config/git/scm-agent", "git config --global --add include.path ~/.config/git/scm-agent"],
    ),
    (
        "scm-agent-grant",
        "A job's unit gets one host for as long as it runs; who has what; take it back:",
        &[
            "scm-agent grant --unit job-123.service --host gitlab.example.com/acme --ttl 1h",
            "scm-agent grant --list",
            "scm-agent grant --revoke 5e1f09aa",
        ],
    ),
    ("scm-agent-key-show", "The public half, as the control plane registers it:", &["scm-agent key show /etc/scm-agent/runner.pem"]),
    (
        "scm-agent-keygen",
        "A key for this runner; what is printed is to be registered:",
        &["scm-agent keygen --algorithm rsa-3072 --out /etc/scm-agent/runner.pem"],
    ),
    ("scm-agent-login", "On a machine without a browser:", &["scm-agent login --device https://github.com"]),
    (
        "scm-agent-login",
        "A second account, and which one git is to use:",
        &[
            "scm-agent login --account work https://gitlab.example.com",
            "git config --global credential.https://gitlab.example.com.username work",
        ],
    ),
    ("scm-agent-man", "For everyone, where no package has brought them (as root):", &["scm-agent man /usr/local/share/man"]),
    (
        "scm-agent-oauth-app",
        "Git Credential Manager or git-credential-oauth, for this shell and what it starts:",
        &["eval \"$(scm-agent oauth-app https://gitlab.example.com --format env)\""],
    ),
    ("scm-agent-seal", "What the control plane would hand out for a secret:", &["printf %s \"$SECRET\" | scm-agent seal --key runner.pub"]),
    ("scm-agent-status", "Keep it on the screen, with another look every ten seconds:", &["scm-agent status --watch 10"]),
    (
        "scm-agent-trust",
        "See what is held back, then accept it:",
        &["scm-agent trust", "scm-agent trust 0196f3a4-5b6c-7d8e-9f01-23456789abcd"],
    ),
    ("scm-agent-unseal", "Does this key open what was sealed?", &["scm-agent unseal --key runner.pem < sealed.txt > /dev/null"]),
];
