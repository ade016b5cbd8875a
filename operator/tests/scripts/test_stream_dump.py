"""A dump into an object store: dump.sh and upload.sh, as two containers of one pod."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from script_runner import SECRET, Pods, Server, TestDatabase, hand_over, new_databases, until
from streaming import FINAL, MANIFEST, PATH, SOURCE, StreamPod

from postgres_operator.api.backup import Manifest

NewPod = Callable[..., StreamPod]


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[TestDatabase]:
    """A database whose dump has several parts; the tests only read it."""
    with new_databases(server) as create:
        db = create()
        db.app_sql(
            "CREATE TABLE orders AS SELECT g AS id, 'row-data-' || md5(g::text) || md5((g + 1)::text) AS t"
            " FROM generate_series(1, 600000) g"
        )
        yield db


@pytest.fixture
def pod(pods: Pods, s3: ObjectStore, uploader: Path, shop: TestDatabase) -> NewPod:
    """pod(**values): a pod of the Backup's Job."""

    def new(env: dict[str, str] | None = None, **values: Any) -> StreamPod:
        return StreamPod(pods, s3, uploader, shop, "backup.yaml.j2", values, env or {})

    return new


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_a_dump_is_what_its_manifest_says(pod: NewPod, s3: ObjectStore, kind: str) -> None:
    one = pod(format=kind)
    manifest = one.run().result
    content = s3.get(one.file)
    assert json.loads(s3.get(MANIFEST)) == manifest
    assert manifest == {
        "schema": 1,
        "location": PATH,
        "file": one.file.rpartition("/")[2],
        "format": kind,
        "sizeBytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "serverVersion": manifest["serverVersion"],
        "toolVersion": manifest["toolVersion"],
        "backupTime": manifest["backupTime"],
        "source": SOURCE,
    }
    assert Manifest.model_validate(manifest).size_bytes > 8 << 20 or kind == "custom"
    assert set(s3.objects()) == {one.file, MANIFEST}
    assert s3.unfinished() == []


def _settle(pod: StreamPod) -> None:
    """The sidecar has taken its part of the work: a part was sent."""
    until(lambda: pod.s3.unfinished() == [pod.file])


def _nothing_is_left(pod: StreamPod) -> None:
    assert pod.s3.objects() == {}
    assert pod.s3.unfinished() == []


def _stall(pods: Pods, then: str = "exit 0", name: str = "pg_dump") -> Path:
    """pg_dump writes everything and then waits for the file that is returned, before it ends in this way."""
    go = hand_over(pods.directory / "control") / "go"
    wait = f"echo $$ >{go.parent}/pid; until [ -e {go} ]; do sleep 0.05; done"
    pods.shim(name, f'[ "$1" != --version ] || exec "$REAL" "$@"\n"$REAL" "$@"; {wait}; {then}')
    return go


def _rclone(pod: StreamPod, place: Path, text: str) -> None:
    """Put a shell script before the rclone of this pod's sidecar; it finds the real one as "$REAL"."""
    shim = hand_over(place / f"rclone-{pod.uid}") / "rclone"
    shim.write_text(f'#!/bin/sh\nREAL={pod.uploader}/rclone\n{text}\nexec "$REAL" "$@"\n')
    shim.chmod(0o755)
    pod.uploader = Path(f"{shim.parent}:{pod.uploader}")


def test_the_sidecar_runs_in_another_posix_shell_too(pod: NewPod, s3: ObjectStore, place: Path) -> None:
    shells = hand_over(place / "shells")
    (shells / "sh").symlink_to("/usr/bin/dash")
    one = pod()
    one.uploader = Path(f"{shells}:{one.uploader}")
    assert one.run().result
    assert set(s3.objects()) == {one.file, MANIFEST}


# --- the same Job twice


def test_a_second_pod_reports_what_the_first_one_made(pods: Pods, pod: NewPod, s3: ObjectStore) -> None:
    first = pod().run().result
    pods.shim("pg_dump", '[ "$1" = --version ] && exec "$REAL" "$@"; exit 9')
    before = s3.objects()
    second = pod().run()
    assert second.result == first
    assert "Another pod" in second.log
    assert s3.objects() == before


def test_a_second_pod_does_not_trust_what_is_broken(pod: NewPod, s3: ObjectStore) -> None:
    one = pod()
    assert one.run().result
    s3.put(one.file, b"shorter")
    assert pod().run().reason == "ChecksumMismatch"
    s3.delete(one.file)
    assert pod().run().reason == "ArtifactMissing"
    s3.put(MANIFEST, b"{}\n")
    assert pod().run().reason == "ManifestInvalid"
    assert s3.objects() == {MANIFEST: 3}


