//! Any file as a policy, and any text as a pattern: sandboxes that differ and get nothing that is not written there, or an
//! error on one line that names the place.

#![no_main]

use std::{collections::BTreeSet, fs::File, os::fd::AsRawFd as _, os::unix::fs::FileExt as _, path::PathBuf};

use credbroker::{
    broker::policy::{EntryPattern, NamePattern, Right},
    config::{PolicyFile, Sandbox},
    credential::EntryKey,
};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

thread_local! {
    static FILE: (File, PathBuf) = {
        let file: File = memfd_create("policy", MemfdFlags::CLOEXEC).unwrap().into();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        (file, path)
    };
}

fn judge(sandbox: &Sandbox, text: &str) {
    // Where nothing is escaped, all that is given is written there.
    let literal = !text.contains('\\');
    let policy = &sandbox.policy;
    for (right, patterns) in [
        (Right::Read, &policy.read),
        (Right::Login, &policy.login),
        (Right::Save, &policy.save),
        (Right::Remove, &policy.remove),
    ] {
        for pattern in patterns {
            let shown = pattern.to_string();
            assert_eq!(shown.parse::<EntryPattern>().as_ref(), Ok(pattern));
            let provider = shown.split('/').next().unwrap();
            assert!(!literal || text.contains(provider));
            let entry = EntryKey::parse(provider, "default");
            if let Ok(entry) = entry {
                assert_eq!(
                    pattern.matches(&entry),
                    !shown.contains('/') || shown.ends_with("/*") || shown.ends_with("/default")
                );
                assert!(!pattern.matches(&entry) || policy.grants(right, &entry));
            }
        }
        let stranger = EntryKey::parse("nobody-names-this", "one").unwrap();
        assert_eq!(
            policy.grants(right, &stranger),
            patterns.iter().any(|pattern| pattern.matches(&stranger))
        );
        assert!(patterns.is_empty() || !literal || text.contains("allow"));
    }
    for pattern in &policy.keys {
        assert_eq!(pattern.to_string().parse::<NamePattern>().as_ref(), Ok(pattern));
    }
}

fuzz_target!(|data: &[u8]| {
    FILE.with(|(file, path)| {
        file.set_len(0).unwrap();
        file.write_all_at(data, 0).unwrap();
        match PolicyFile::load(path) {
            Ok(policy) => {
                let text = std::str::from_utf8(data).unwrap();
                assert!(!policy.sandboxes.is_empty());
                let digests: BTreeSet<_> = policy
                    .sandboxes
                    .iter()
                    .map(|sandbox| sandbox.capability_sha256)
                    .collect();
                let names: BTreeSet<_> = policy.sandboxes.iter().map(|sandbox| sandbox.name.as_str()).collect();
                assert_eq!(
                    (digests.len(), names.len()),
                    (policy.sandboxes.len(), policy.sandboxes.len())
                );
                policy.sandboxes.iter().for_each(|sandbox| judge(sandbox, text));
            }
            Err(error) => {
                let error = error.to_string();
                let rest = error.strip_prefix(path.to_str().unwrap()).unwrap();
                let lines = data.iter().filter(|octet| **octet == b'\n').count() + 1;
                let line = rest.strip_prefix(':').and_then(|rest| rest.split(':').next());
                let line = line.and_then(|line| line.parse::<usize>().ok());
                assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
                assert!(error.contains("; ") && !error.contains(char::is_control), "{error:?}");
                assert!(error.len() < 2048, "{error}");
            }
        }
    });
});
