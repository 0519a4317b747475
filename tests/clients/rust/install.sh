# Builds one program of the package in tests/clients/rust. Sourced by `install`.
set -euo pipefail
if ! command -v pg_config >/dev/null || [ ! -e "$(pg_config --includedir)/libpq-fe.h" ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libpq-dev >&2
fi
package="$SOURCE/../rust"
# The three programs share what they have in common.
export CARGO_TARGET_DIR="$CLIENT_HOME/../rust"
cargo build --quiet --locked --manifest-path "$package/Cargo.toml" --bin "$(basename "$SOURCE")" >&2

# version Name crate: the version of a crate that is locked
version() {
    echo "$1 $(grep -A1 "^name = \"$2\"$" "$package/Cargo.lock" | sed -n 's/^version = "\(.*\)"/\1/p')"
}
