#!/bin/sh
# A full disk costs no token: the old entry stays, health says so, and writing goes on once there is room.
# It mounts a small tmpfs in a mount namespace of its own; for everybody but root also in a user namespace.
set -eu
cd "$(dirname "$0")/../.."
cargo test --test store --no-run
mount_point=$(mktemp -d)
trap 'rmdir "$mount_point"' EXIT
user=
[ "$(id -u)" = 0 ] || user="--user --map-root-user"
# shellcheck disable=SC2016,SC2086
said=$(CREDBROKER_TEST_ROLE=full CREDBROKER_TEST_STORE="$mount_point" unshare $user --mount sh -eu -c '
    mount -t tmpfs -o size=128k,mode=700 none "$CREDBROKER_TEST_STORE"
    cargo test --test store -- --exact processes::child_in_a_role --nocapture
')
printf '%s\n' "$said"
# It passes without a role, too; what it says is the proof that it had one.
printf '%s\n' "$said" | grep "^child: survived a full disk$" >/dev/null