def test_of_two_pods_at_once_one_wins_and_both_report_it(pods: Pods, pod: NewPod, s3: ObjectStore) -> None:
    go, both = _stall(pods), [pod(), pod()]
    for one in both:
        one.start_sidecar()
    scripts = [one.start("dump") for one in both]
    until(lambda: s3.unfinished() == sorted(one.file for one in both))
    go.touch()
    results = [one.finish(script).result for one, script in zip(both, scripts, strict=True)]
    assert results[0] == results[1] == json.loads(s3.get(MANIFEST))
    assert set(s3.objects()) == {MANIFEST, f"{FINAL}/{results[0]['file']}"}
    assert s3.unfinished() == []


def test_the_first_one_wins_where_the_store_ignores_the_condition(
    pods: Pods, pod: NewPod, s3: ObjectStore, place: Path
) -> None:
    go, both = _stall(pods), [pod(), pod()]
    for one in both:
        _rclone(one, place, '[ "$1" != copyto ] || exec "$REAL" copyto --no-check-dest "$5" "$6"')
        one.start_sidecar()
    scripts = [one.start("dump") for one in both]
    until(lambda: s3.unfinished() == sorted(one.file for one in both))
    scripts[1].process.send_signal(signal.SIGSTOP)
    go.touch()
    first = both[0].finish(scripts[0]).result
    scripts[1].process.send_signal(signal.SIGCONT)
    assert both[1].finish(scripts[1]).result == first == json.loads(s3.get(MANIFEST))
    assert set(s3.objects()) == {MANIFEST, both[0].file}


# --- the dump does not end well


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_pg_dump_is_killed(pods: Pods, pod: NewPod, signal_: int) -> None:
    one = pod()
    go = _stall(pods)
    one.start_sidecar()
    script = one.start("dump")
    _settle(one)
    os.kill(int(until(lambda: (go.parent / "pid").exists() and (go.parent / "pid").read_text())), signal_)
    outcome = one.finish(script)
    assert outcome.reason == "DumpFailed"
    assert "killed by signal" in outcome.message
    _nothing_is_left(one)


def test_pg_dump_fails_after_the_last_byte(pods: Pods, pod: NewPod) -> None:
    one = pod()
    _stall(pods, "exit 1").touch()
    assert one.run().reason == "DumpFailed"
    _nothing_is_left(one)


@pytest.mark.parametrize("program", ["tee", "openssl", "wc"])
def test_what_counts_and_sums_fails(pods: Pods, pod: NewPod, program: str) -> None:
    one = pod()
    pods.shim(program, '"$REAL" "$@"; exit 1')
    outcome = one.run(RESTART_SECONDS="2")
    assert outcome.reason in ("UploadFailed", "InternalError")
    _nothing_is_left(one)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_the_dump_s_container_ends(pods: Pods, pod: NewPod, how: str) -> None:
    one = pod()
    go = _stall(pods)
    one.start_sidecar()
    script = one.start("dump")
    _settle(one)
    script.kill() if how == "killed" else script.terminate()
    outcome = one.finish(script)
    assert (outcome.code != 0, outcome.report) == (True, {})
    _nothing_is_left(one)
    go.touch()
    assert pod().run().result


def test_the_whole_pod_is_killed(pods: Pods, pod: NewPod, s3: ObjectStore) -> None:
    one = pod()
    go = _stall(pods)
    sidecar, script = one.start_sidecar(), one.start("dump")
    _settle(one)
    sidecar.kill()
    script.kill()
    assert s3.objects() == {}  # an unfinished upload stays: nobody is there to remove it
    go.touch()
    assert pod().run().result


# --- the upload does not end well


def test_the_uploader_is_killed_and_started_again(pods: Pods, pod: NewPod) -> None:
    one = pod()
    _stall(pods)
    sidecar, script = one.start_sidecar(), one.start("dump")
    _settle(one)
    sidecar.kill()
    one.start_sidecar()
    outcome = one.finish(script)
    assert outcome.reason == "UploadFailed"
    assert "killed" in outcome.message
    assert "spec.resources.limits.memory" in outcome.message
    _nothing_is_left(one)


def test_the_uploader_is_killed_when_all_is_done(pod: NewPod, s3: ObjectStore) -> None:
    one = pod()
    sidecar, script = one.start_sidecar(), one.start("dump")
    assert script.wait().result
    sidecar.kill()
    one.start_sidecar()
    until(lambda: one.sidecar and one.sidecar.child("sleep"))
    one.end()
    assert set(s3.objects()) == {one.file, MANIFEST}


