//! Whatever a file or a variable holds, it is a configuration or an error.

use proptest::prelude::*;

use super::{
    keys::{TYPES, right, wrong},
    *,
};

/// Files that are nearly right: known and unknown sections and keys, values of every type.
fn nearly_right() -> impl Strategy<Value = String> {
    let sections = vec![
        "store",
        "audit",
        "providers.n",
        "providers",
        "git.'h.example:8443'",
        "git.h",
        "sandboxes.n",
        "x",
        "providers.n.token_params",
    ];
    let names: Vec<&str> = KEYS
        .iter()
        .chain(POLICY_KEYS)
        .map(|key| key.name)
        .chain(["x"])
        .collect();
    let mut values: Vec<String> = TYPES.iter().map(|(_, value)| (*value).to_owned()).collect();
    for key in KEYS.iter().chain(POLICY_KEYS) {
        values.extend(right(key.kind));
        values.extend(wrong(key.kind).iter().map(ToString::to_string));
    }
    let line = (prop::sample::select(names), prop::sample::select(values)).prop_map(|(n, v)| format!("{n} = {v}\n"));
    let section = (prop::sample::select(sections), prop::collection::vec(line, 0..6))
        .prop_map(|(section, lines)| format!("[{section}]\n{}", lines.concat()));
    prop::collection::vec(section, 0..5).prop_map(|sections| sections.concat())
}

fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
    for result in [
        load_bytes(bytes, &env(&[])).map(|config| format!("{config:?}")),
        Source::from_bytes(Path::new(PATH), bytes.to_vec())
            .and_then(|source| PolicyFile::from_source(&source, Path::new(PATH)))
            .map(|file| format!("{file:?}")),
    ] {
        if let Err(error) = result {
            let error = error.to_string();
            prop_assert!(error.starts_with(PATH) && error.contains("; "), "{}", error);
            prop_assert!(!error.contains(char::is_control), "{:?}", error);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        judge(&bytes)?;
    }

    #[test]
    fn any_host_is_read_as_it_is_shown(text in "\\PC{0,20}|[a-z.]{1,9}(:[0-9]{1,6})?|\\[[0-9a-f:.]{0,20}\\](:[0-9]{0,6})?") {
        if let Ok(host) = text.parse::<GitHost>() {
            prop_assert_eq!(host.to_string().parse(), Ok(host));
        }
    }

    #[test]
    fn any_text_is_a_file_or_an_error(text in "[\\[\\]{}='\"#.\\n a-z0-9_]{0,120}|\\PC{0,60}") {
        judge(text.as_bytes())?;
    }

    #[test]
    fn any_nearly_right_file_is_a_file_or_an_error(text in nearly_right()) {
        judge(text.as_bytes())?;
    }

    #[test]
    fn any_variable_is_an_override_or_an_error(name in "[A-Z_]{0,30}|STORE_(PATH|BACKEND|IDENTITY_FILE)", value in "\\PC{0,20}") {
        let variable = format!("CREDBROKER_{name}");
        if let Err(error) = load_bytes(b"", &env(&[(&variable, &value)])) {
            prop_assert!(error.to_string().starts_with(&variable), "{}", error);
        }
    }
}
