//! The values that labels can have: all of them known here, so that nothing a caller or a host says makes a new series.

/// What can be a label: how it is written, and its place among its like.
pub trait Label: Copy + 'static {
    /// All values, in the order in which they are written.
    const ALL: &'static [Self];

    /// As it stands in a scrape.
    fn text(self) -> &'static str;

    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// What a client asks for.
    Operation {
        /// `accounts`, `login`, its callback and `logout`.
        Accounts = "accounts",
        /// git has no use for a credential.
        Erase = "erase",
        /// What a `get` would be answered with.
        Explain = "explain",
        /// git wants a credential.
        Get = "get",
        /// What systemd units are given.
        Grant = "grant",
        /// The app itself.
        OauthApp = "oauth-app",
        /// What this daemon does not know, or could not read.
        Other = "other",
        /// Whether the daemon answers at all.
        Ping = "ping",
        /// The settings are to be read again.
        Reload = "reload",
        /// What the daemon holds.
        Status = "status",
        /// A credential worked.
        Store = "store",
        /// The list is to be fetched.
        Sync = "sync",
        /// What was held back is accepted.
        Trust = "trust",
    }
}

labels! {
    /// What a request was answered with.
    Outcome {
        /// A token of the app's or of a sign-in.
        Credential = "credential",
        /// Nothing, for the access rules.
        Denied = "denied",
        /// The document that was asked for.
        Document = "document",
        /// It broke a rule of the protocol, or is not for this caller.
        Error = "error",
        /// A line for the user, after which git asks for a password.
        Message = "message",
        /// A personal access token.
        Pat = "pat",
        /// A line for the user, with which git ends.
        Quit = "quit",
        /// Nothing: not our host, or an operation that needs no answer.
        Silence = "silence",
        /// There was no answer in time.
        Timeout = "timeout",
    }
}

labels! {
    /// How a request of git's came to a token, for its duration.
    Served {
        /// Not a `get`.
        ByOther = "other",
        /// A `get` that a token answered which was there already.
        Cached = "cached",
        /// A `get` that had to wait for a token.
        Fetched = "fetched",
        /// A `get` without a token.
        Nothing = "none",
    }
}

labels! {
    /// How a token is asked for at an issuer.
    TokenGrant {
        /// With the app's secret alone.
        ClientCredentials = "client_credentials",
        /// With what an earlier sign-in left.
        RefreshToken = "refresh_token",
        /// After a user signed in.
        SignIn = "sign_in",
    }
}

labels! {
    /// What a host is.
    Provider {
        /// `azuredevops_entra`
        AzureDevopsEntra = "azuredevops_entra",
        /// `azuredevops_server`
        AzureDevopsServer = "azuredevops_server",
        /// `bitbucket`
        Bitbucket = "bitbucket",
        /// `forgejo`
        Forgejo = "forgejo",
        /// `gitea`
        Gitea = "gitea",
        /// `github`
        Github = "github",
        /// `gitlab`
        Gitlab = "gitlab",
        /// Whatever else the list may say.
        Other = "other",
    }
}

impl Provider {
    /// The one that an SCM id of the list names.
    #[must_use]
    pub fn of(scm_id: &str) -> Self {
        Self::ALL.iter().copied().find(|provider| provider.text() == scm_id).unwrap_or(Self::Other)
    }
}

labels! {
    /// What came of a request for a token.
    TokenOutcome {
        /// No usable answer.
        Failed = "failed",
        /// A token.
        Issued = "issued",
        /// The issuer said no.
        Refused = "refused",
    }
}

labels! {
    /// What came of renewing a sign-in.
    Refresh {
        /// It may go better another time.
        Failed = "failed",
        /// The user ended it meanwhile.
        Gone = "gone",
        /// The user has to sign in again.
        LoginNeeded = "login_needed",
        /// There are new tokens.
        Renewed = "renewed",
    }
}

labels! {
    /// Which key opened a secret.
    Algorithm {
        /// None did.
        None = "none",
        /// RSAES-OAEP.
        Rsa = "rsa",
        /// A sealed box.
        X25519 = "x25519",
    }
}

labels! {
    /// What became of a token that a host refused.
    Rejected {
        /// It is served on, because new ones were refused as well.
        Kept = "kept",
        /// It is served no more.
        Replaced = "replaced",
    }
}

labels! {
    /// What became of a token that nobody is to use any more.
    Revocation {
        /// It could not be revoked.
        Failed = "failed",
        /// Another integration uses it.
        InUse = "in_use",
        /// The issuer revokes none.
        NotOffered = "not_offered",
        /// It is dead.
        Revoked = "revoked",
    }
}

labels! {
    /// What came of asking for the list.
    Sync {
        /// It fails until an operator does something.
        Operator = "operator",
        /// The list came.
        Success = "success",
        /// It may go better another time.
        Transient = "transient",
    }
}

labels! {
    /// Whether something was done.
    Success {
        /// It was not.
        Failure = "failure",
        /// It was.
        Success = "success",
    }
}

labels! {
    /// Whose token it is.
    Holder {
        /// Personal access tokens, the operator's included.
        Pat = "pat",
        /// The app's own.
        Service = "service",
        /// Of sign-ins.
        User = "user",
    }
}

labels! {
    /// Whether a token can be served.
    TokenState {
        /// The last attempt to get one failed.
        Failing = "failing",
        /// A user has to sign in.
        NeedsLogin = "needs_login",
        /// A new one is on its way.
        Refreshing = "refreshing",
        /// It can be served.
        Valid = "valid",
    }
}

labels! {
    /// How it stands with an app's secret.
    Secret {
        /// There is none.
        Missing = "missing",
        /// A loaded key opens it.
        Ok = "ok",
        /// Held back until an operator trusts it.
        Quarantined = "quarantined",
        /// No loaded key opens it.
        Undecryptable = "undecryptable",
    }
}

labels! {
    /// Whether a key is the one that the control plane has.
    Registered {
        /// It is not.
        No = "no",
        /// The control plane does not say.
        Unknown = "unknown",
        /// It is.
        Yes = "yes",
    }
}
