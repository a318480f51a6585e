#!/usr/bin/env bash
# Logins in headless Chromium, with a picture of each page. Not among the rings that run by themselves: it installs a
# browser.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need chromium chromium fonts-dejavu-core
start_logins login-browser/logins.py
