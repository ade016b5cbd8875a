"""delete-from-volume.sh and delete-from-bucket.sh: one artifact goes, and at no time does a part of it look whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from object_store import ObjectStore
from restoring import manifest_of
from script_runner import Outcome, Pods, Server, TestDatabase, hand_over, new_databases, until
from streaming import BACKUP_UID, FINAL, MANIFEST, PATH, PREFIX, SOURCE, StreamPod
from test_dump import _env as dump_env

OURS = {**SOURCE, "backupUID": BACKUP_UID}
NEIGHBOURS = ("shop/nightly-77aa", f"shop/nightly-{BACKUP_UID}-77aa", f"depot/nightly-{BACKUP_UID}", "shop/nightly")


def put(directory: Path, path: str = PATH, source: object = OURS) -> None:
    hand_over((directory / path).parent)
    target = hand_over(directory / path)
    content = b"-- dump"
    manifest = json.loads(manifest_of(content, "plain", path, "dump.sql")) | {"source": source}
    (target / "dump.sql").write_bytes(content)
    (target / "manifest.json").write_text(json.dumps(manifest) + "\n")


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def delete(pods: Pods, store: Path, more: str = "") -> Outcome:
    env = {"STORE_DIR": str(store), "ARTIFACT_PATH": PATH, "BACKUP_UID": BACKUP_UID, "POD_UID": "pod-9"}
    return pods.run("delete-from-volume.sh", env, more)


# --- a volume


def test_of_a_volume_one_artifact_goes_and_all_else_stays(pods: Pods, server: Server, store: Path) -> None:
    with new_databases(server) as create:
        assert pods.run("dump.sh", dump_env(create(), store, BACKUP_SOURCE=json.dumps(OURS))).result
    for path in NEIGHBOURS:
        put(store, path)
    others = files(store) - {f"{PATH}/dump.pgdump", f"{PATH}/manifest.json"}
    for left in (f".nightly-{BACKUP_UID}.pod-1.partial", f".nightly-{BACKUP_UID}.deleted"):
        (hand_over(store / "shop" / left) / "dump.pgdump").touch()
    (hand_over(store / "shop" / ".nightly-77aa.pod-1.partial") / "dump.pgdump").touch()
    others.add("shop/.nightly-77aa.pod-1.partial/dump.pgdump")
    assert delete(pods, store).code == 0
    assert files(store) == others
    again = delete(pods, store)  # what is gone is gone
    assert (again.code, again.report, files(store)) == (0, {}, others)


def test_a_volume_without_the_database_s_directory_has_nothing_to_delete(pods: Pods, store: Path) -> None:
    assert delete(pods, store).code == 0


@pytest.mark.parametrize("program", ["mv", "rm", "sync"])
def test_a_killed_deletion_leaves_a_whole_backup_or_none_and_is_ended_by_the_next(
    pods: Pods, store: Path, program: str
) -> None:
    put(store)
    half = hand_over(pods.directory / "control") / "half"
    # The last file is not removed: the first rm finds nothing, the next one goes on while the pod is killed.
    pods.shim(
        program,
        f'for last; do :; done; [ "$1" = -rf ] && [ ! -e "$2/manifest.json" ] && exec "$REAL" "$@"; '
        f'[ "$1" != -rf ] || rm_one="$2/dump.sql"; [ -z "$rm_one" ] || "$REAL" -f "$rm_one"; : >{half}; sleep 60',
    )
    env = {"STORE_DIR": str(store), "ARTIFACT_PATH": PATH, "BACKUP_UID": BACKUP_UID, "POD_UID": "pod-9"}
    script = pods.start("delete-from-volume.sh", env)
    until(half.exists)
    script.kill()
    script.process.wait(10)
    assert ({"dump.sql", "manifest.json"} if program == "mv" else set()) == (
        files(store / PATH) if (store / PATH).exists() else set()
    )
    (pods.directory / "bin" / program).unlink()
    assert delete(pods, store).code == 0
    assert files(store) == set()


def _link_inside(store: Path, outside: Path) -> None:
    put(store)
    (store / PATH / "more").symlink_to(outside)


def _directory_is_a_link(store: Path, outside: Path) -> None:
    hand_over(store / "shop")
    (store / PATH).symlink_to(outside / PATH)


def _parent_is_a_link(store: Path, outside: Path) -> None:
    (store / "shop").symlink_to(outside / "shop")


def _of_another_backup(store: Path, _: Path) -> None:
    put(store, source={**SOURCE, "backupUID": "77aa", "databaseName": f'"backupUID": "{BACKUP_UID}"'})


def _a_copy(store: Path, _: Path) -> None:
    put(store, "shop/other-1f0c")
    (store / "shop/other-1f0c").rename(store / PATH)


@pytest.mark.parametrize(
    ("trap", "deleted"),
    [
        (_link_inside, True),
        (_directory_is_a_link, False),
        (_parent_is_a_link, False),
        (_of_another_backup, False),
        (_a_copy, False),
    ],
)
def test_nothing_else_of_a_volume_can_be_deleted(
    pods: Pods, store: Path, place: Path, trap: Callable[[Path, Path], None], deleted: bool
) -> None:
    put(outside := hand_over(place / "outside"))
    trap(store, outside)
    before = files(store), files(outside)
    outcome = delete(pods, store)
    assert files(outside) == before[1]
    if deleted:
        assert (outcome.code, files(store)) == (0, set())
    else:
        assert (outcome.reason, files(store)) == ("DeletionFailed", before[0])
        assert "by hand" in outcome.message


def test_a_volume_that_refuses_says_why(pods: Pods, store: Path) -> None:
    put(store)
    (store / "shop").chmod(0o500)
    outcome = delete(pods, store)
    (store / "shop").chmod(0o700)
    assert outcome.reason == "DeletionFailed"
    assert "Permission denied" in outcome.message
    assert files(store) == {f"{PATH}/dump.sql", f"{PATH}/manifest.json"}


# --- a bucket


@pytest.fixture
def pod(pods: Pods, s3: ObjectStore, uploader: Path, server: Server) -> StreamPod:
    """The pod of a deletion; it logs in to no database."""
    return StreamPod(pods, s3, uploader, TestDatabase(server, "none", "none"), "delete.yaml.j2")


def _forge(s3: ObjectStore, path: str = PATH, source: object = OURS, file: str = "dump-1.sql") -> None:
    manifest = json.loads(manifest_of(b"-- dump", "plain", path, file)) | {"source": source}
    s3.put(f"{PREFIX}/{path}/{file}", b"-- dump")
    s3.put(f"{PREFIX}/{path}/manifest.json", (json.dumps(manifest) + "\n").encode())


def _spoil(pod: StreamPod, text: str) -> None:
    """Put a shell script before rclone."""
    shim = hand_over(pod.pods.directory / f"rclone-{pod.uid}") / "rclone"
    shim.write_text(f'#!/bin/sh\n{text}\nexec {pod.uploader}/rclone "$@"\n')
    shim.chmod(0o755)
    pod.uploader = Path(f"{shim.parent}:{pod.uploader}")


def test_of_a_bucket_one_artifact_goes_and_all_else_stays(
    pods: Pods, s3: ObjectStore, uploader: Path, server: Server, pod: StreamPod
) -> None:
    for path in NEIGHBOURS:
        _forge(s3, path)
    s3.put(f"{FINAL}/notes.txt", b"somebody's")
    others = s3.objects()
    s3.put(f"{FINAL}/dump-of-a-lost-pod.pgdump", b"x")
    with new_databases(server) as create:  # an upload that nobody ends any more
        db = create()
        db.app_sql("CREATE TABLE t AS SELECT md5(g::text) FROM generate_series(1, 30000) g")
        pods.shim("pg_dump", '[ "$1" = --version ] && exec "$REAL" "$@"; "$REAL" "$@"; sleep 60')
        lost = StreamPod(pods, s3, uploader, db, "backup.yaml.j2", {"format": "plain"})
        lost.start_sidecar()
        dump = lost.start("dump")
        until(s3.unfinished)
        for script in (lost.sidecar, dump):
            script.kill()
            script.process.wait(10)
    _forge(s3)
    assert pods.finish(pod.start("delete")).code == 0
    assert s3.objects() == others
    assert s3.unfinished() == []
    again = pods.finish(pod.start("delete"))  # what is gone is gone
    assert (again.code, again.report) == (0, {})
    assert s3.objects() == others


def test_a_deletion_that_ends_early_has_taken_the_manifest_first(pods: Pods, s3: ObjectStore, pod: StreamPod) -> None:
    _forge(s3)
    _spoil(pod, 'case "$*" in *deletefile*dump-1*) kill -9 "$PPID"; exit 1 ;; esac')
    assert pod.start("delete").process.wait(30) != 0
    assert set(s3.objects()) == {f"{FINAL}/dump-1.sql"}
    assert (
        pods.finish(
            StreamPod(pods, s3, Path(str(pod.uploader).split(":")[1]), pod.database, pod.template).start("delete")
        ).code
        == 0
    )
    assert s3.objects() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"source": {**SOURCE, "backupUID": "77aa"}}, id="of another Backup"),
        pytest.param({"location": "shop/other-1f0c"}, id="of another place"),
    ],
)
def test_what_is_not_of_the_backup_stays_in_the_bucket(
    pods: Pods, s3: ObjectStore, pod: StreamPod, wrong: dict[str, object]
) -> None:
    _forge(s3)
    s3.put(MANIFEST, (json.dumps(json.loads(s3.get(MANIFEST)) | wrong) + "\n").encode())
    before = s3.objects()
    outcome = pods.finish(pod.start("delete"))
    assert (outcome.reason, s3.objects()) == ("DeletionFailed", before)
    assert "by hand" in outcome.message


def test_a_bucket_that_keeps_what_it_was_to_delete_is_found_out(pods: Pods, s3: ObjectStore, pod: StreamPod) -> None:
    _forge(s3)
    _spoil(pod, 'case "$*" in *deletefile*dump-1*) exit 0 ;; esac')
    outcome = pods.finish(pod.start("delete"))
    assert outcome.reason == "DeletionFailed"
    assert "still has dump-1.sql" in outcome.message


def test_a_store_that_hangs_or_has_no_such_bucket_says_so(pods: Pods, s3: ObjectStore, pod: StreamPod) -> None:
    _forge(s3)
    outcome = pods.finish(pod.start("delete", REMOTE="store:nowhere"))
    assert outcome.reason == "DeletionFailed"
    assert "There is no such bucket" in outcome.message
    with s3.hung():
        outcome = pods.finish(pod.start("delete", ANSWER_SECONDS="1"))
    assert outcome.reason == "DeletionFailed"
    assert "did not answer" in outcome.message
    assert set(s3.objects()) == {MANIFEST, f"{FINAL}/dump-1.sql"}
