#!/usr/bin/env bash
# Packs the package, installs it in an empty folder as its users do, and runs every test there: see README.md, "Tests".
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${CLIENT_WORK:?must name an empty folder}" "${CREDBROKER_BIN:?must name a credbroker}"
: "${CREDBROKER_SOCKET:?must be set by credbroker run}" "${TEST_RESOURCE_URL:?must be set}"
work=$(realpath "$CLIENT_WORK")
[[ -z $(ls -A "$work") ]] || { echo "$work is not empty" >&2; exit 1; }
quiet=(--no-audit --no-fund --ignore-scripts --loglevel=error)

mkdir "$work/build" "$work/app"
cp -r "$here"/{package.json,package-lock.json,tsconfig.json,src,README.md} "$here"/../../LICENSE-* "$work/build"
cd "$work/build"
npm ci "${quiet[@]}"
npm run --silent build
npm pack --silent --ignore-scripts --pack-destination "$work" >/dev/null

cd "$work/app"
echo '{"private": true, "type": "module"}' >package.json
npm install "${quiet[@]}" "$work"/credbroker-*.tgz
cp -r "$here/test" "$here/examples" .
for file in README.md LICENSE-MIT LICENSE-APACHE dist/index.js dist/index.d.ts; do
  [[ -s node_modules/credbroker/$file ]] || { echo "the package lacks $file" >&2; exit 1; }
done

# Its types are good for a strict program, without the types of browsers and of its dependencies.
ln -s "$work/build/node_modules/@types" node_modules/@types
ln -s "$work/build/node_modules/undici-types" node_modules/undici-types
"$work/build/node_modules/.bin/tsc" --noEmit --strict --exactOptionalPropertyTypes --noUncheckedIndexedAccess \
  --verbatimModuleSyntax --module nodenext --target es2022 --lib es2022,esnext.disposable --types node test/types.ts

node --test --test-reporter=spec test/*.test.js
