//! From the configuration to providers that can be asked: presets filled in, client secrets and proxies found.

use std::{collections::BTreeMap, sync::Arc};

use super::client_secret::ConfiguredSecret;
use crate::{
    clock::SystemClock,
    config::{self, Config, Environment, ProviderConfig},
    credential::{AnswerRules, Name},
    oauth::{
        ClientAuth, Endpoint, Endpoints, Flow, Http, HttpLimits, HttpProvider, LoginProvider, LoginSettings, Look,
        OutcomeRules, Provider, ProviderSettings, Proxies, RequestFormat, SecretSource,
        login::{Known, RedirectHost},
        presets::Preset,
    },
};

/// Every configured provider, ready to be asked for refreshes and for logins. Both are one object: what it has learnt of its
/// issuer serves both.
pub struct Providers {
    /// For refreshes and revocations.
    pub refreshes: BTreeMap<Name, Arc<dyn Provider>>,
    /// For logins.
    pub logins: BTreeMap<Name, Arc<dyn LoginProvider>>,
    http: Arc<Http>,
}

impl Providers {
    /// Reads the certificate authorities that vouch for them, if there are any providers: whoever can write to those later
    /// changes nothing.
    pub fn read_authorities(&self) {
        if !self.refreshes.is_empty() {
            self.http.read_authorities();
        }
    }
}

/// Every configured provider, ready to be asked.
#[must_use]
pub fn providers(config: &Config, environment: &Environment) -> Providers {
    let http = Arc::new(Http::new(HttpLimits::default(), &proxies(environment)));
    let mut all = Providers {
        refreshes: BTreeMap::new(),
        logins: BTreeMap::new(),
        http: Arc::clone(&http),
    };
    for (name, provider) in built(config, environment, http) {
        let login: Arc<dyn LoginProvider> = Arc::<HttpProvider>::clone(&provider);
        all.logins.insert(name.clone(), login);
        all.refreshes.insert(name, provider);
    }
    all
}

/// How token answers of this provider are read, whether it is configured or not.
#[must_use]
pub fn answer_rules(config: &Config, provider: &Name) -> AnswerRules {
    let configured = config.providers.get(provider);
    configured.map_or_else(AnswerRules::default, |provider| {
        answer_rules_of(provider, preset(provider))
    })
}

/// Looks at what every configured provider needs, without sending a token to any.
pub async fn diagnose_providers(config: &Config, environment: &Environment) -> Vec<(Name, Vec<Look>)> {
    let limits = HttpLimits {
        // People wait for this one.
        answer: HttpLimits::default().connect,
        ..HttpLimits::default()
    };
    let http = Arc::new(Http::new(limits, &proxies(environment)));
    let looking: Vec<_> = built(config, environment, http)
        .map(|(name, provider)| (name, tokio::spawn(async move { provider.look().await })))
        .collect();
    let mut looked = Vec::new();
    for (name, looks) in looking {
        // It neither panics nor is aborted.
        looked.push((name, looks.await.unwrap_or_default()));
    }
    looked
}

/// A configured provider, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSummary {
    /// Where its endpoints come from.
    pub source: String,
    /// Where tokens are refreshed.
    pub token_endpoint: String,
    /// How it logs in, the usual way first. With an issuer, its document says more.
    pub flows: Vec<&'static str>,
    /// Where logins begin: for browsers, and for devices.
    pub login_endpoints: Vec<String>,
    /// How the client shows who it is.
    pub client_auth: &'static str,
    /// Whether it revokes tokens.
    pub revocation: &'static str,
}

