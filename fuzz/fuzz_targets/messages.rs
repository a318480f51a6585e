//! Any messages to any methods of `credbroker.v1`, one after the other: each is an answer of its kind or a status with one
//! known reason, small enough, and no secret is in it that is not the caller's to have.

#![no_main]

use std::time::Duration;

use credbroker::{
    broker::Renewals,
    proto::{self, credential_broker_server::CredentialBrokerServer},
    service::{CredentialService, status::MAX_MESSAGE_SIZE},
};
use credbroker_fuzz::{
    calls::{Incoming, call, checked, framed},
    holds,
    house::{FORBIDDEN, House, NEVER, SECRET, caller},
    in_paused_time,
    input::Input,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;

const METHODS: [&str; 16] = [
    "GetServerInfo",
    "GetToken",
    "SaveToken",
    "RemoveToken",
    "RefreshToken",
    "WatchToken",
    "ListProviders",
    "ListBuckets",
    "GetBucketStats",
    "GetApiKey",
    "ListApiKeys",
    "InitiateLogin",
    "ExchangeCode",
    "PollLogin",
    "CancelLogin",
    "Nothing",
];
/// What is done to a message beside sending it.
const WITH_WHAT_CAME_BEFORE: u8 = 1;
const TWICE: u8 = 2;
const COMPRESSED: u8 = 4;
const CUT: u8 = 8;
const LATER: u8 = 16;

/// What answers brought that goes into later requests, as a client would put it there.
#[derive(Default)]
struct Came {
    session: String,
    revision: String,
    page: String,
}

impl Came {
    fn put_into(&self, method: &str, message: &[u8]) -> Vec<u8> {
        fn with<M: Message + Default>(message: &[u8], put: impl FnOnce(&mut M)) -> Vec<u8> {
            let Ok(mut decoded) = M::decode(message) else {
                return message.to_vec();
            };
            put(&mut decoded);
            decoded.encode_to_vec()
        }
        match method {
            "ExchangeCode" => with(message, |m: &mut proto::ExchangeCodeRequest| {
                m.session_id.clone_from(&self.session)
            }),
            "PollLogin" => with(message, |m: &mut proto::PollLoginRequest| {
                m.session_id.clone_from(&self.session)
            }),
            "CancelLogin" => with(message, |m: &mut proto::CancelLoginRequest| {
                m.session_id.clone_from(&self.session)
            }),
            "RefreshToken" => with(message, |m: &mut proto::RefreshTokenRequest| {
                m.revision.clone_from(&self.revision)
            }),
            "ListProviders" => with(message, |m: &mut proto::ListProvidersRequest| {
                m.page_token.clone_from(&self.page)
            }),
            "ListBuckets" => with(message, |m: &mut proto::ListBucketsRequest| {
                m.page_token.clone_from(&self.page)
            }),
            "ListApiKeys" => with(message, |m: &mut proto::ListApiKeysRequest| {
                m.page_token.clone_from(&self.page)
            }),
            _ => message.to_vec(),
        }
    }

    /// Every answer has to be of its kind.
    fn take(&mut self, method: &str, answer: &[u8]) {
        let mut token = |token: Option<proto::AccessToken>| {
            if let Some(token) = token {
                assert!(!token.access_token.is_empty() && !token.revision.is_empty());
                self.revision = token.revision;
            }
        };
        match method {
            "GetServerInfo" => assert_eq!(proto::GetServerInfoResponse::decode(answer).unwrap().version, 1),
            "GetToken" => token(proto::GetTokenResponse::decode(answer).unwrap().token),
            "RefreshToken" => token(proto::RefreshTokenResponse::decode(answer).unwrap().token),
            "WatchToken" => token(proto::WatchTokenResponse::decode(answer).unwrap().token),
            "ExchangeCode" => token(proto::ExchangeCodeResponse::decode(answer).unwrap().token),
            "PollLogin" => {
                let polled = proto::PollLoginResponse::decode(answer).unwrap();
                let known = polled
                    .error
                    .is_none_or(|error| credbroker::reason::Reason::from_wire(&error.reason).is_some());
                assert!(known && polled.status != 0);
                token(polled.token);
            }
            "ListProviders" => self.page = proto::ListProvidersResponse::decode(answer).unwrap().next_page_token,
            "ListBuckets" => self.page = proto::ListBucketsResponse::decode(answer).unwrap().next_page_token,
            "ListApiKeys" => self.page = proto::ListApiKeysResponse::decode(answer).unwrap().next_page_token,
            "InitiateLogin" => {
                let begun = proto::InitiateLoginResponse::decode(answer).unwrap();
                assert!(!begun.session_id.is_empty() && begun.flow != 0);
                self.session = begun.session_id;
            }
            "GetBucketStats" => assert!(proto::GetBucketStatsResponse::decode(answer).unwrap().stats.is_some()),
            "GetApiKey" => assert!(!proto::GetApiKeyResponse::decode(answer).unwrap().api_key.is_empty()),
            "SaveToken" => drop(proto::SaveTokenResponse::decode(answer).unwrap()),
            "RemoveToken" => assert_ne!(proto::RemoveTokenResponse::decode(answer).unwrap().revocation, 0),
            "CancelLogin" => drop(proto::CancelLoginResponse::decode(answer).unwrap()),
            other => panic!("{other} answers"),
        }
    }
}

async fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(who) = input.octet() else { return };
    let house = House::new(Renewals::OnUse).await;
    let mut service = CredentialBrokerServer::new(CredentialService::new(house.broker.clone()))
        .max_decoding_message_size(MAX_MESSAGE_SIZE);
    let mut came = Came::default();
    // What the input says itself is no secret.
    let secret = |octets: &[u8], mark: &str| holds(octets, mark) && !holds(data, mark);
    for _ in 0..16 {
        let (Some(method), Some(how), Some(message)) = (input.octet(), input.octet(), input.part()) else {
            break;
        };
        let method = METHODS[usize::from(method) % METHODS.len()];
        let path = format!("/credbroker.v1.CredentialBroker/{method}");
        let message = if how & WITH_WHAT_CAME_BEFORE == 0 {
            message.to_vec()
        } else {
            came.put_into(method, message)
        };
        let mut body = framed(&message);
        if how & COMPRESSED != 0 {
            body[0] = 1;
        }
        if how & TWICE != 0 {
            body.extend(body.clone());
        }
        if how & CUT != 0 {
            body.pop();
        }
        let caller = caller(who);
        let at_host = caller.at_host;
        let mut answer = call(&mut service, &path, caller, Incoming::of(body)).await;
        // A watch says what there is, and then nothing new for as long as nothing happens.
        for _ in 0..4 {
            let Some(message) = answer.message(Duration::from_secs(1)).await else {
                break;
            };
            assert!(message.len() <= MAX_MESSAGE_SIZE);
            assert!(!secret(&message, NEVER), "{method}");
            assert!(at_host || !secret(&message, FORBIDDEN), "{method}");
            came.take(method, &message);
        }
        match answer.status() {
            Some(status) => {
                checked(status, &path);
                let told = [status.message().as_bytes(), status.details()].concat();
                assert!(!secret(&told, SECRET), "{method}: {}", String::from_utf8_lossy(&told));
            }
            None => assert_eq!(method, "WatchToken"),
        }
        if how & LATER != 0 {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    }
}

// Who calls, and for each call its method, what is done to its message, and that.
fuzz_target!(|data: &[u8]| in_paused_time(run(data)));