@pytest.mark.parametrize("note", ["manifest.json", "committing"])
def test_a_manifest_that_the_store_no_longer_shows_is_not_taken_for_none(
    pod: NewPod, s3: ObjectStore, place: Path, note: str
) -> None:
    one = pod()
    _rclone(one, place, f'[ "$1" != cat ] || [ ! -e {one.stream / note} ] || exit 0')
    one.start_sidecar()
    outcome = one.finish(one.start("dump"))
    assert (outcome.code == 0) == (note == "manifest.json")
    assert outcome.code == 0 or "the dump, which stays in" in outcome.message
    assert set(s3.objects()) == {one.file, MANIFEST}


def test_rclone_is_killed(pods: Pods, pod: NewPod) -> None:
    one = pod()
    _stall(pods)
    sidecar, script = one.start_sidecar(), one.start("dump")
    _settle(one)
    os.kill(sidecar.child("rclone"), signal.SIGKILL)
    assert one.finish(script).reason == "UploadFailed"
    _nothing_is_left(one)


def test_rclone_ends_when_pg_dump_has(pods: Pods, pod: NewPod, s3: ObjectStore, place: Path) -> None:
    """What it leaves is more than the pipe holds, and nobody will ever read it."""
    first, one = pod(format="plain"), pod(format="plain")
    size = first.run().result["sizeBytes"]
    s3.delete(first.file)
    s3.delete(MANIFEST)
    ended = hand_over(pods.directory / "control") / "ended"
    pods.shim("pg_dump", f'"$REAL" "$@" || exit; [ "$1" = --version ] || touch {ended}')
    read = f"head -c {size - 100_000} >/dev/null; until [ -e {ended} ]; do sleep 0.05; done; exit 1"
    _rclone(one, place, f'[ "$1" != rcat ] || {{ {read}; }}')
    assert one.run().reason == "UploadFailed"
    _nothing_is_left(one)


def test_more_parts_than_allowed(pods: Pods, pod: NewPod) -> None:
    one = pod(env={"MAX_PARTS": "2"}, format="plain")
    pods.shim("psql", '[[ "$*" != *pg_database_size* ]] || { echo 1; exit; }; exec "$REAL" "$@"')
    outcome = one.run()
    assert outcome.reason == "UploadFailed"
    assert "number of parts" in outcome.message
    assert "format custom is smaller" in outcome.message
    _nothing_is_left(one)


def test_the_uploader_never_begins(pod: NewPod) -> None:
    outcome = pod().start("dump", GREETING_SECONDS="2").wait(20)
    assert outcome.reason == "UploadFailed"
    assert "See its log" in outcome.message


@pytest.mark.parametrize("kept", ['head -c 5000 | "$REAL" "$@"', "true"], ids=["part", "nothing"])
def test_the_store_keeps_less_than_it_was_sent(pod: NewPod, place: Path, kept: str) -> None:
    one = pod()
    _rclone(one, place, f'[ "$1" != rcat ] || {{ {kept}; cat >/dev/null; exit 0; }}')
    outcome = one.run()
    assert outcome.reason == "UploadFailed"
    assert f"but has {5000 if 'head' in kept else 'none'} of them" in outcome.message
    _nothing_is_left(one)


# --- the store does not work

QUICK = {"WATCH_SECONDS": "1", "SILENCE_SECONDS": "6"}
IMPATIENT = QUICK | {"ANSWER_SECONDS": "3"}  # a good store may need longer, on a busy machine


@pytest.mark.parametrize("trouble", ["hung", "down", "broken"])
def test_the_store_is_lost_half_way(pods: Pods, pod: NewPod, s3: ObjectStore, trouble: str) -> None:
    one = pod(env=IMPATIENT)
    go = _stall(pods)
    one.start_sidecar()
    script = one.start("dump")
    _settle(one)
    with getattr(s3, trouble)():
        go.touch()
        outcome = one.finish(script)
    assert outcome.reason == "UploadFailed"
    assert f"s3://backups at {s3.endpoint}" in outcome.message
    assert MANIFEST not in s3.objects()


@pytest.mark.parametrize("trouble", ["hung", "down"])
def test_the_store_is_away_for_less_than_the_limit(pods: Pods, pod: NewPod, s3: ObjectStore, trouble: str) -> None:
    # Less than it is away for, and enough for what it has to answer when it is back.
    one = pod(env={**QUICK, "ANSWER_SECONDS": "6", "SILENCE_SECONDS": "60"})
    go = _stall(pods)
    one.start_sidecar()
    script = one.start("dump")
    _settle(one)
    with getattr(s3, trouble)():
        time.sleep(9)
    go.touch()
    assert one.finish(script).result


