"""A restore from an object store: restore-*.sh and read-manifest.sh beside download.sh, in one pod."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from restoring import BLOCK, contents
from script_runner import Pods, Server, TestDatabase, hand_over, new_databases, until
from streaming import MANIFEST, StreamPod, forge

NewPod = Callable[..., StreamPod]
QUICK = {"WATCH_SECONDS": "1", "SILENCE_SECONDS": "6"}
IMPATIENT = {"ANSWER_SECONDS": "3"}  # a good store may need longer, on a busy machine


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[TestDatabase]:
    """What is backed up: its plain dump has three blocks; the tests only read it."""
    with new_databases(server) as create:
        db = create("shop")
        db.app_sql(
            "CREATE TABLE orders AS SELECT g AS id, md5(g::text) || md5((g + 1)::text) AS t"
            " FROM generate_series(1, 250000) g;"
            "SELECT lo_from_bytea(0, 'large')"
        )
        yield db


@pytest.fixture
def target(database: Callable[..., TestDatabase]) -> TestDatabase:
    """An empty database."""
    return database("app")


@pytest.fixture
def back_up(pods: Pods, s3: ObjectStore, uploader: Path, shop: TestDatabase) -> Callable[..., StreamPod]:
    """back_up(kind): a finished backup."""

    def run(kind: str = "plain") -> StreamPod:
        pod = StreamPod(pods, s3, uploader, shop, "backup.yaml.j2", {"format": kind})
        assert pod.run().result
        return pod

    return run


@pytest.fixture
def pod(pods: Pods, s3: ObjectStore, uploader: Path, target: TestDatabase) -> NewPod:
    """pod(**values): a pod of the Restore's Job."""

    def new(env: dict[str, str] | None = None, **values: Any) -> StreamPod:
        return StreamPod(pods, s3, uploader, target, "restore.yaml.j2", values, {**QUICK, **(env or {})})

    return new


def _fails(pod: StreamPod, reason: str) -> str:
    """A restore that fails with this reason and changes nothing."""
    outcome = pod.run()
    assert outcome.reason == reason, outcome.message
    assert pod.database.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == "0"
    return outcome.message


@pytest.mark.parametrize("mode", ["Fail", "Clean", "Replace"])
@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_what_is_restored_is_what_was_backed_up(
    back_up: Callable[..., StreamPod], pod: NewPod, shop: TestDatabase, kind: str, mode: str
) -> None:
    back_up(kind)
    one = pod(mode=mode)
    if mode != "Fail":
        one.database.app_sql("CREATE TABLE old AS SELECT 1")
    assert one.run().result["alreadyRestored"] is False
    assert contents(one.database) == contents(shop)


def test_the_manifest_is_read_without_the_dump(
    back_up: Callable[..., StreamPod], pods: Pods, s3: ObjectStore, uploader: Path, target: TestDatabase
) -> None:
    backup = back_up()
    reader = StreamPod(pods, s3, uploader, target, "read-manifest.yaml.j2", env=QUICK)
    assert reader.run().result == json.loads(s3.get(MANIFEST))
    s3.delete(backup.file)
    assert StreamPod(pods, s3, uploader, target, "read-manifest.yaml.j2", env=QUICK).run().reason == "ArtifactMissing"
    s3.delete(MANIFEST)
    assert StreamPod(pods, s3, uploader, target, "read-manifest.yaml.j2", env=QUICK).run().reason == "ArtifactMissing"


# --- an artifact that is not what it was


def test_nothing_is_there(pod: NewPod) -> None:
    assert "no manifest.json" in _fails(pod(), "ArtifactMissing")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda text: text[:-1], "ChecksumMismatch", id="truncated"),
        pytest.param(lambda text: text + b"\n", "ChecksumMismatch", id="longer"),
        pytest.param(lambda text: text[:9_000_000] + b"X" + text[9_000_001:], "ChecksumMismatch", id="one byte"),
        pytest.param(lambda text: text[BLOCK:] + text[:BLOCK], "ChecksumMismatch", id="blocks swapped"),
        pytest.param(lambda _: b"DROP TABLE t;", "ChecksumMismatch", id="another"),
    ],
)
def test_a_damaged_dump(
    back_up: Callable[..., StreamPod], pod: NewPod, s3: ObjectStore, change: Callable[[bytes], bytes], reason: str
) -> None:
    backup = back_up()
    s3.put(backup.file, change(s3.get(backup.file)))
    _fails(pod(), reason)


