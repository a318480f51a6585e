//! Any conversation of an Envoy: requests of any form, with any version, nonce and refusal, while secrets change. Each
//! answer counts on, says each secret under its own name, has the same version for the same secrets only, and is empty
//! for what the sandbox may not have.

#![no_main]

use std::{collections::BTreeMap, time::Duration};

use credbroker::{
    broker::Renewals,
    proto::envoy::{
        DiscoveryRequest, DiscoveryResponse, RpcStatus, Secret, Specifier, secret,
        secret_discovery_service_server::SecretDiscoveryServiceServer,
    },
    service::{
        secret_discovery::SecretService,
        status::{MAX_DISCOVERY_SIZE, MAX_MESSAGE_SIZE},
    },
};
use credbroker_fuzz::{
    calls::{Answer, Incoming, call, checked, framed},
    holds,
    house::{FORBIDDEN, House, NEVER, SECRET, caller},
    in_paused_time,
    input::Input,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

const SERVICE: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const NAMES: [&str; 8] = [
    "token/p/default",
    "token/p/expired",
    "token/p/dead",
    "token/p/plain",
    "token/q/default",
    "api-key/k",
    "api-key/f",
    "token/p",
];

/// What the stream has told so far.
#[derive(Default)]
struct Told {
    answers: u64,
    last: DiscoveryResponse,
    versions: BTreeMap<String, Vec<(String, String)>>,
}

impl Told {
    fn take(&mut self, message: &[u8], at_host: bool, data: &[u8], nonce: bool) {
        assert!(message.len() <= MAX_MESSAGE_SIZE * 2);
        let marks = [NEVER, if at_host { NEVER } else { FORBIDDEN }];
        assert!(marks.iter().all(|mark| !holds(message, mark) || holds(data, mark)));
        let answer = DiscoveryResponse::decode(message).unwrap();
        self.answers += 1;
        assert_eq!(
            answer.nonce,
            if nonce { self.answers.to_string() } else { String::new() }
        );
        assert_eq!(answer.type_url, TYPE_URL);
        let mut secrets = Vec::new();
        for resource in &answer.resources {
            assert_eq!(resource.type_url, TYPE_URL);
            let secret = Secret::decode(resource.value.as_slice()).unwrap();
            let Some(secret::Type::GenericSecret(generic)) = secret.r#type else {
                panic!("no generic secret")
            };
            let Some(Specifier::InlineString(text)) = generic.secret.unwrap().specifier else {
                panic!("no text")
            };
            // Each secret says itself whose it is.
            let of = text.split(' ').nth(1);
            let whose = match secret.name.split_once('/').unwrap_or_default() {
                ("token", "p/") => Some("p/default"),
                ("token", entry) => Some(entry),
                ("api-key", key) => Some(key),
                _ => None,
            };
            assert!(text.is_empty() || (of.is_some() && of == whose), "{}", secret.name);
            secrets.push((secret.name, text));
        }
        assert!(secrets.is_sorted_by(|one, next| one.0 < next.0));
        let same = self.versions.iter().find(|(_, told)| **told == secrets);
        assert!(same.is_none_or(|(version, _)| *version == answer.version_info) || !nonce);
        let before = self.versions.insert(answer.version_info.clone(), secrets.clone());
        assert!(before.is_none_or(|before| before == secrets));
        self.last = answer;
    }
}

async fn hear(answer: &mut Answer, told: &mut Told, at_host: bool, data: &[u8]) {
    // An Envoy that takes every answer at once hears no more of them than there are changes.
    for _ in 0..4 {
        let Some(message) = answer.message(Duration::from_millis(600)).await else {
            break;
        };
        told.take(&message, at_host, data, true);
    }
}

fn request(bits: u8, names: u8, told: &Told) -> DiscoveryRequest {
    let named = NAMES.iter().enumerate().filter(|(at, _)| names & (1 << at) != 0);
    DiscoveryRequest {
        version_info: if bits & 1 == 0 {
            told.last.version_info.clone()
        } else {
            "another".to_owned()
        },
        resource_names: named.map(|(_, name)| (*name).to_owned()).collect(),
        type_url: if bits & 2 == 0 {
            TYPE_URL.to_owned()
        } else {
            String::new()
        },
        response_nonce: match (bits >> 2) & 3 {
            0 => told.last.nonce.clone(),
            1 => String::new(),
            2 => told.answers.saturating_sub(1).to_string(),
            _ => "another".to_owned(),
        },
        error_detail: (bits & 16 != 0).then(|| RpcStatus {
            code: 13,
            message: "it has canary-at p/default in it".to_owned(),
            ..RpcStatus::default()
        }),
        ..DiscoveryRequest::default()
    }
}

async fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(who), Some(fetch)) = (input.octet(), input.octet()) else {
        return;
    };
    let house = House::new(Renewals::Ahead(std::sync::Arc::new(|| 0.5))).await;
    let mut service = SecretDiscoveryServiceServer::new(SecretService::new(house.broker.clone()))
        .max_decoding_message_size(MAX_DISCOVERY_SIZE);
    let at_host = caller(who).at_host;
    let mut told = Told::default();
    if fetch % 4 == 0 {
        let path = format!("{SERVICE}FetchSecrets");
        let body = Incoming::of(framed(input.0));
        let mut answer = call(&mut service, &path, caller(who), body).await;
        while let Some(message) = answer.message(Duration::from_secs(60)).await {
            told.take(&message, at_host, data, false);
        }
        judge_end(&answer, &path, data);
        return;
    }
    let path = format!("{SERVICE}StreamSecrets");
    let (sender, body) = Incoming::new();
    let mut sender = Some(sender);
    let mut answer = None;
    let mut body = Some(body);
    for step in 0..24 {
        let Some(what) = input.octet() else { break };
        let send = |message: Vec<u8>| {
            if let Some(sender) = &sender {
                // A stream that has ended does not listen.
                drop(sender.send(message.into()));
            }
        };
        match what % 8 {
            0..=2 => {
                let (Some(bits), Some(names)) = (input.octet(), input.octet()) else {
                    break;
                };
                send(framed(&request(bits, names, &told).encode_to_vec()));
            }
            3 => send(framed(input.part().unwrap_or_default())),
            4 => send(input.part().unwrap_or_default().to_vec()),
            5 => {
                let version = format!("step{step}");
                house.put("p/default", 3600, true, &version).await;
                house.put_key("k", &version).await;
            }
            // All at once, as after a long sleep: tokens have expired, and every timer is due.
            6 => tokio::time::advance(Duration::from_secs(4000)).await,
            _ => sender = None,
        }
        // The call is answered once its first request is there.
        if answer.is_none() {
            let first = body.take().unwrap();
            let begun = tokio::time::timeout(Duration::from_secs(1), call(&mut service, &path, caller(who), first));
            match begun.await {
                Ok(begun) => answer = Some(begun),
                Err(_nothing_asked) => return,
            }
        }
        if let Some(answer) = &mut answer {
            hear(answer, &mut told, at_host, data).await;
            if answer.status().is_some() {
                judge_end(answer, &path, data);
                return;
            }
        }
    }
}

fn judge_end(answer: &Answer, path: &str, data: &[u8]) {
    let status = answer.status().unwrap();
    checked(status, path);
    let said = [status.message().as_bytes(), status.details()].concat();
    assert!(!holds(&said, SECRET) || holds(data, SECRET));
}

// Who calls, whether it is one fetch of what follows, and else steps.
fuzz_target!(|data: &[u8]| in_paused_time(run(data)));
