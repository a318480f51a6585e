#!/usr/bin/env bash
# grpc-netty over netty's native epoll transport.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need javac default-jdk-headless
need mvn maven
case $(uname -m) in
  x86_64) native=linux-x86_64 protoc=linux-x86_64 ;;
  aarch64) native=linux-aarch_64 protoc=linux-aarch_64 ;;
  *) die "no native transport is known for $(uname -m)" ;;
esac
build=$fixture/build
mkdir -p "$build/src/main/java"
cp "$interop/java/pom.xml" "$build"
cp "$interop"/java/*.java "$build/src/main/java"
(cd "$build" && mvn --batch-mode --quiet -Dmaven.repo.local="$cache/maven" -Dprotos="$root/proto" -Dnative="$native" \
  -Dprotoc="$protoc" package) >&2

client "grpc-java" java -cp "$build/target/classes:$build/target/dependency/*" Checks