def test_another_backup_than_the_one_recorded(s3: ObjectStore, pod: NewPod) -> None:
    forge(s3, b"SELECT 1;")
    assert "0" * 64 in _fails(pod(expected_sha256="0" * 64), "ChecksumMismatch")


@pytest.mark.parametrize(
    "more", [{"schema": 2}, {"file": "../../secret"}, {"sizeBytes": -1}, {"format": "custom"}, {"sha256": "x"}]
)
def test_a_manifest_that_no_dump_wrote(s3: ObjectStore, pod: NewPod, more: dict[str, Any]) -> None:
    forge(s3, b"SELECT 1;", **more)
    _fails(pod(), "ManifestInvalid")


def _swapped_after_the_check(one: StreamPod, key: str, content: bytes) -> tuple[str, str]:
    one.start_sidecar()
    assert one.start("restore-check").wait().code == 0
    one.s3.put(key, content)
    outcome = one.finish(one.start("restore-load"))
    assert one.database.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == "0"
    return outcome.reason, outcome.message


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text[:BLOCK], id="shorter"),
        pytest.param(lambda text: text + b"CREATE TABLE evil ();", id="longer"),
        pytest.param(lambda text: text[:-40] + b"CREATE TABLE evil ();" + text[-19:], id="end"),
        pytest.param(lambda _: b"\\! touch /tmp/evil", id="another"),
    ],
)
def test_a_dump_that_changes_between_check_and_load(
    back_up: Callable[..., StreamPod], pod: NewPod, s3: ObjectStore, change: Callable[[bytes], bytes]
) -> None:
    backup = back_up()
    reason, message = _swapped_after_the_check(pod(), backup.file, change(s3.get(backup.file)))
    assert reason == "ChecksumMismatch"
    assert "not what was checked" in message


def test_no_byte_of_a_block_that_was_not_checked_gets_to_psql(
    back_up: Callable[..., StreamPod], pod: NewPod, pods: Pods, s3: ObjectStore, place: Path
) -> None:
    backup = back_up()
    text = s3.get(backup.file)
    seen = hand_over(place / "seen") / "input"
    pods.shim("sed", f'[[ "$*" != *filter* ]] || exec tee -a {seen} > >("$REAL" "$@"); exec "$REAL" "$@"')
    position = 2 * BLOCK + 5
    _swapped_after_the_check(pod(), backup.file, text[:position] + b"X" + text[position + 1 :])
    assert seen.read_bytes() == text[: 2 * BLOCK]


def test_bytes_flipped_at_random(pods: Pods, place: Path) -> None:
    """The blocks' check alone, 200 times: what differs is never passed on, whatever the position."""
    blocks, rng = hand_over(place / "blocks"), random.Random(1)  # noqa: S311 - not for secrets
    content = rng.randbytes(3 * 64 * 1024 + 100)
    (blocks / "good").write_bytes(content)
    # With small blocks, so that many fit.
    small = f"""
next_block() {{
    dd bs=32768 count=1 iflag=fullblock of="$scratch/block" 2>/dev/null || return 3
    [[ -s $scratch/block ]] || return 2
}}
note_blocks {blocks}/sums <{blocks}/good >/dev/null
same_blocks {blocks}/sums <{blocks}/good >{blocks}/out && cmp {blocks}/good {blocks}/out || fail Wrong good
for bad in {blocks}/bad-*; do
    if same_blocks {blocks}/sums <"$bad" >{blocks}/out; then fail Wrong "$bad"; fi
    cmp -n "$(stat -c %s {blocks}/out)" {blocks}/good {blocks}/out || fail Wrong "$bad"
done
report 200
"""
    for n in range(200):
        at = rng.randrange(len(content))
        bad = (
            content[:at] if n % 2 else content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        )
        (blocks / f"bad-{n}").write_bytes(bad)
    assert pods.run("blocks.sh", {}, small).report == {"result": 200}


# --- the store, or the sidecar, does not work


