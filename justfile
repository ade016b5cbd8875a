# What a developer needs; everything works on a fresh clone.

set positional-arguments

python := ".venv/bin/python"
cluster := python + " -m e2e.cluster"
# tests wait more than they compute
parallel := "--numprocesses=4"
parallel_pods := "--numprocesses=2 --dist=loadfile --no-loadscope-reorder"
compile := ".venv/bin/uv pip compile --quiet --no-config --generate-hashes --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links"

[private]
default:
    @just --list --unsorted

# install what is missing: Debian packages, and the pinned Python packages in .venv
setup:
    @.ci/setup

# recompile requirements*.txt from requirements*.in
lock *OPTIONS: setup
    {{ compile }} {{ OPTIONS }} requirements.in -o requirements.txt
    {{ compile }} {{ OPTIONS }} requirements-dev.in -o requirements-dev.txt

# check style, types and the direction of imports
lint: setup
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    PYTHONPATH=operator .venv/bin/lint-imports
    PYTHONPATH=operator {{ python }} -m postgres_operator.api.crd --check config/crd

# write the CRDs from the models
manifests: setup
    PYTHONPATH=operator {{ python }} -m postgres_operator.api.crd config/crd

# compile the programs that the tests run, once for their versions
programs: setup
    @{{ cluster }} programs

# run the unit tests
unit *ARGS: programs
    {{ python }} -m pytest {{ parallel }} -m "not alone" operator/tests "$@" || [ $? = 5 ]
    {{ python }} -m pytest -m alone operator/tests "$@" || [ $? = 5 ]

# build the operator's image; prints its archive, or its name where Docker built it
image: setup
    @{{ cluster }} image

# start a Kubernetes cluster unless it runs; prints its kubeconfig
cluster-up: setup
    @{{ cluster }} up

# stop the cluster and remove what it left
cluster-down: setup
    @{{ cluster }} down

# build, load and roll out the operator (IMAGE names a pushed one)
deploy: cluster-up
    @{{ cluster }} deploy

# run kubectl against the cluster
kubectl *ARGS: setup
    @{{ cluster }} kubectl "$@"

# show a backup and a restore, from nothing
demo: deploy
    {{ python }} -m e2e.demo

# run the end-to-end tests
e2e *ARGS: deploy
    E2E_DEPLOYED=1 {{ python }} -m pytest e2e "$@"

# lint, unit tests and end-to-end tests
test: lint unit deploy
    E2E_DEPLOYED=1 {{ python }} -m pytest {{ parallel_pods }} -m "not alone" e2e
    E2E_DEPLOYED=1 {{ python }} -m pytest -m alone e2e

# everything, with repetitions and in full size
test-full: lint unit deploy
    E2E_DEPLOYED=1 E2E_REPETITIONS=5 E2E_IDLE_SECONDS=600 E2E_LARGE_ROWS=1120000 E2E_FORMAT_ROWS=200000 E2E_STREAM_MIB=5120 {{ python }} -m pytest e2e
    for n in 1 2 3; do E2E_DEPLOYED=1 {{ python }} -m pytest e2e/test_backup.py e2e/test_restore.py || exit 1; done

# measure how fast Backups pass through the operator
bench COUNT="200": setup
    {{ python }} bench/throughput.py {{ COUNT }}

# stop the cluster and remove what was built here
clean:
    @[ ! -d .venv ] || {{ cluster }} down
    rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
