//! Any file and environment as a configuration: one that is valid, or an error on one line that names the place and shows
//! no value.
//!
//! A file that is TOML is read three times: as it is; with a marker in every place where people put secrets; and with the marker
//! in the place of one of its strings.

#![no_main]

use std::{fs::File, os::fd::AsRawFd as _, os::unix::fs::FileExt as _, path::PathBuf};

use credbroker::config::{Config, Environment, KEYS};
use credbroker_fuzz::{endpoint, input::Input};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

/// What no message and no `Debug` may show.
const SECRET: &str = "hunter2";
/// Keys whose value `Debug` does not show either.
const COMMANDS: [&str; 2] = ["identity_command", "client_secret_command"];
const PARAMS: [&str; 2] = ["authorization_params", "token_params"];
const ENDPOINTS: [&str; 6] = [
    "issuer",
    "authorization_endpoint",
    "token_endpoint",
    "device_authorization_endpoint",
    "revocation_endpoint",
    "redirect_url",
];

thread_local! {
    static FILE: (File, PathBuf) = {
        let file: File = memfd_create("config", MemfdFlags::CLOEXEC).unwrap().into();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        (file, path)
    };
}

fn load(octets: &[u8], variables: &[(String, String)]) {
    let env: Environment = variables.iter().cloned().collect();
    let marked = Marked::of(octets, variables);
    FILE.with(|(file, path)| {
        file.set_len(0).unwrap();
        file.write_all_at(octets, 0).unwrap();
        match Config::load(Some(path), &env) {
            Ok(config) => judge(&config, &marked),
            Err(error) => {
                let error = error.to_string();
                let place = path.display().to_string();
                let lines = octets.iter().filter(|octet| **octet == b'\n').count() + 1;
                if let Some(rest) = error.strip_prefix(&place) {
                    let line = rest.strip_prefix(':').and_then(|rest| rest.split(':').next());
                    let line = line.and_then(|line| line.parse::<usize>().ok());
                    assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
                } else {
                    assert!(error.starts_with("CREDBROKER_"), "{error}");
                }
                assert!(error.contains("; ") && !error.contains(char::is_control), "{error:?}");
                assert!(error.len() < 2048, "{error}");
                // Names are shown, values are not. What is no TOML has neither.
                assert!(!error.contains(SECRET) || marked.name, "{error}");
            }
        }
    });
}

/// Where the marker is, as far as it may be shown.
#[derive(Default)]
struct Marked {
    /// In the name of a section or a key.
    name: bool,
    /// In a value that is no secret.
    open: bool,
}

impl Marked {
    fn of(octets: &[u8], variables: &[(String, String)]) -> Self {
        let mut marked = Self::default();
        if let Some(table) = std::str::from_utf8(octets)
            .ok()
            .and_then(|text| DeTable::parse(text).ok())
        {
            marked.look(table.get_ref(), true);
        }
        for (name, value) in variables {
            marked.open |= value.contains(SECRET) && !name.ends_with("_COMMAND");
        }
        marked
    }

    fn look(&mut self, table: &DeTable<'_>, top: bool) {
        for (name, value) in table {
            let name: &str = name.get_ref();
            self.name |= name.contains(SECRET);
            match value.get_ref() {
                // The values of parameters; their names are shown.
                DeValue::Table(table) if !top && PARAMS.contains(&name) => {
                    self.name |= table.keys().any(|name| name.get_ref().contains(SECRET));
                }
                DeValue::Table(table) => self.look(table, false),
                DeValue::Array(array) => self.open |= array.iter().any(holds),
                DeValue::String(text) if ENDPOINTS.contains(&name) => {
                    let before = text.split('?').next().unwrap_or_default();
                    self.open |= before.contains(SECRET);
                }
                DeValue::String(text) => self.open |= !COMMANDS.contains(&name) && text.contains(SECRET),
                _ => {}
            }
        }
    }
}

