#!/bin/bash
# Fetches what the suites are made of into one directory, each part once:
#   fetch.sh DIRECTORY psycopg|psycopg2|asyncpg|regress
# Debian's source packages come by apt-get from the machine's own Debian sources (their "deb" entries read
# as "deb-src", in a configuration of their own: the machine's stays as it is); the others by pip.
set -euo pipefail

directory=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
asyncpg=0.32.0
psycopg2=2.9.12

# Options for an apt-get that knows Debian's sources and writes nothing outside the directory.
apt_options() {
    local apt=$directory/apt
    mkdir -p "$apt/sources.d" "$apt/lists/partial" "$apt/cache/archives/partial"
    awk 'BEGIN { RS = ""; ORS = "\n\n" } /Signed-By:[^\n]*debian/ { sub(/Types: *deb/, "Types: deb-src"); print }' \
        /etc/apt/sources.list.d/*.sources >"$apt/sources.d/source.sources" 2>/dev/null || true
    sed -n 's/^deb \(.*debian.*\)/deb-src \1/p' /etc/apt/sources.list >"$apt/sources.d/source.list" 2>/dev/null || true
    options=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources.d" -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt/cache" -o "APT::Sandbox::User=root" -q)
}

# Downloads and unpacks a Debian source package into DIRECTORY/NAME, the newest version that is to be had: an index may
# be ahead of the archive behind it.
debian_source() {
    local name=$1 version
    apt_options
    (
        cd "$directory/apt"
        apt-get "${options[@]}" update >/dev/null
        for version in $(apt-cache "${options[@]}" showsrc "$name" | sed -n 's/^Version: //p' | sort -rVu); do
            if apt-get "${options[@]}" source --download-only "$name=$version" >"$name.log" 2>&1; then
                mkdir -p "$directory/$name.part"
                tar xf "$name"_*.orig.tar.* -C "$directory/$name.part" --strip-components=1
                echo "$version" >"$directory/$name.part/.debian-version"
                mv "$directory/$name.part" "$directory/$name"
                exit 0
            fi
        done
        echo "no version of Debian's source package $name can be downloaded:" >&2
        grep -h '^E:' "$name.log" >&2
        exit 1
    )
}

# Downloads and unpacks a source archive of PyPI into DIRECTORY/NAME.
pypi_source() {
    local name=$1 version=$2
    mkdir -p "$directory/pypi" "$directory/$name.part"
    "$python" -m pip download -q --no-binary :all: --no-deps -d "$directory/pypi" "$name==$version"
    tar xzf "$directory/pypi/$name-$version.tar.gz" -C "$directory/$name.part" --strip-components=1
    mv "$directory/$name.part" "$directory/$name"
}

# A Python of its own with the driver at the version that the tests are from.
environment() {
    local name=$1
    shift
    [ -e "$directory/$name-env/ready" ] && return
    "$python" -m venv --clear "$directory/$name-env"
    "$directory/$name-env/bin/python" -m pip install -q pytest==8.4.2 pytest-timeout==2.4.0 "$@"
    touch "$directory/$name-env/ready"
}

case $2 in
psycopg)
    [ -d "$directory/psycopg3" ] || debian_source psycopg3
    version=$(sed 's/-[^-]*$//' "$directory/psycopg3/.debian-version")
    # The driver in pure Python, over the system's libpq.
    environment psycopg "psycopg[pool]==$version" pytest-asyncio==0.21.2 "dnspython<3"
    ;;
psycopg2)
    [ -d "$directory/psycopg2" ] || pypi_source psycopg2 "$psycopg2"
    environment psycopg2 "psycopg2-binary==$psycopg2"
    ;;
asyncpg)
    [ -d "$directory/asyncpg" ] || pypi_source asyncpg "$asyncpg"
    environment asyncpg "asyncpg==$asyncpg" uvloop distro
    ;;
regress)
    [ -d "$directory/postgresql-15" ] || debian_source postgresql-15
    if [ ! -d "$directory/programs" ]; then
        # Expected outputs are those of the same version's server and psql (the installed ones may be newer), and
        # the headers stay uninstalled: their package wants a compiler collection of its own.
        version=$(cat "$directory/postgresql-15/.debian-version")
        mkdir -p "$directory/programs.part"
        (cd "$directory/programs.part" && for name in postgresql-15 postgresql-client-15 postgresql-server-dev-15; do
            apt-get -q -o APT::Sandbox::User=root download "$name=$version" >/dev/null
            dpkg -x "$name"_*.deb .
        done)
        ${CC:-cc} -O1 -fPIC -shared -fwrapv -fno-strict-aliasing -w \
            -I"$directory/programs.part/usr/include/postgresql/15/server" \
            -I"$directory/postgresql-15/src/test/regress" -D_GNU_SOURCE -o "$directory/programs.part/regress.so" \
            "$directory/postgresql-15/src/test/regress/regress.c"
        mv "$directory/programs.part" "$directory/programs"
    fi
    ;;
*)
    echo "unknown suite $2" >&2
    exit 2
    ;;
esac