/// What the configuration says about a provider; nobody is asked.
#[must_use]
pub fn summary(provider: &ProviderConfig) -> ProviderSummary {
    let preset = preset(provider);
    let endpoints = endpoints(provider, preset);
    let discovered = endpoints.issuer.is_some();
    let source = match (preset, &provider.issuer) {
        (Some(preset), None) => format!("preset {}", preset.name),
        (Some(preset), Some(issuer)) => format!("preset {}, issuer {issuer}", preset.name),
        (None, Some(issuer)) => format!("issuer {issuer}"),
        (None, None) => "endpoints".to_owned(),
    };
    let unknown = if discovered { "discovered" } else { "no" };
    let settings = login(provider, preset);
    let known = Known {
        authorization: endpoints.authorization.is_some(),
        device_authorization: endpoints.device_authorization.is_some(),
    };
    let mut flows = settings.possible(known);
    if discovered && let Some(flow) = settings.flow.filter(|flow| !flows.contains(flow)) {
        flows.insert(0, flow);
    }
    let mut flows: Vec<_> = flows.into_iter().map(Flow::as_str).collect();
    let mut login_endpoints: Vec<String> = [&endpoints.authorization, &endpoints.device_authorization]
        .into_iter()
        .flatten()
        .map(|endpoint| format!("{endpoint:?}"))
        .collect();
    if discovered && login_endpoints.len() < 2 {
        login_endpoints.push("discovered".to_owned());
        flows.push("discovered");
    }
    ProviderSummary {
        source,
        token_endpoint: endpoints
            .token
            .map_or_else(|| "discovered".to_owned(), |endpoint| format!("{endpoint:?}")),
        flows,
        login_endpoints,
        client_auth: match (&provider.client_secret, client_auth(provider, preset)) {
            (None, _) | (Some(_), Some(ClientAuth::None)) => "none",
            (Some(_), Some(ClientAuth::Basic)) => "basic",
            (Some(_), Some(ClientAuth::Post)) => "post",
            (Some(_), None) if discovered => "basic or post",
            (Some(_), None) => "basic",
        },
        revocation: if endpoints.revocation.is_some() { "yes" } else { unknown },
    }
}

fn built(
    config: &Config,
    environment: &Environment,
    http: Arc<Http>,
) -> impl Iterator<Item = (Name, Arc<HttpProvider>)> {
    config.providers.iter().map(move |(name, provider)| {
        let settings = settings(name, provider, environment);
        let built = HttpProvider::new(settings, Arc::clone(&http), Arc::new(SystemClock::new()));
        (name.clone(), Arc::new(built))
    })
}

/// The variables that other programs know; small letters first, as with curl.
fn proxies(environment: &Environment) -> Proxies {
    let first = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| environment.get(name)?.to_str());
        values.find(|value| !value.is_empty()).map(str::to_owned)
    };
    Proxies {
        https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        except: first(&["no_proxy", "NO_PROXY"]),
    }
}

fn settings(name: &Name, provider: &ProviderConfig, environment: &Environment) -> ProviderSettings {
    let preset = preset(provider);
    let secret = provider.client_secret.as_ref();
    ProviderSettings {
        name: name.clone(),
        endpoints: endpoints(provider, preset),
        client_id: provider.client_id.clone(),
        client_secret: secret
            .map(|secret| -> Arc<dyn SecretSource> { Arc::new(ConfiguredSecret::new(secret, environment)) }),
        client_auth: client_auth(provider, preset),
        format: provider.token_request_format.map(request_format).unwrap_or_default(),
        token_params: owned(provider.token_params.iter().flat_map(config::Params::iter)),
        rules: OutcomeRules {
            answer: answer_rules_of(provider, preset),
            refused_errors: or_preset(provider.refused_errors.as_deref(), preset.map(|p| p.refused_errors)),
            refused_statuses: provider
                .refused_statuses
                .clone()
                .unwrap_or_else(|| preset.map_or_else(Vec::new, |preset| preset.refused_statuses.to_vec())),
        },
        retry_ambiguous: provider.retry_ambiguous,
        login: login(provider, preset),
    }
}

