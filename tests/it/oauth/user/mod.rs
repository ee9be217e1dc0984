//! Signing users in, at hosts of every manner.

mod callback;
mod device;
mod families;
mod refusals;

use std::sync::Arc;

use scm_agent::clock::SystemClock;
use scm_agent::http;
use scm_agent::oauth::{
    CodeRequest, DeviceAuthorization, DevicePoll, Error, GrantedTokens, Plan, ProviderOverride, Revoked, TokenClient, UserEndpoints,
    UserPlan, plan,
};
use scm_agent::secret::RefreshToken;
use tempfile::TempDir;
use url::Url;

use super::secret;
use crate::support::http::TestAuthority;
use crate::support::manners::{APP, FakeHost, Manners, REDIRECT_URI as REDIRECT};

/// A host, and the agent's side of it.
struct Scene {
    client: TokenClient,
    endpoints: UserEndpoints,
    host: FakeHost,
    plan: UserPlan,
}

fn user(plan: Plan) -> UserPlan {
    let Plan::User(plan) = plan else { panic!("no user signs in: {plan:?}") };
    *plan
}

/// A client that knows the authority and reaches loopback.
fn client_of(authority: &TestAuthority) -> TokenClient {
    let folder = TempDir::new().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let config = http::Config { allow_insecure_loopback: true, ca_file: Some(ca_file), ..http::Config::default() };
    TokenClient::new(http::Client::new(&config).unwrap(), Arc::new(SystemClock))
}

impl Scene {
    /// The host of an integration that names it, by the facts of its family alone.
    async fn of_family(scm_id: &str, manners: Manners, path: &str) -> Self {
        let authority = TestAuthority::new();
        let host = FakeHost::start_tls(manners, &authority).await;
        let plan = user(plan(scm_id, &format!("127.0.0.1:{}{path}", host.port()), None, false, true, &[]));
        Self::with(client_of(&authority), host, plan).await
    }

    /// A host that is found by the metadata of the integration's issuer.
    async fn of_issuer(scm_id: &str, manners: Manners) -> Self {
        let (client, host) = (super::client(), FakeHost::start(manners).await);
        let provider = ProviderOverride {
            grant: Some(scm_agent::oauth::GrantKind::User),
            host: "git.example.com".into(),
            ..ProviderOverride::default()
        };
        let plan = user(plan(scm_id, "git.example.com", Some(&host.issuer_url()), false, true, &[provider]));
        Self::with(client, host, plan).await
    }

    /// A host whose endpoints are the operator's.
    async fn of_operator(scm_id: &str, manners: Manners) -> Self {
        let (client, host) = (super::client(), FakeHost::start(manners).await);
        let provider = ProviderOverride {
            authorize_url: Some(host.url(manners.authorize)),
            device_url: (!manners.device.is_empty()).then(|| host.url(manners.device)),
            host: "bitbucket.org".into(),
            token_url: Some(host.url(manners.token)),
            ..ProviderOverride::default()
        };
        let plan = user(plan(scm_id, "bitbucket.org", None, false, true, &[provider]));
        Self::with(client, host, plan).await
    }

    async fn with(client: TokenClient, host: FakeHost, plan: UserPlan) -> Self {
        let endpoints = client.user_endpoints(&plan).await.unwrap();
        Self { client, endpoints, host, plan }
    }

    async fn begin_device(&self) -> Result<DeviceAuthorization, Error> {
        self.client.begin_device(&self.endpoints, APP.0, secret(APP.1), &self.plan).await
    }

    async fn poll(&self, device: &DeviceAuthorization) -> Result<DevicePoll, Error> {
        self.client.poll_device(&self.endpoints, APP.0, secret(APP.1), &self.plan, &device.device_code).await
    }

    fn begin_code(&self) -> CodeRequest {
        self.client.begin_code(&self.endpoints, APP.0, &Url::parse(REDIRECT).unwrap()).unwrap()
    }

    async fn exchange(&self, request: &CodeRequest, query: &str) -> Result<GrantedTokens, Error> {
        self.client.exchange_code(&self.endpoints, APP.0, secret(APP.1), &self.plan, request, query).await
    }

    async fn refresh(&self, token: &RefreshToken) -> Result<GrantedTokens, Error> {
        self.client.refresh(&self.endpoints, APP.0, secret(APP.1), &self.plan, token).await
    }

    async fn revoke(&self, tokens: &GrantedTokens) -> Result<Revoked, Error> {
        let GrantedTokens { access_token, refresh_token, .. } = tokens;
        self.client.revoke_grant(&self.endpoints, APP.0, secret(APP.1), access_token, refresh_token.as_ref()).await
    }

    /// Signs the user in with a device code.
    async fn by_device(&self) -> GrantedTokens {
        let device = self.begin_device().await.unwrap();
        assert!(matches!(self.poll(&device).await, Ok(DevicePoll::Pending)));
        self.host.answer_device(&device.user_code, None);
        let DevicePoll::Granted(tokens) = self.poll(&device).await.unwrap() else { panic!("not granted") };
        tokens
    }

    /// Signs the user in with a browser.
    async fn by_browser(&self) -> GrantedTokens {
        let request = self.begin_code();
        let query = self.host.sign_in(&request.authorize_url);
        self.exchange(&request, &query).await.unwrap()
    }

    fn lives(&self, tokens: &GrantedTokens) -> (bool, bool) {
        let refresh = tokens.refresh_token.as_ref().is_some_and(|token| self.host.lives(token.expose_secret()));
        (self.host.lives(tokens.access_token.expose_secret()), refresh)
    }

    fn token_requests(&self) -> usize {
        let path = self.endpoints.token.path().to_owned();
        self.host.received().iter().filter(|request| request.path == path).count()
    }
}

/// Every host that lets users sign in.
async fn hosts() -> Vec<(&'static str, Scene)> {
    use crate::support::manners::{BITBUCKET, DATA_CENTER, ENTRA, GITEA, GITHUB, GITLAB, OIDC};
    vec![
        ("github", Scene::of_family("github", GITHUB, "").await),
        ("gitlab", Scene::of_family("gitlab", GITLAB, "/gitlab").await),
        ("bitbucket cloud", Scene::of_operator("bitbucket", BITBUCKET).await),
        ("bitbucket data center", Scene::of_family("bitbucket", DATA_CENTER, "/bitbucket").await),
        ("entra", Scene::of_issuer("azuredevops_entra", ENTRA).await),
        ("gitea", Scene::of_family("gitea", GITEA, "").await),
        ("oidc", Scene::of_issuer("other", OIDC).await),
    ]
}
