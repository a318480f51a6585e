//! Whose network the command has, where a provider could be mistaken for it.

use super::*;

fn checked(runtime: Runtime, arguments: &[&str], without_tls: &[(&str, &'static str)]) -> Result<(), SandboxError> {
    let request = Request {
        arguments: arguments.iter().map(Into::into).collect(),
        ..request(runtime)
    };
    request.check_network(without_tls.iter().copied())
}

#[test]
fn nothing_without_tls_is_asked_where_the_command_could_listen_in_its_place() {
    let (bwrap, podman, docker) = (Runtime::Bwrap, Runtime::Podman, Runtime::Docker);
    for (runtime, arguments, could_listen) in [
        (bwrap, &[][..], true),
        (bwrap, &["--disable-userns"], true),
        (bwrap, &["--network=none"], true),
        (bwrap, &["--unshare-net"], false),
        (bwrap, &["--hostname", "box", "--unshare-all"], false),
        // Who says that it may share the network knows what it can do there.
        (bwrap, &["--share-net"], false),
        (bwrap, &["--unshare-all", "--share-net"], false),
        (podman, &[], false),
        (podman, &["--network=none"], false),
        (podman, &["--network", "bridge", "--hostname", "host"], false),
        (podman, &["--hostname=host", "--net=hosts"], false),
        (podman, &["--network=host"], true),
        (podman, &["--network", "host"], true),
        (podman, &["--memory=4g", "--net=host"], true),
        (podman, &["--net", "host"], true),
        (podman, &["--network=bridge", "--network=host"], true),
        (podman, &["--network=bridge,host"], true),
        (podman, &["--network=ns:/proc/1/ns/net"], true),
        (podman, &["--share-net", "--network=host"], true),
        (docker, &[], false),
        (docker, &["--network=host"], true),
        (docker, &["--net", "host"], true),
        (docker, &["--network", "alias=a,name=host"], true),
    ] {
        let found = checked(runtime, arguments, &[("local", "issuer"), ("other", "token_endpoint")]);
        assert_eq!(found.is_err(), could_listen, "{runtime:?} {arguments:?}");
        if let Err(error) = found {
            let text = error.to_string();
            assert!(error.is_usage() && text.contains("[providers.local] issuer"), "{text}");
        }
        assert_eq!(checked(runtime, arguments, &[]), Ok(()), "{runtime:?} {arguments:?}");
    }
}
