# Installs a program's npm packages, pinned by its package-lock.json, into $CLIENT_HOME. Sourced by `install`.
set -euo pipefail
command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >&2
mkdir -p "$CLIENT_HOME"
if ! cmp -s "$SOURCE/package-lock.json" "$CLIENT_HOME/installed.json"; then
    cp "$SOURCE/package.json" "$SOURCE/package-lock.json" "$CLIENT_HOME/"
    (cd "$CLIENT_HOME" && npm ci --ignore-scripts --no-audit --no-fund >&2)
    cp "$SOURCE/package-lock.json" "$CLIENT_HOME/installed.json"
fi

# version Name package: the version of a package that is installed
version() {
    sed -n 's/^  "version": "\(.*\)".*/'"$1"' \1/p' "$CLIENT_HOME/node_modules/$2/package.json" | head -1
}