fn login(provider: &ProviderConfig, preset: Option<&'static Preset>) -> LoginSettings {
    let plain = LoginSettings::default();
    let words = |words: &'static [&'static str]| words.iter().map(|&word| word.to_owned()).collect();
    let format = provider.token_request_format.map(request_format);
    LoginSettings {
        flow: provider.flow.map(flow),
        flows: preset.map(|preset| known_flows(provider, preset)),
        scopes: or_preset(provider.scopes.as_deref(), preset.map(|preset| preset.scopes)),
        redirect_host: match provider.redirect_host {
            Some(config::RedirectHost::V4) => Some(RedirectHost::V4),
            Some(config::RedirectHost::V6) => Some(RedirectHost::V6),
            Some(config::RedirectHost::Localhost) => Some(RedirectHost::Localhost),
            None => preset.and_then(|preset| preset.redirect_host),
        },
        redirect_path: provider
            .redirect_path
            .clone()
            .or_else(|| Some(preset?.redirect_path?.to_owned()))
            .unwrap_or(plain.redirect_path),
        redirect_ports: provider
            .redirect_ports
            .clone()
            .unwrap_or_else(|| preset.map_or_else(Vec::new, |preset| preset.redirect_ports.to_vec())),
        redirect_url: provider
            .redirect_url
            .clone()
            .or_else(|| Endpoint::parse(preset?.redirect_url?)),
        authorization_params: match &provider.authorization_params {
            Some(configured) => owned(configured.iter()),
            None => owned(
                preset
                    .iter()
                    .flat_map(|preset| preset.authorization_params.iter().copied()),
            ),
        },
        exchange_format: format.unwrap_or_else(|| preset.map_or_else(RequestFormat::default, |p| p.exchange_format)),
        state_in_exchange: preset.is_some_and(|preset| preset.state_in_exchange),
        state_required: preset.is_some_and(|preset| preset.state_required),
        device: preset.map_or(plain.device, |preset| preset.device),
        denied_errors: preset.map_or(plain.denied_errors, |preset| words(preset.denied_errors)),
        refused_errors: preset.map_or(plain.refused_errors, |preset| words(preset.refused_codes)),
    }
}

/// Those of the preset, and those that the operator configures something for that only they need.
fn known_flows(provider: &ProviderConfig, preset: &Preset) -> Vec<Flow> {
    let mut flows = preset.flows.to_vec();
    let loopback =
        provider.redirect_host.is_some() || provider.redirect_path.is_some() || provider.redirect_ports.is_some();
    for (configured, flow) in [
        (provider.device_authorization_endpoint.is_some(), Flow::DeviceCode),
        (loopback, Flow::BrowserRedirect),
        (provider.redirect_url.is_some(), Flow::PkceRedirect),
    ] {
        if configured && !flows.contains(&flow) {
            flows.push(flow);
        }
    }
    flows
}

fn flow(configured: config::Flow) -> Flow {
    match configured {
        config::Flow::DeviceCode => Flow::DeviceCode,
        config::Flow::PkceRedirect => Flow::PkceRedirect,
        config::Flow::BrowserRedirect => Flow::BrowserRedirect,
    }
}

fn request_format(configured: config::TokenRequestFormat) -> RequestFormat {
    match configured {
        config::TokenRequestFormat::Json => RequestFormat::Json,
        config::TokenRequestFormat::Form => RequestFormat::Form,
    }
}

fn owned<'a>(params: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    params
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn preset(provider: &ProviderConfig) -> Option<&'static Preset> {
    Preset::named(provider.preset?.as_str())
}

/// An issuer of the operator's own choice has endpoints of its own: the preset's belong to another.
fn endpoints(provider: &ProviderConfig, preset: Option<&'static Preset>) -> Endpoints {
    let preset = preset.filter(|_| provider.issuer.is_none());
    let parsed = |text: Option<&str>| text.and_then(Endpoint::parse);
    Endpoints {
        issuer: provider.issuer.clone(),
        token: provider
            .token_endpoint
            .clone()
            .or_else(|| parsed(preset.map(|preset| preset.token_endpoint))),
        revocation: provider
            .revocation_endpoint
            .clone()
            .or_else(|| parsed(preset.and_then(|preset| preset.revocation_endpoint))),
        authorization: provider
            .authorization_endpoint
            .clone()
            .or_else(|| parsed(preset.and_then(|preset| preset.authorization_endpoint))),
        device_authorization: provider
            .device_authorization_endpoint
            .clone()
            .or_else(|| parsed(preset.and_then(|preset| preset.device_authorization_endpoint))),
    }
}

