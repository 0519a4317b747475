#!/bin/bash
# Builds the images ostrakon (the proxy) and ostrakon-node (servers, etcd, HAProxy) around a binary that is built already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:?image.sh BINARY}
"$here/base-image.sh"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp "$here/Dockerfile" "$here/node.sh" "$context/"
cp "$binary" "$context/ostrakon"
docker build --target proxy --tag ostrakon "$context"
docker build --target node --tag ostrakon-node "$context"