@pytest.mark.parametrize("trouble", ["hung", "down", "broken"])
@pytest.mark.parametrize("step", ["restore-check", "restore-load"])
def test_the_store_is_lost(
    back_up: Callable[..., StreamPod], pod: NewPod, s3: ObjectStore, trouble: str, step: str
) -> None:
    back_up()
    one = pod(IMPATIENT)
    one.start_sidecar()
    if step == "restore-load":
        assert one.start("restore-check").wait().code == 0
    else:
        until((one.stream / "manifest.json").exists)
    with getattr(s3, trouble)():
        outcome = one.finish(one.start(step))
    assert outcome.reason == "DownloadFailed"
    assert f"s3://backups at {s3.endpoint}" in outcome.message


@pytest.mark.parametrize("step", ["restore-check", "restore-load"])
@pytest.mark.parametrize("victim", ["sidecar", "rclone"])
def test_the_sidecar_is_killed(
    back_up: Callable[..., StreamPod], pod: NewPod, pods: Pods, step: str, victim: str, place: Path
) -> None:
    back_up()
    one = pod()
    go = hand_over(place / "control") / "go"
    sidecar = one.start_sidecar()
    if step == "restore-load":
        assert one.start("restore-check").wait().code == 0
    pods.shim("dd", f'until [ -e {go} ]; do sleep 0.05; done; exec "$REAL" "$@"')
    script = one.start(step)
    until((one.stream / "manifest.json").exists)  # so that it is the dump which rclone sends
    rclone = sidecar.child("rclone")
    if victim == "rclone":
        os.kill(rclone, signal.SIGKILL)
    else:
        sidecar.kill()
        one.start_sidecar()
    go.touch()
    assert one.finish(script).reason == "DownloadFailed"


@pytest.mark.parametrize("step", ["restore-check", "restore-load"])
def test_the_sidecar_is_killed_while_nobody_reads(back_up: Callable[..., StreamPod], pod: NewPod, step: str) -> None:
    back_up()
    one = pod()
    sidecar = one.start_sidecar()
    if step == "restore-load":
        assert one.start("restore-check").wait().code == 0
    until((one.stream / "manifest.json").exists)
    sidecar.kill()
    again = one.start_sidecar()
    until(lambda: again.child("sleep"))
    assert one.finish(one.start(step), 15).reason == "DownloadFailed"


def test_the_sidecar_never_begins(pod: NewPod) -> None:
    outcome = pod().start("restore-check", GREETING_SECONDS="2").wait(20)
    assert outcome.reason == "DownloadFailed"
    assert "See its log" in outcome.message


@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("step", ["restore-check", "restore-load"])
def test_no_room_for_a_block(
    back_up: Callable[..., StreamPod], pod: NewPod, pods: Pods, place: Path, step: str, good: int
) -> None:
    back_up()
    one = pod()
    one.start_sidecar()
    if step == "restore-load":
        assert one.start("restore-check").wait().code == 0
    count = hand_over(place / "control") / "count"
    full = f'echo >>{count}; [ $(wc -l <{count}) -le {good} ] || {{ echo "No space left on device" >&2; exit 1; }}'
    pods.shim("dd", f'{full}; exec "$REAL" "$@"')
    outcome = one.finish(one.start(step))
    assert outcome.reason == "RestoreFailed"
    assert "free). That says nothing about the backup" in outcome.message


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "other"}, "refuses the credentials"),
        ({"REMOTE": "store:nowhere/team/a"}, "There is no such bucket"),
    ],
)
def test_a_store_that_is_not_as_its_resource_says(pod: NewPod, env: dict[str, str], why: str) -> None:
    assert why in _fails(pod(env), "DownloadFailed")


def test_a_private_authority(
    pods: Pods, s3_tls: ObjectStore, uploader: Path, shop: TestDatabase, target: TestDatabase
) -> None:
    assert StreamPod(pods, s3_tls, uploader, shop, "backup.yaml.j2").run().result
    assert StreamPod(pods, s3_tls, uploader, target, "restore.yaml.j2", env=QUICK).run().result
    stranger = StreamPod(pods, s3_tls, uploader, target, "restore.yaml.j2", env={"CA_CERT": ""})
    outcome = stranger.run()
    assert outcome.reason == "DownloadFailed"
    assert "No trusted TLS connection" in outcome.message
