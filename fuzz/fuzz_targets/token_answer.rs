//! Any status, `Retry-After` and body of a token endpoint, as the answer to a refresh, to a login and as an import: a
//! success with an access token is a new token set and nothing else is, no refresh token that can be sent is lost, what is
//! told is short and not the provider's, and no token lives longer than ten years.

#![no_main]

use std::{collections::BTreeMap, time::Duration};

use credbroker::{
    credential::{
        AnswerRules, Expiry, MAX_LIFETIME, Revision, SavedToken, TokenAnswer, TokenSet, is_token_text, parse_answer,
    },
    oauth::{Outcome, OutcomeRules, Seen, presets::Preset},
};
use credbroker_fuzz::{after, input::Input};
use http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER};
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

const STORED: &str = "the stored refresh token";
const PRESETS: [&str; 8] = [
    "",
    "anthropic",
    "codex",
    "gemini",
    "github",
    "google",
    "microsoft",
    "qwen",
];

fn rules(preset: &str) -> OutcomeRules {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let Some(preset) = Preset::named(preset) else {
        return OutcomeRules {
            answer: AnswerRules {
                extra_fields: owned(&["account", "copy"]),
                ..AnswerRules::default()
            },
            ..OutcomeRules::default()
        };
    };
    OutcomeRules {
        answer: AnswerRules {
            extra_fields: owned(preset.extra_fields),
            claims: preset.claims,
            subject: preset.subject,
            ..AnswerRules::default()
        },
        refused_errors: owned(preset.refused_errors),
        refused_statuses: preset.refused_statuses.to_vec(),
    }
}

fn judge_seen(seen: &Seen, status: StatusCode) {
    let rest = seen.0.strip_prefix(&format!("HTTP {}", status.as_u16())).unwrap();
    let code = |code: &str| (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(
        ["", " without an access token", " with an error of the provider's own"].contains(&rest)
            || rest.strip_prefix(", error ").is_some_and(code)
    );
}

fn judge_set(set: &TokenSet) {
    let now = after(Duration::ZERO);
    if let Some(expiry) = &set.expiry {
        assert!(expiry.lifetime <= MAX_LIFETIME && expiry.remaining(&now) <= MAX_LIFETIME);
    }
    let refresh = set.refresh_token.as_ref().map(|token| token.expose_secret());
    assert!(is_token_text(set.access_token.expose_secret()));
    let shown = set.to_access_token(&Revision::random(), &now);
    assert_ne!(Some(shown.access_token.expose_secret()), refresh);
    assert!(shown.extra.values().all(|value| Some(value.as_str()) != refresh));
    assert!(
        set.subject
            .as_ref()
            .is_none_or(|subject| (1..=4096).contains(&subject.len()))
    );
    assert!(set.scope.len() <= 4096 && set.token_type.len() <= 4096);
    let debug = format!("{set:?}{shown:?}");
    for secret in [refresh, Some(set.access_token.expose_secret())].into_iter().flatten() {
        // A short one may be the name of a field.
        assert!(secret.len() < 20 || !debug.contains(secret));
    }
}

fn stored() -> TokenSet {
    TokenSet {
        access_token: "the stored access token".into(),
        refresh_token: Some(STORED.into()),
        expiry: Some(Expiry::from_lifetime(Duration::from_secs(60), &after(Duration::ZERO))),
        token_type: "Bearer".to_owned(),
        scope: String::new(),
        subject: Some("alice".to_owned()),
        extra: BTreeMap::new(),
        saved_by: "import".to_owned(),
    }
}

fn copy(answer: &TokenAnswer) -> TokenAnswer {
    TokenAnswer {
        access_token: answer.access_token.clone(),
        refresh_token: answer.refresh_token.clone(),
        lifetime: answer.lifetime,
        token_type: answer.token_type.clone(),
        scope: answer.scope.clone(),
        subject: answer.subject.clone(),
        extra: answer.extra.clone(),
    }
}

fn judge_answer(answer: &TokenAnswer, fields: Option<&serde_json::Map<String, Value>>) {
    let exposed = |token: &Option<SecretString>| token.as_ref().map(|token| token.expose_secret().to_owned());
    let (access, refresh) = (exposed(&answer.access_token), exposed(&answer.refresh_token));
    assert!(access.is_none() || access != refresh);
    assert!(access.iter().chain(&refresh).all(|token| is_token_text(token)));
    assert!(answer.lifetime.is_none_or(|lifetime| lifetime <= MAX_LIFETIME));
    let extra: usize = answer.extra.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(extra <= 16 * 1024);
    assert!(answer.extra.values().all(|value| Some(value) != refresh.as_ref()));
    // Where the whole of it is JSON, another reader has to find the same tokens.
    if let Some(fields) = fields {
        let text = |name: &str| {
            fields
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| is_token_text(text))
        };
        assert_eq!(refresh.as_deref(), text("refresh_token"));
        assert!(access.is_none() || access.as_deref() == text("access_token"));
        assert!(access.is_some() || text("access_token").is_none() || text("access_token") == refresh.as_deref());
    }

    let now = after(Duration::ZERO);
    // As the coordinator does, which knows what is stored: an answer that echoes it brings no access token.
    let mut refreshed = copy(answer);
    refreshed.access_token = refreshed.access_token.filter(|token| token.expose_secret() != STORED);
    let set = stored().merge_refreshed(refreshed, Duration::from_secs(3600), &now);
    judge_set(&set);
    assert_eq!(exposed(&set.refresh_token), refresh.clone().or(Some(STORED.to_owned())));
    match TokenSet::of_login(
        Box::new(copy(answer)),
        Duration::from_secs(3600),
        "login".to_owned(),
        &now,
    ) {
        Ok(set) => {
            judge_set(&set);
            assert_eq!(exposed(&set.refresh_token), refresh);
        }
        Err(_) => assert!(access.is_none()),
    }
    let saved = SavedToken {
        access_token: "saved by a sandbox".into(),
        expires_in: answer.lifetime,
        expire_time: None,
        token_type: answer.token_type.clone().unwrap_or_default(),
        scope: answer.scope.clone().unwrap_or_default(),
    };
    judge_set(&set.merge_saved(saved, "sandbox s".to_owned(), &now));
}