fn client_auth(provider: &ProviderConfig, preset: Option<&'static Preset>) -> Option<ClientAuth> {
    match provider.client_auth {
        Some(config::ClientAuth::Basic) => Some(ClientAuth::Basic),
        Some(config::ClientAuth::Post) => Some(ClientAuth::Post),
        Some(config::ClientAuth::None) => Some(ClientAuth::None),
        None => preset.and_then(|preset| preset.client_auth),
    }
}

fn answer_rules_of(provider: &ProviderConfig, preset: Option<&'static Preset>) -> AnswerRules {
    AnswerRules {
        default_lifetime: provider.default_lifetime,
        extra_fields: or_preset(
            provider.extra_fields.as_deref(),
            preset.map(|preset| preset.extra_fields),
        ),
        claims: preset.map_or(&[], |preset| preset.claims),
        subject: preset.map_or(&[], |preset| preset.subject),
    }
}

fn or_preset(configured: Option<&[String]>, preset: Option<&[&str]>) -> Vec<String> {
    match configured {
        Some(configured) => configured.to_vec(),
        None => preset.unwrap_or_default().iter().map(|&text| text.to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        fs::write(&file, text).unwrap();
        Config::load(Some(&file), &Environment::default()).unwrap()
    }

    fn settings_of(text: &str) -> ProviderSettings {
        let config = config(&format!("[providers.p]\nclient_id = 'c'\n{text}"));
        let (name, provider) = config.providers.iter().next().unwrap();
        settings(name, provider, &Environment::default())
    }

    fn summary_of(text: &str) -> ProviderSummary {
        let config = config(&format!("[providers.p]\nclient_id = 'c'\n{text}"));
        summary(config.providers.values().next().unwrap())
    }

    #[test]
    fn every_preset_that_the_configuration_knows_is_there() {
        for name in config::Preset::NAMES {
            assert!(Preset::named(name).is_some(), "{name}");
            let shown = summary_of(&format!("preset = '{name}'"));
            assert_eq!(shown.source, format!("preset {name}"));
            assert!(shown.token_endpoint.starts_with("https://"), "{shown:?}");
            // Every flow of a preset has all that it needs.
            let flows: Vec<_> = Preset::named(name)
                .unwrap()
                .flows
                .iter()
                .map(|flow| flow.as_str())
                .collect();
            assert_eq!(shown.flows, flows);
        }
    }

    #[test]
    fn the_configuration_overrides_every_field_of_a_preset() {
        let plain = settings_of("preset = 'github'");
        assert_eq!(plain.client_auth, Some(ClientAuth::Post));
        assert_eq!(plain.rules.refused_errors, ["bad_refresh_token"]);
        let overridden = settings_of(
            "preset = 'github'\ntoken_endpoint = 'https://a.example/t'\nrevocation_endpoint = 'https://a.example/r'\n\
             client_secret_env = 'S'\nclient_auth = 'basic'\nrefused_errors = ['x']\nrefused_statuses = [404]\n\
             extra_fields = ['e']\ntoken_request_format = 'json'\nretry_ambiguous = false\ndefault_lifetime = 60\n\
             token_params = { a = 'b' }",
        );
        assert_eq!(overridden.endpoints.token.unwrap().as_str(), "https://a.example/t");
        assert_eq!(overridden.endpoints.revocation.unwrap().as_str(), "https://a.example/r");
        assert_eq!(overridden.client_auth, Some(ClientAuth::Basic));
        assert!(overridden.client_secret.is_some());
        assert_eq!(overridden.rules.refused_errors, ["x"]);
        assert_eq!(overridden.rules.refused_statuses, [404]);
        assert_eq!(overridden.rules.answer.extra_fields, ["e"]);
        assert_eq!(overridden.rules.answer.default_lifetime.as_secs(), 60);
        assert_eq!(overridden.format, RequestFormat::Json);
        assert!(!overridden.retry_ambiguous);
        assert_eq!(overridden.token_params, [("a".to_owned(), "b".to_owned())]);
        let login = settings_of(
            "preset = 'anthropic'\nauthorization_endpoint = 'https://a.example/a'\nredirect_ports = [1234]\n\
             device_authorization_endpoint = 'https://a.example/d'\nscopes = ['x']\nflow = 'browser_redirect'\n\
             redirect_host = '[::1]'\nredirect_path = '/p'\nredirect_url = 'https://a.example/c'\n\
             authorization_params = { a = 'b' }\ntoken_request_format = 'form'",
        );
        assert_eq!(login.endpoints.authorization.unwrap().as_str(), "https://a.example/a");
        assert_eq!(
            login.endpoints.device_authorization.unwrap().as_str(),
            "https://a.example/d"
        );
        let login = login.login;
        assert_eq!(login.flow, Some(Flow::BrowserRedirect));
        assert_eq!(
            login.flows.unwrap(),
            [Flow::PkceRedirect, Flow::DeviceCode, Flow::BrowserRedirect]
        );
        assert_eq!((login.scopes, login.redirect_ports), (vec!["x".to_owned()], vec![1234]));
        assert_eq!(
            (login.redirect_host, &*login.redirect_path),
            (Some(RedirectHost::V6), "/p")
        );
        assert_eq!(login.redirect_url.unwrap().as_str(), "https://a.example/c");
        assert_eq!(login.authorization_params, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(login.exchange_format, RequestFormat::Form);
        // An issuer means its own endpoints.
        let tenant = settings_of("preset = 'microsoft'\nissuer = 'https://login.example/t/v2.0'");
        assert!(tenant.endpoints.token.is_none());
        assert_eq!(tenant.client_auth, Some(ClientAuth::Post));
    }

    #[test]
    fn an_import_and_a_refresh_keep_the_same_fields() {
        let config = config("[providers.p]\nclient_id = 'c'\npreset = 'qwen'\n");
        assert_eq!(
            answer_rules(&config, &"p".parse().unwrap()).extra_fields,
            ["resource_url"]
        );
        assert!(answer_rules(&config, &"q".parse().unwrap()).extra_fields.is_empty());
    }

    #[test]
    fn what_people_see_of_a_provider() {
        let secret = "client_secret_env = 'S'\n";
        let google = summary_of(&format!("{secret}preset = 'google'"));
        assert_eq!(google.token_endpoint, "https://oauth2.googleapis.com/token");
        assert_eq!(google.flows, ["browser_redirect", "device_code"]);
        assert_eq!(
            google.login_endpoints,
            [
                "https://accounts.google.com/o/oauth2/v2/auth",
                "https://oauth2.googleapis.com/device/code"
            ]
        );
        assert_eq!((google.client_auth, google.revocation), ("post", "yes"));
        let issuer = summary_of(&format!("{secret}issuer = 'https://a.example'\nflow = 'device_code'"));
        assert_eq!(issuer.source, "issuer https://a.example");
        assert_eq!(issuer.token_endpoint, "discovered");
        assert_eq!(issuer.flows, ["device_code", "discovered"]);
        assert_eq!(issuer.login_endpoints, ["discovered"]);
        assert_eq!((issuer.client_auth, issuer.revocation), ("basic or post", "discovered"));
        let own =
            summary_of("token_endpoint = 'https://a.example/t?key=k'\nauthorization_endpoint = 'https://a.example/a'");
        assert_eq!(
            (&*own.source, &*own.token_endpoint),
            ("endpoints", "https://a.example/t")
        );
        assert_eq!((own.client_auth, own.revocation), ("none", "no"));
        assert_eq!(own.flows, ["browser_redirect"]);
    }

    #[test]
    fn proxies_are_those_that_other_programs_know() {
        let found = |variables: &[(&str, &str)]| {
            let Proxies { https, except } = proxies(&variables.iter().copied().collect());
            (https, except)
        };
        assert_eq!(found(&[("HTTP_PROXY", "http://p")]), (None, None));
        let both = found(&[
            ("HTTPS_PROXY", "http://b"),
            ("https_proxy", "http://a"),
            ("NO_PROXY", "x"),
        ]);
        assert_eq!(both, (Some("http://a".into()), Some("x".into())));
        assert_eq!(
            found(&[("https_proxy", ""), ("ALL_PROXY", "http://c")]).0,
            Some("http://c".into())
        );
    }
}
