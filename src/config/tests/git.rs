//! `[git.HOST]`: hosts, what git gets for them, and what the messages say.

use super::*;
use crate::credential::EntryKey;

fn host(text: &str) -> GitHost {
    text.parse().unwrap()
}

#[test]
fn a_host_is_what_stands_in_a_url_between_slashes() {
    for (text, shown) in [
        ("github.com", "github.com"),
        ("GitHub.COM", "github.com"),
        ("localhost:8080", "localhost:8080"),
        ("my_host", "my_host"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("[::1]:65535", "[::1]:65535"),
        ("[0:0::1]", "[::1]"),
        ("a:08080", "a:8080"),
    ] {
        assert_eq!(host(text).to_string(), shown);
    }
    let long = "x".repeat(254);
    for text in [
        "",
        ":80",
        "https://github.com",
        "github.com/",
        "alice@github.com",
        "a b",
        "a\n",
        "a:",
        "a:0",
        "a:65536",
        "a:+80",
        "a:80:80",
        "::1",
        "[::1",
        "[::1]80",
        "[a]",
        "[::1%eth0]",
        "bücher.example",
        "*.example.com",
        "a%2fb",
        &long,
    ] {
        let error = text.parse::<GitHost>().unwrap_err().to_string();
        assert!(error.contains("is no host: write it as the URL has it"), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn a_schemes_own_port_may_be_left_out_and_no_other() {
    for (one, other, scheme, same) in [
        ("a.example", "A.example", "https", true),
        ("a.example", "a.example:443", "https", true),
        ("a.example:443", "a.example", "https", true),
        ("localhost", "localhost:80", "http", true),
        ("localhost", "localhost:443", "http", false),
        ("localhost", "localhost:80", "https", false),
        ("a.example", "a.example:8443", "https", false),
        ("a.example:8443", "a.example:8443", "https", true),
        ("a.example", "b.a.example", "https", false),
        ("a.example", "a.example.", "https", false),
        ("a.example", "a.example:443", "ftp", false),
    ] {
        assert_eq!(host(one).is(&host(other), scheme), same, "{one} {other} {scheme}");
    }
}

#[test]
fn a_token_goes_out_encrypted_or_to_this_machine() {
    for (text, scheme, may) in [
        ("a.example", "https", true),
        ("a.example:8443", "https", true),
        ("a.example", "http", false),
        ("127.0.0.1.example", "http", false),
        ("localhost.example", "http", false),
        ("localhost", "http", true),
        ("127.0.0.1:8080", "http", true),
        ("127.9.9.9", "http", true),
        ("[::1]:8080", "http", true),
        ("[2001:db8::1]", "http", false),
        ("[2001:db8::1]", "https", true),
        ("a.example", "ftp", false),
        ("localhost", "ssh", false),
        ("localhost", "", false),
        ("localhost", "http://x", false),
    ] {
        assert_eq!(host(text).may_get_a_token_over(scheme), may, "{scheme}://{text}");
    }
}

#[test]
fn each_host_has_its_own_section() {
    let config = load(
        "[git.'github.com']\nentry = 'github'\n\
         [git.'Code.example:8443']\nentry = 'acme/work'\nusername = 'alice'\n\
         [git.'[::1]:80']\napi_key = 'k'\n[git.intranet]\nentry = 'acme'",
    )
    .unwrap();
    let entry = |provider, bucket| GitSecret::Entry(EntryKey::parse(provider, bucket).unwrap());
    let git = |secret, username: Option<&str>| GitConfig {
        secret,
        username: username.map(str::to_owned),
    };
    let want = [
        ("github.com", git(entry("github", ""), None)),
        ("code.example:8443", git(entry("acme", "work"), Some("alice"))),
        ("[::1]:80", git(GitSecret::ApiKey("k".parse().unwrap()), None)),
        ("intranet", git(entry("acme", ""), None)),
    ];
    assert_eq!(config.git, want.map(|(name, git)| (host(name), git)).into());
}

#[test]
fn what_is_wrong_is_said_with_the_host() {
    let table = [
        (
            "[git.'a.example']",
            1,
            "[git.'a.example'] does not say what git gets; set entry to a PROVIDER or PROVIDER/BUCKET, or api_key to",
        ),
        (
            "[git.'a.example']\nusername = 'x'",
            1,
            "[git.'a.example'] does not say what git gets; set entry",
        ),
        (
            "[git.'a.example']\nentry = 'p'\napi_key = 'k'",
            3,
            "git.'a.example'.api_key cannot be set beside entry; remove one of the two",
        ),
        (
            "[git.'a.example']\nentry = 'p'\n[git.'A.example']\nentry = 'p'",
            3,
            "[git.'a.example'] is there twice; remove one of the two",
        ),
        (
            "[git.'a.example']\nentri = 'p'",
            2,
            "unknown key \"git.'a.example'.entri\"; did you mean \"entry\"?",
        ),
        (
            "[git.'a.example']\nentry = 'hunter2/*'",
            2,
            "git.'a.example'.entry must be one entry in a string: P (the bucket \"default\" of provider P) or P/B; ",
        ),
        (
            "[git.a.example]\nentry = 'p'",
            1,
            "unknown key \"git.a.example\"; the nearest is",
        ),
        (
            "[git.a.example]\nentry = 'p'",
            1,
            "(a name with a dot needs quotes: [section.\"a.b\"])",
        ),
        (
            "[git.'https://a.example']\nentry = 'p'",
            1,
            "the host in [git.'https://a.example'] cannot be used; write it as the URL has it, without anything else",
        ),
        (
            "[gits.'a.example']",
            1,
            "unknown section \"gits\"; did you mean \"git\"?",
        ),
        (
            "[git]\nentry = 'p'",
            2,
            "\"git.entry\" is a section, not a key; write [git.entry] and its keys below it",
        ),
    ];
    for (text, line, message) in table {
        let error = error(text, line);
        assert!(error.contains(message), "{text}\n{error}\n{message}");
    }
}
