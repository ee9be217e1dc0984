//! Stage 2: the runner's SCM integrations, and which of them answers for a URL.

pub mod diff;
pub mod host;
pub mod location;
pub mod near;
pub mod path;
pub mod pins;
pub mod registry;
pub mod snapshot;
pub mod source;
pub mod sync;
pub mod watch;

use std::fmt;
use std::sync::Arc;

/// An SCM integration of a runner, as `gitpod.v1.SCMIntegration` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScmIntegration {
    /// UUID of the integration.
    pub id: String,
    /// Which SCM of the runner's configuration schema it is.
    pub scm_id: ScmId,
    /// The SCM's host as registered: usually a name, perhaps with a port and a path (`dev.azure.com/acme`).
    pub host: String,
    /// The OAuth app; `None` where none is configured.
    pub oauth: Option<OAuthApp>,
    /// Whether users may bring a personal access token. A switch, not a token.
    pub pat: bool,
    /// UUID of the runner that the integration belongs to.
    pub runner_id: String,
    /// Azure DevOps Server's virtual directory (`/tfs`); empty elsewhere.
    pub virtual_directory: String,
}

/// The OAuth app of an integration: `SCMIntegration.oauth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthApp {
    /// RFC 6749 section 2.2; public.
    pub client_id: String,
    /// The app's secret, encrypted with the runner's public key.
    pub encrypted_client_secret: EncryptedClientSecret,
    /// Overrides the authentication provider where it is not the SCM host; empty when absent on the wire is `None` here.
    pub issuer_url: Option<String>,
}

/// An app secret as the control plane stores it: ciphertext for the runner's private key. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedClientSecret(Arc<[u8]>);

impl EncryptedClientSecret {
    /// Wraps the decoded bytes of `encryptedClientSecret`.
    #[must_use]
    pub fn new(ciphertext: Vec<u8>) -> Self {
        Self(ciphertext.into())
    }

    /// The ciphertext.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the control plane sent no ciphertext at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for EncryptedClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedClientSecret({} bytes)", self.0.len())
    }
}

/// Which SCM an integration is for. The vendor's list is open, so an unknown one is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ScmId {
    /// `azuredevops_entra`: Azure DevOps Services with Entra ID.
    AzureDevOpsEntra,
    /// `azuredevops_server`: Azure DevOps Server, personal access tokens only.
    AzureDevOpsServer,
    /// `bitbucket`: Bitbucket Cloud, or Bitbucket Data Center by its host.
    Bitbucket,
    /// `github`: github.com or GitHub Enterprise Server.
    GitHub,
    /// `gitlab`: gitlab.com or self-managed.
    GitLab,
    /// Any other id.
    Other(String),
}

impl ScmId {
    /// The id as the control plane spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::AzureDevOpsEntra => "azuredevops_entra",
            Self::AzureDevOpsServer => "azuredevops_server",
            Self::Bitbucket => "bitbucket",
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::Other(id) => id,
        }
    }
}

impl From<&str> for ScmId {
    fn from(id: &str) -> Self {
        match id {
            "azuredevops_entra" => Self::AzureDevOpsEntra,
            "azuredevops_server" => Self::AzureDevOpsServer,
            "bitbucket" => Self::Bitbucket,
            "github" => Self::GitHub,
            "gitlab" => Self::GitLab,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ScmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
