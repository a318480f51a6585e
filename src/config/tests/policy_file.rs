//! The policy file.

use super::{keys::DIGEST, *};
use crate::{broker::policy::Policy, credential::EntryKey};

#[test]
fn a_policy_file_says_who_may_do_what() {
    let other = "ff".repeat(32);
    let file = load_policy(&format!(
        "[sandboxes.ci]\ncapability_sha256 = '{DIGEST}'\nallow = ['github', 'google/*']\nallow_key = ['npm']\n\
         allow_login = ['google/work']\nallow_save = ['p']\nallow_remove = ['*']\n\
         [sandboxes.'a.b']\ncapability_sha256 = '{other}'\n"
    ))
    .unwrap();
    let [ci, bare] = file.sandboxes.as_slice() else {
        panic!("two sandboxes");
    };
    assert_eq!((ci.name.as_str(), bare.name.as_str()), ("ci", "a.b"));
    assert_eq!((ci.capability_sha256[1], ci.capability_sha256[31]), (0x11, 0xff));
    let entry = |provider, bucket| EntryKey::parse(provider, bucket).unwrap();
    assert!(ci.policy.may_read(&entry("github", "")) && !ci.policy.may_read(&entry("github", "b")));
    assert!(ci.policy.may_read(&entry("google", "b")) && ci.policy.may_read_key(&"npm".parse().unwrap()));
    assert!(ci.policy.may_login(&entry("google", "work")) && !ci.policy.may_login(&entry("google", "")));
    assert!(ci.policy.may_save(&entry("p", "")) && ci.policy.may_remove(&entry("x", "y")));
    assert_eq!(bare.policy, Policy::default());
}

#[test]
fn what_is_wrong_in_a_policy_file_is_named() {
    let digest = format!("capability_sha256 = '{DIGEST}'");
    let lower = digest.to_lowercase();
    let table = [
        (
            "[sandbox.n]".to_owned(),
            1,
            "unknown section \"sandbox\"; did you mean \"sandboxes\"?",
        ),
        ("[store]".to_owned(), 1, "unknown section \"store\""),
        (
            "[sandboxes.n]\nallow = []".to_owned(),
            1,
            "[sandboxes.n] lacks capability_sha256",
        ),
        (
            "[sandboxes.'a b']".to_owned(),
            1,
            "the name in [sandboxes.'a b'] cannot be used",
        ),
        (
            "[sandboxes]\nn = 1".to_owned(),
            2,
            "\"sandboxes.n\" is a section, not a key",
        ),
        (
            format!("[sandboxes.a]\n{digest}\n[sandboxes.b]\n{lower}"),
            4,
            "sandboxes.b.capability_sha256 is the same as that of sandbox a",
        ),
        (
            format!("[sandboxes.a]\n{digest}\nallow = [\n 'p',\n 'hunter2/x/y',\n]"),
            5,
            "item 2 of sandboxes.a.allow cannot be used; the key takes an array of entry patterns",
        ),
    ];
    for (text, line, message) in table {
        let error = policy_error(&text, line);
        assert!(error.contains(message), "{text}\n{error}");
    }
    for empty in ["", "[sandboxes]", "# nothing"] {
        let error = load_policy(empty).unwrap_err().to_string();
        assert!(error.starts_with("/etc/cb/policy.toml: names no sandbox"), "{error}");
    }
    let absent = PolicyFile::load(Path::new("/nowhere/policy.toml"))
        .unwrap_err()
        .to_string();
    assert!(absent.starts_with("/nowhere/policy.toml: cannot be read: "), "{absent}");
}