@pytest.mark.parametrize("trouble", ["hung", "down", "broken"])
def test_the_store_does_not_work_from_the_beginning(pod: NewPod, s3: ObjectStore, trouble: str) -> None:
    with getattr(s3, trouble)():
        outcome = pod(env=IMPATIENT if trouble == "hung" else {}).run()
    assert outcome.reason == "UploadFailed"
    assert {"hung": "did not answer", "down": "cannot be reached", "broken": "answers with an error"}[
        trouble
    ] in outcome.message


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "other"}, "refuses the credentials"),
        ({"AWS_ACCESS_KEY_ID": "other"}, "refuses the credentials"),
        ({"REMOTE": "store:nowhere/team/a"}, "There is no such bucket"),
        ({"RCLONE_CONFIG_STORE_ENDPOINT": "http://nowhere.invalid"}, "cannot be reached"),
    ],
)
def test_a_store_that_is_not_as_its_resource_says(pod: NewPod, env: dict[str, str], why: str) -> None:
    outcome = pod(env={**env, **QUICK}).run()
    assert outcome.reason == "UploadFailed"
    assert why in outcome.message


# --- a part, and compression


@pytest.mark.parametrize("compression", ["none", "gzip:1"])
def test_a_part_is_compressed_as_it_is_told(pod: NewPod, s3: ObjectStore, compression: str) -> None:
    one = pod(selection="table\tpublic\torders", compression=compression)
    manifest = one.run().result
    content = s3.get(one.file)
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert (b"row-data-" in content) == (compression == "none")


def test_a_part_that_there_is_not_leaves_nothing(pod: NewPod) -> None:
    one = pod(selection="table\tpublic\torderz")
    outcome = one.run()
    assert (outcome.reason, "table public orderz" in outcome.message) == ("DumpFailed", True)
    _nothing_is_left(one)


@pytest.mark.parametrize("note", ["expected", "dump", "dumped", "globals"])
def test_links_in_the_place_of_notes_do_not_lead_to_the_store_s_credentials(
    pod: NewPod, s3: ObjectStore, note: str
) -> None:
    """The image beside the sidecar may be anybody's: here it is a hostile one."""
    one = pod(include_globals=True)
    sidecar = one.start_sidecar()
    until((one.stream / "ready").exists)
    fifo = (one.stream / "dump").rename(one.stream / "fifo")
    roles, content = b"-- roles\n", b"PGDMP"
    sums = {"globals": hashlib.sha256(roles).hexdigest(), "dump": hashlib.sha256(content).hexdigest()}
    manifest = {
        "schema": 1,
        "location": PATH,
        "file": one.file.rpartition("/")[2],
        "format": "custom",
        "sizeBytes": len(content),
        "sha256": sums["dump"],
        "globals": {"file": f"globals-{one.uid}.sql", "sha256": sums["globals"]},
        "source": SOURCE,
    }
    notes = {"expected": b"5\n", "globals": roles, "dumped": json.dumps(manifest).encode() + b"\n"}
    with fifo.open("r+b", buffering=0) as stream:
        stream.write(content)
        if note != "dumped":
            (one.stream / note).symlink_to("/proc/self/environ")
        for name in ("globals", "expected"):
            if name != note:
                (one.stream / f".{name}").write_bytes(notes[name])
                (one.stream / f".{name}").rename(one.stream / name)
    # What is read twice may be another thing the second time.
    os.mkfifo(one.stream / "dumped", 0o666)
    with (one.stream / "dumped").open("wb") as first:
        first.write(notes["dumped"])
        (one.stream / "dumped").unlink()
        (one.stream / "dumped").symlink_to("/proc/self/environ")
    done = until(lambda: next((n for n in ("failed", "manifest.json") if (one.stream / n).exists()), None))
    assert (done == "failed") == (note == "globals")
    (one.stream / "dumped").unlink()
    (one.stream / note).unlink(missing_ok=True)
    one.end()
    assert SECRET in " ".join(s3.credentials.values())
    assert SECRET not in sidecar.log
    assert not [key for key in s3.objects() if SECRET.encode() in s3.get(key)]


def test_a_note_is_not_written_through_a_link(pod: NewPod, place: Path) -> None:
    one = pod()
    file = place / "kept"
    file.write_text("kept")
    file.chmod(0o666)
    (one.stream / ".ready").symlink_to(file)
    one.start_sidecar()
    until((one.stream / "ready").exists)
    assert file.read_text() == "kept"
    assert not (one.stream / "ready").is_symlink()
    one.end()
