# make up     start a cluster with demo data on this machine, from nothing
# make down   stop it
# make test   run every test; of tests/clients psql, pg_dump, psycopg 3, asyncpg, SQLAlchemy and Django
# make clients  install and run every client program, write docs/reference/clients.md
# make reads  a million writes, each read back over replicas that replay late, on one shard and on two
# make cluster-long  kill -9 for ten minutes, 1,000 migrations that fail, 3,000,000 sorted rows
# make saturation  2,000 clients on 20 connections for five minutes, on one shard and on two
# make check  check format and lints
# make faults  every cut, kill and cancel at every message of every exchange; random messages by the ten thousand
# make chaos  containers or network namespaces, faults of every kind under load, a checker of histories; SCENARIOS=core, or 1,7,12
# make image  the images of docker/, around the release build
# make bench  what the proxy costs beside PgBouncer and a bare relay (20 minutes on a quiet machine)
# make bench-quick  counts the instructions of single pieces; fails where one costs 5 % more than the baseline says
# make generator  200,000 generated statements through 1, 2, 3 and 5 shards, and the build without proofs that they catch
# make simulate  the failover machine under 10,000 seeds of faults, and without single safety rules
# make simulate-reshard  the same for the reshard machine
# make failover-long  kills twenty primaries under sixteen clients that never reconnect, and stops five
# make reshard-long  one shard, two, five and three, under 32 sessions that know every answer
# make reshard-copy  how fast rows move, beside a COPY by hand
# make upstream  run other projects' own test suites through the proxy (asyncpg, psycopg, psycopg2, regress)

SHELL := /bin/bash
.DEFAULT_GOAL := help
UPSTREAM := upstream-regress upstream-asyncpg upstream-psycopg2 upstream-psycopg
.PHONY: help up down build test check postgresql etcd
.PHONY: clients upstream $(UPSTREAM)
.PHONY: faults reads failover-long saturation cluster-long chaos image
.PHONY: generator generator-control simulate simulate-reshard reshard-long reshard-copy
.PHONY: bench bench-quick

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
TARGET := $(or $(CARGO_TARGET_DIR),target)

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

up: postgresql build
	$(TARGET)/release/ostrakon up --shards 2 --replicas 1 --demo --detach

down:
	$(TARGET)/release/ostrakon down

build:
	cargo build --release --locked

test: postgresql etcd
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; else cargo test --locked; fi

# The page is written also when a program failed: it then says so.
clients: postgresql
	@OSTRAKON_FULL=1 UPDATE=1 cargo nextest run --locked --test clients --run-ignored all --no-fail-fast; ended=$$?; \
	UPDATE=1 cargo nextest run --locked --test clients -E 'test(the_page_has_the_generated_form)' && exit $$ended

faults: postgresql
	OSTRAKON_FULL=1 OSTRAKON_RANDOM=$(or $(OSTRAKON_RANDOM),10000) \
	cargo nextest run --locked --run-ignored all --test faults --no-capture -E 'not test(saturation)'

failover-long: postgresql
	OSTRAKON_KILLS=20 cargo nextest run --locked --release --test failover --no-capture -E 'test(a_killed_primary_is_not)'
	OSTRAKON_KILLS=5 cargo nextest run --locked --release --test failover --no-capture -E 'test(a_primary_that_hangs)'
	OSTRAKON_KILLS=12 cargo nextest run --locked --release --test failover --no-capture -E 'test(of_two_shards)'

reads: postgresql
	OSTRAKON_PAIRS=$(or $(OSTRAKON_PAIRS),1000000) \
	cargo test --locked --release --test reads freshness -- --nocapture --test-threads 1

# Long: an hour for all on two processors.
chaos: postgresql etcd
	tests/chaos/run.sh $(or $(SCENARIOS),all)

image: build
	docker/image.sh $(TARGET)/release/ostrakon

cluster-long: postgresql
	OSTRAKON_FULL=1 cargo nextest run --locked --release --test cluster --no-capture \
	  -E 'test(wherever_the_proxy_dies) | test(leave_no_drift) | test(through_little_memory)'

saturation: postgresql
	OSTRAKON_FULL=1 cargo nextest run --locked --release --test faults --no-capture -E 'test(saturation)'

# ARGS: --only select --clients 16 --rounds 3 --system-calls, and others: cargo bench --bench load -- --help
bench: postgresql
	@command -v pgbouncer >/dev/null || $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null
	cargo bench --locked --bench load -- $(or $(ARGS),--page docs/reference/performance.md)

# ARGS: --write, --only merge, --plant 7: cargo bench --bench micro -- --compare --help
bench-quick:
	@command -v valgrind >/dev/null || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends valgrind >/dev/null; }
	cargo bench --locked --profile quick --bench micro -- $(or $(filter --write,$(ARGS)),--compare) $(filter-out --write,$(ARGS))

# In a release build; without a runner of tests, which would end what takes so long.
generator: postgresql generator-control
	OSTRAKON_GENERATED=$(or $(OSTRAKON_GENERATED),200000) \
	cargo test --locked --release --test differential generated_programs -- --nocapture

simulate:
	OSTRAKON_SEEDS=$(or $(OSTRAKON_SEEDS),10000) \
	cargo test --locked --release --test failover simulator -- --nocapture --include-ignored

simulate-reshard:
	OSTRAKON_SEEDS=$(or $(OSTRAKON_SEEDS),10000) \
	cargo test --locked --release --test reshard simulator -- --nocapture

reshard-long: postgresql
	OSTRAKON_FULL=1 cargo test --locked --release --test reshard a_cluster_grows -- --nocapture

reshard-copy: postgresql
	OSTRAKON_FULL=1 cargo test --locked --release --test reshard compared_with_a_copy -- --nocapture

generator-control: postgresql
	cargo test --locked --features unproved-routing --target-dir $(TARGET)/unproved --test differential \
	  routes_that_are_not_proved -- --nocapture

check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Installs the distribution's PostgreSQL where no server is, without the cluster that Debian's package
# would start by itself on port 5432.
postgresql:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "PostgreSQL 14 or newer is missing: install its server with this system's package manager" >&2; exit 1; \
	fi; \
	echo "installing PostgreSQL from the distribution (apt-get)"; set -e; \
	$(SUDO) mkdir -p /etc/postgresql-common; \
	if [ ! -e /etc/postgresql-common/createcluster.conf ]; then \
	  echo "create_main_cluster = false" | $(SUDO) tee /etc/postgresql-common/createcluster.conf >/dev/null; \
	fi; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  -o Dpkg::Options::=--force-confold postgresql postgresql-client >/dev/null

# The distribution's etcd, for tests of the store; its own service is not started.
etcd:
	@if command -v etcd >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  echo "etcd 3.4 or newer is missing: install it with this system's package manager" >&2; exit 1; \
	fi; \
	echo "installing etcd from the distribution (apt-get)"; set -e; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-server >/dev/null; \
	if command -v systemctl >/dev/null; then $(SUDO) systemctl disable -q --now etcd 2>/dev/null || true; fi

# One suite after the other, all of them, and a failure at the end when one failed.
upstream:
	@failed=; for suite in $(UPSTREAM); do $(MAKE) --no-print-directory $$suite || failed="$$failed $$suite"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

$(UPSTREAM): upstream-%: postgresql
	cargo build --locked --bin ostrakon
	tests/upstream/fetch.sh $(TARGET)/upstream $*
	python3 -B tests/upstream/run.py $* --parts $(TARGET)/upstream --binary $(TARGET)/debug/ostrakon \
	  --keep $(TARGET)/upstream/output