// The status in two octets, what the provider is, the length of `Retry-After`, that, and the body.
fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (Some(hundreds), Some(rest), Some(preset)) = (input.octet(), input.octet(), input.octet()) else {
        return;
    };
    let status = StatusCode::from_u16(u16::from(hundreds % 9 + 1) * 100 + u16::from(rest % 100)).unwrap();
    let rules = rules(PRESETS[usize::from(preset) % PRESETS.len()]);
    let Some(retry_after) = input.part() else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(retry_after) {
        headers.insert(RETRY_AFTER, value);
    }
    let body = input.0;
    let now = after(Duration::ZERO);
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let fields = json.as_ref().and_then(Value::as_object);
    let has_token = fields.is_some_and(|fields| {
        let token = fields.get("access_token").and_then(Value::as_str);
        token.is_some_and(|token| !token.is_empty())
    });

    match rules.judge(status, &headers, body, &now) {
        Outcome::Answered(answer) => {
            assert!(status.is_success());
            assert!(json.is_none() || has_token);
            judge_answer(&answer, fields);
        }
        other => {
            assert!(!(status.is_success() && has_token));
            match other {
                Outcome::Refused(seen) | Outcome::Rejected(seen) | Outcome::Ambiguous(seen) => {
                    judge_seen(&seen, status)
                }
                Outcome::NotProcessed { seen, retry_after } => {
                    judge_seen(&seen, status);
                    assert!(retry_after.is_none_or(|wait| wait <= Duration::from_secs(24 * 3600)));
                }
                Outcome::Answered(_) => unreachable!(),
            }
        }
    }
    match parse_answer(body, &rules.answer, "import", &now) {
        Ok(set) => {
            assert!(has_token);
            judge_set(&set);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 200 && !error.contains(char::is_control));
        }
    }
});
