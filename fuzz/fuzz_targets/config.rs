//! Any file and environment as a configuration: one that is valid, or an error on one line that names the place and shows
//! no value.

#![no_main]

use std::{fs::File, os::fd::AsRawFd as _, os::unix::fs::FileExt as _, path::PathBuf};

use credbroker::{
    config::{Config, Environment, KEYS},
    oauth::Endpoint,
};
use credbroker_fuzz::input::Input;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

/// What no message and no `Debug` may show.
const SECRET: &str = "hunter2";

thread_local! {
    static FILE: (File, PathBuf) = {
        let file: File = memfd_create("config", MemfdFlags::CLOEXEC).unwrap().into();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        (file, path)
    };
}

fn load(octets: &[u8], env: &Environment) {
    FILE.with(|(file, path)| {
        file.set_len(0).unwrap();
        file.write_all_at(octets, 0).unwrap();
        match Config::load(Some(path), env) {
            Ok(config) => judge(&config, octets),
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
                // Names are shown, values are not.
                assert!(!error.contains(SECRET) || named(octets), "{error}");
            }
        }
    });
}

/// Whether it may be a name of a section or a key, too.
fn named(octets: &[u8]) -> bool {
    let text = String::from_utf8_lossy(octets);
    text.lines().any(|line| {
        line.split_once('=').is_none_or(|(name, _)| name.contains(SECRET)) && line.contains(SECRET)
            || line.contains('{')
            || line.contains('\\')
            || line.contains('[')
    })
}

fn judge(config: &Config, octets: &[u8]) {
    if !named(octets) {
        assert!(!format!("{config:?}").contains(SECRET));
    }
    assert!(config.store.path.as_ref().is_none_or(|path| path.is_absolute()));
    assert!(config.audit.path.as_ref().is_none_or(|path| path.is_absolute()));
    assert!(!config.login.timeout.is_zero());
    for (host, _) in &config.git {
        assert_eq!(host.to_string().parse().as_ref(), Ok(host));
    }
    for provider in config.providers.values() {
        let debug = format!("{provider:?}");
        assert!(
            !debug.contains("http://") || debug.contains("127.") || debug.contains("::1") || debug.contains("ocalhost")
        );
    }
    // Only to have the type here where its loopback rule is judged.
    assert!(Endpoint::parse("http://a.example").is_none());
}

// The number of overriding variables, for each its key and value, and the file.
fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let Some(count) = input.octet() else { return };
    let mut variables = vec![("HOME".to_owned(), "/home/u".to_owned())];
    for _ in 0..count % 4 {
        let (Some(key), Some(value)) = (input.octet(), input.part()) else {
            return;
        };
        let key = &KEYS[usize::from(key) % KEYS.len()];
        let name = format!("CREDBROKER_{}_{}", key.section, key.name).to_uppercase();
        variables.push((name, String::from_utf8_lossy(value).into_owned()));
    }
    load(input.0, &variables.into_iter().collect());
});