fn holds(value: &Spanned<DeValue<'_>>) -> bool {
    match value.get_ref() {
        DeValue::String(text) => text.contains(SECRET),
        DeValue::Array(array) => array.iter().any(holds),
        DeValue::Table(table) => table
            .iter()
            .any(|(name, value)| name.get_ref().contains(SECRET) || holds(value)),
        _ => false,
    }
}

fn judge(config: &Config, marked: &Marked) {
    let debug = format!("{config:?}");
    assert!(!debug.contains(SECRET) || marked.name || marked.open, "{debug}");
    assert!(config.store.path.as_ref().is_none_or(|path| path.is_absolute()));
    assert!(config.audit.path.as_ref().is_none_or(|path| path.is_absolute()));
    assert!(!config.login.timeout.is_zero());
    for (host, _) in &config.git {
        assert_eq!(host.to_string().parse().as_ref(), Ok(host));
    }
    for provider in config.providers.values() {
        for endpoint in [
            &provider.issuer,
            &provider.authorization_endpoint,
            &provider.token_endpoint,
            &provider.device_authorization_endpoint,
            &provider.revocation_endpoint,
            &provider.redirect_url,
        ]
        .into_iter()
        .flatten()
        {
            endpoint::judge(endpoint);
        }
    }
}

/// Puts the marker where a secret could be, and takes away what that cannot stand beside.
fn put_secrets(table: &mut Table) {
    if let Some(Value::Table(store)) = table.get_mut("store") {
        store.remove("identity_file");
        store.insert("identity_command".into(), format!("echo {SECRET}").into());
    }
    let Some(Value::Table(providers)) = table.get_mut("providers") else {
        return;
    };
    for (_, provider) in providers.iter_mut() {
        let Value::Table(provider) = provider else { continue };
        provider.remove("client_secret_file");
        provider.remove("client_secret_env");
        provider.insert("client_secret_command".into(), format!("echo {SECRET}").into());
        for key in PARAMS {
            let params = provider.entry(key).or_insert_with(|| Table::new().into());
            if let Value::Table(params) = params {
                params.insert("resource".into(), SECRET.into());
            }
        }
        for key in ENDPOINTS {
            if let Some(Value::String(url)) = provider.get_mut(key)
                && key != "issuer"
            {
                url.push_str(if url.contains('?') { "&" } else { "?" });
                url.push_str(&format!("key={SECRET}"));
            }
        }
    }
}

/// All strings of a value, in its order.
fn strings<'v>(value: &'v mut Value, found: &mut Vec<&'v mut String>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(array) => array.iter_mut().for_each(|value| strings(value, found)),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| strings(value, found)),
        _ => {}
    }
}

// The number of overriding variables, and which string of the file is replaced; for each variable its key and value; and the file.
fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let Some(first) = input.octet() else { return };
    let mut variables = vec![("HOME".to_owned(), "/home/u".to_owned())];
    for _ in 0..first % 4 {
        let (Some(key), Some(value)) = (input.octet(), input.part()) else {
            return;
        };
        let key = &KEYS[usize::from(key) % KEYS.len()];
        let name = format!("CREDBROKER_{}_{}", key.section, key.name).to_uppercase();
        variables.push((name, String::from_utf8_lossy(value).into_owned()));
    }
    load(input.0, &variables);
    let Some(table) = std::str::from_utf8(input.0)
        .ok()
        .and_then(|text| text.parse::<Table>().ok())
    else {
        return;
    };
    let mut secret = table.clone();
    put_secrets(&mut secret);
    load(toml::to_string(&secret).unwrap().as_bytes(), &variables);
    let mut replaced = Value::Table(table);
    let mut found = Vec::new();
    strings(&mut replaced, &mut found);
    let count = found.len().max(1);
    if let Some(text) = found.into_iter().nth(usize::from(first / 4) % count) {
        SECRET.clone_into(text);
        load(toml::to_string(&replaced).unwrap().as_bytes(), &variables);
    }
});
