//! What is configured about the logins of one provider.

use crate::oauth::{Endpoint, Flow, RequestFormat};

/// The host in a loopback redirect URL (RFC 8252 section 7.3), as it is registered with the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectHost {
    /// `127.0.0.1`.
    V4,
    /// `[::1]`.
    V6,
    /// `localhost`, which providers may insist on (RFC 8252 section 8.3 advises against it).
    Localhost,
}

impl RedirectHost {
    /// The host as a URL has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.1",
            Self::V6 => "[::1]",
            Self::Localhost => "localhost",
        }
    }
}

/// How a provider does device logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceDialect {
    /// As RFC 8628 has it.
    #[default]
    Rfc8628,
    /// The same with PKCE: a challenge in the first request, the verifier in every poll.
    WithPkce,
    /// OpenAI's own: JSON, `device_auth_id`, 403 and 404 for pending, and an authorization code with its verifier at the
    /// end. The endpoint for polls is the sibling `token` of the first one, and what a person sees is on the same host.
    Codex,
}

/// Everything about one provider that a login needs, beside what a refresh needs.
#[derive(Clone)]
pub struct LoginSettings {
    /// The one that is to be the usual one.
    pub flow: Option<Flow>,
    /// Those that the provider is known to have, the usual one first. `None`: those that its endpoints allow.
    pub flows: Option<Vec<Flow>>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The host of the loopback redirect URL. `None`: `127.0.0.1`, or `[::1]` where there is no other loopback.
    pub redirect_host: Option<RedirectHost>,
    /// Its path; empty for a URL that ends with the port.
    pub redirect_path: String,
    /// The ports that are registered, in the order in which they are tried. None: any free one.
    pub redirect_ports: Vec<u16>,
    /// Where the browser is sent if the user is to paste the code.
    pub redirect_url: Option<Endpoint>,
    /// Further parameters of the authorization URL. Those that the protocol has are not taken from here.
    pub authorization_params: Vec<(String, String)>,
    /// How the exchange of a code is encoded.
    pub exchange_format: RequestFormat,
    /// Whether `state` is among what is sent in the exchange of a code.
    pub state_in_exchange: bool,
    /// Whether a pasted code without `state` is refused.
    pub state_required: bool,
    /// How device logins are done.
    pub device: DeviceDialect,
    /// Error codes, beside `access_denied`, that mean the user said no.
    pub denied_errors: Vec<String>,
    /// Error codes, beside `invalid_grant`, that mean the code is not good.
    pub refused_errors: Vec<String>,
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self {
            flow: None,
            flows: None,
            scopes: Vec::new(),
            redirect_host: None,
            redirect_path: "/callback".to_owned(),
            redirect_ports: Vec::new(),
            redirect_url: None,
            authorization_params: Vec::new(),
            exchange_format: RequestFormat::Form,
            state_in_exchange: false,
            state_required: false,
            device: DeviceDialect::Rfc8628,
            denied_errors: Vec::new(),
            refused_errors: Vec::new(),
        }
    }
}

/// Which endpoints of a provider are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// RFC 6749 section 3.1.
    pub authorization: bool,
    /// RFC 8628 section 3.1.
    pub device_authorization: bool,
}

impl LoginSettings {
    /// What works with these endpoints, the usual one first.
    #[must_use]
    pub fn possible(&self, known: Known) -> Vec<Flow> {
        let all = [Flow::DeviceCode, Flow::BrowserRedirect, Flow::PkceRedirect];
        let flows = self.flows.as_deref().unwrap_or(&all);
        let mut flows: Vec<_> = flows
            .iter()
            .copied()
            .filter(|flow| self.lack(*flow, known).is_none())
            .collect();
        // A stable sort: the others stay in their order.
        flows.sort_by_key(|flow| Some(*flow) != self.flow);
        flows
    }

    /// What keeps a flow from working, and what mends it; no secret in it.
    #[must_use]
    pub fn lack(&self, flow: Flow, known: Known) -> Option<String> {
        let lacks = match flow {
            _ if self.flows.as_ref().is_some_and(|flows| !flows.contains(&flow)) => {
                let key = match flow {
                    Flow::DeviceCode => "device_authorization_endpoint",
                    Flow::PkceRedirect => "redirect_url",
                    Flow::BrowserRedirect => "redirect_path",
                };
                return Some(format!(
                    "this provider is not known to have {flow}: configure another `flow`, or {key} if it has"
                ));
            }
            Flow::DeviceCode if !known.device_authorization => {
                "device_authorization_endpoint: set it, or an issuer whose document names it"
            }
            Flow::PkceRedirect | Flow::BrowserRedirect if !known.authorization => {
                "authorization_endpoint: set it, or an issuer whose document names it"
            }
            Flow::PkceRedirect if self.redirect_url.is_none() => {
                "redirect_url: set it to the page that is registered for the client and shows the code"
            }
            Flow::DeviceCode | Flow::PkceRedirect | Flow::BrowserRedirect => return None,
        };
        Some(format!("{flow} needs {lacks}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn possible(settings: &LoginSettings, authorization: bool, device_authorization: bool) -> Vec<Flow> {
        settings.possible(Known {
            authorization,
            device_authorization,
        })
    }

    #[test]
    fn only_what_has_everything_it_needs_is_possible_and_the_configured_one_is_first() {
        use Flow::{BrowserRedirect, DeviceCode, PkceRedirect};
        let mut settings = LoginSettings::default();
        assert_eq!(possible(&settings, false, false), []);
        assert_eq!(possible(&settings, true, false), [BrowserRedirect]);
        assert_eq!(possible(&settings, false, true), [DeviceCode]);
        settings.redirect_url = Endpoint::parse("https://a.example/code");
        assert_eq!(
            possible(&settings, true, true),
            [DeviceCode, BrowserRedirect, PkceRedirect]
        );
        settings.flow = Some(BrowserRedirect);
        assert_eq!(
            possible(&settings, true, true),
            [BrowserRedirect, DeviceCode, PkceRedirect]
        );
        settings.flows = Some(vec![PkceRedirect, DeviceCode]);
        assert_eq!(possible(&settings, true, true), [PkceRedirect, DeviceCode]);
        assert_eq!(possible(&settings, false, true), [DeviceCode]);
    }

    #[test]
    fn what_is_lacking_says_what_to_configure() {
        let settings = LoginSettings::default();
        let lack = |flow, authorization, device_authorization| {
            let known = Known {
                authorization,
                device_authorization,
            };
            settings.lack(flow, known).unwrap_or_default()
        };
        for (flow, authorization, device, want) in [
            (
                Flow::DeviceCode,
                true,
                false,
                "device_code needs device_authorization_endpoint",
            ),
            (
                Flow::PkceRedirect,
                false,
                true,
                "pkce_redirect needs authorization_endpoint",
            ),
            (Flow::PkceRedirect, true, true, "pkce_redirect needs redirect_url"),
            (
                Flow::BrowserRedirect,
                false,
                true,
                "browser_redirect needs authorization_endpoint",
            ),
        ] {
            assert!(lack(flow, authorization, device).starts_with(want), "{flow}");
        }
        assert_eq!(lack(Flow::BrowserRedirect, true, true), "");
        let only = LoginSettings {
            flows: Some(vec![Flow::PkceRedirect]),
            ..LoginSettings::default()
        };
        let known = Known {
            authorization: true,
            device_authorization: true,
        };
        assert!(
            only.lack(Flow::DeviceCode, known)
                .is_some_and(|lack| lack.contains("`flow`"))
        );
    }
}
