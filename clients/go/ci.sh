#!/usr/bin/env bash
# Checks the package, uses it from a module of its own as its users do, and runs its tests there with the race detector.
# Run it in a sandbox of `credbroker run`; README.md says what it finds in its environment. Nothing is skipped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for name in CREDBROKER_BIN CREDBROKER_SOCKET CREDBROKER_CAPABILITY CLIENT_WORK TEST_RESOURCE_URL TEST_SECONDS; do
  [[ -n ${!name:-} ]] || { echo "$name is not set" >&2; exit 1; }
done
command -v "$(go env CC)" >/dev/null || { echo "go test -race needs a C compiler (gcc and libc6-dev)" >&2; exit 1; }
export CGO_ENABLED=1

cd "$here"
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || { echo "gofmt would change $unformatted" >&2; exit 1; }
go vet ./...
go mod tidy -diff
go mod verify

# A user's module.
mkdir "$CLIENT_WORK/user"
cd "$CLIENT_WORK/user"
go mod init example.com/user
go mod edit -require credbroker.dev/go@v0.0.0 -replace "credbroker.dev/go=$here"
cp "$here/examples/whoami/main.go" .
go mod tidy
go build -race -o whoami .
./whoami -provider acme -url "$TEST_RESOURCE_URL" -times 3 -pause 100ms
if ./whoami -provider absent -url "$TEST_RESOURCE_URL" 2>refused; then
  echo "whoami got a token that is not there" >&2
  exit 1
fi
grep -q 'log in on the host .*NOT_FOUND' refused

# What `go test` calls credbroker.dev/go is the folder, by the user's go.mod.
go test -race -count=1 -timeout 10m -parallel 8 -v credbroker.dev/go/... >tests.log 2>&1 || {
  cat tests.log
  exit 1
}
grep -E '^(--- |ok|FAIL|    ring_test)' tests.log
if grep -F -e '--- SKIP' tests.log; then
  exit 1
fi
