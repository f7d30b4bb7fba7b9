"""What is made of files, through the real service: rows, objects, events, webhooks, deletion."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import requests

from tests.kit import made as kit
from tests.kit.bucket import keys_of
from tests.kit.lanes import FILES
from tests.kit.made import PHOTO, by_preset, made, upload
from tests.kit.ports import free_port
from tests.kit.receiver import SECRET, Receiver
from tests.kit.stack import BUCKET, RedisServer, S3Server, Web, Worker, wait_for

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

TABLE = FILES / "duckdb--issue_811.csv"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"made-{uuid4().hex}/"


@pytest.fixture(scope="module")
def web(
    s3: S3Server, redis_server: RedisServer, receiver: Receiver, prefix: str, server_dir: Path
) -> Iterator[Web]:
    folder = server_dir / "derivatives"
    folder.mkdir()
    web = Web(folder, settings(folder, s3, redis_server, receiver, prefix))
    web.start()
    web.wait()
    yield web
    web.stop()


def settings(
    folder: Path, s3: S3Server, redis_server: RedisServer, receiver: Receiver, prefix: str
) -> dict[str, str]:
    return {
        **s3.settings,
        **redis_server.settings,
        **kit.presets(folder),
        "S3_KEY_PREFIX": prefix,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'files.db'}",
        "SPOOL_DIR": str(folder / "spool"),
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRET": SECRET,
    }


def content(web: Web, file_id: str) -> requests.Response:
    return requests.get(f"{web.url}/files/{file_id}/content?proxy=1", timeout=20)


def told(receiver: Receiver, file_id: str) -> list[tuple[str, dict[str, Any]]]:
    bodies = [json.loads(body) for _, body in receiver.got]
    return [
        (body["type"], body["data"])
        for body in bodies
        if file_id in (body["data"]["id"], body["data"]["parent_id"])
    ]


@pytest.mark.parametrize("mode", ["normal", "async"])
def test_a_photo_becomes_two_files_in_s3(
    web: Web, receiver: Receiver, bucket: S3Client, prefix: str, mode: str
) -> None:
    answer = upload(web, mode, PHOTO, "thumb", "small")
    assert answer.status_code == (201 if mode == "normal" else 202), answer.text
    first = answer.json()
    assert first["process"] == ["thumb", "small"]
    assert [one["upload_status"] for one in first["derivatives"]] != ["COMPLETE"] * 2
    file = made(web, first["id"])
    found = by_preset(file)
    assert file["derivatives_status"] == "COMPLETE"
    assert {name: one["summary"]["width"] for name, one in found.items()} == {
        "thumb variant": 128,
        "small variant": 64,
    }
    for one in found.values():
        child = web.file(one["id"])
        assert (child["parent_id"], child["upload_status"]) == (file["id"], "COMPLETE")
        answer = content(web, one["id"])
        assert answer.headers["Content-Type"] == one["content_type"]
        assert len(answer.content) == one["size"]
        assert bucket.get_object(Bucket=BUCKET, Key=one["key"])["Body"].read() == answer.content
        assert one["key"].startswith(f"{prefix}derived/")
    assert found["thumb variant"]["name"] == "sharp--Landscape_6-thumb.webp"
    expected = ["file.complete"] * 3 + ["file.processed"]  # which come in any order
    wait_for(lambda: sorted(kind for kind, _ in told(receiver, file["id"])) == expected, 20, "webhooks")
    [processed] = [data for kind, data in told(receiver, file["id"]) if kind == "file.processed"]
    assert processed["derivatives_status"] == "COMPLETE"


def test_a_table_by_its_rule_becomes_a_part_of_the_lake(web: Web, bucket: S3Client, prefix: str) -> None:
    file = made(web, upload(web, "async", TABLE).json()["id"])
    found = by_preset(file)
    assert set(found) == {"orders part", "orders report"}
    part = found["orders part"]
    day = file["created_at"][:10]
    assert part["key"] == f"{prefix}lake/orders/ingest_date={day}/part-{part['id']}.parquet"
    assert part["summary"]["records"] == {"in": 4494, "out": 4494, "rejected": 0, "blank": 0, "preamble": 0}
    assert content(web, part["id"]).content[:4] == b"PAR1"
    report = requests.get(f"{web.url}/files/{part['id']}/report", timeout=20)
    assert report.headers["Content-Type"] == "application/json"
    assert report.json()["columns"][0]["name"] == "TestInteger"
    assert report.json()["source"]["sha256"] == file["sha256"]


def test_rejected_rows_are_delivered_with_an_error(web: Web) -> None:
    file = made(web, upload(web, "async", FILES / "messytables--weird_head_padding.csv", "orders").json()["id"])
    found = by_preset(file)
    assert file["upload_status"] == "COMPLETE"
    assert file["derivatives_status"] == "ERROR"
    assert found["orders part"]["error"] == "21.1 % of the rows were rejected (10 % are allowed)."
    assert found["orders rejected"]["upload_status"] == found["orders report"]["upload_status"] == "COMPLETE"
    assert content(web, found["orders rejected"]["id"]).text.splitlines()[0] == "line,reason,raw"


def test_several_sheets_become_several_parts(web: Web) -> None:
    file = made(web, upload(web, "async", FILES / "calamine--merged_range.xlsx", "orders").json()["id"])
    keys = sorted(one["key"].split("/")[2] for one in file["derivatives"] if one["output"] == "part")
    assert keys == ["orders__sheet1", "orders__sheet2"]


def test_hints_are_followed(web: Web) -> None:
    source = FILES / "duckdb--shift_jis.csv"
    plain = made(web, upload(web, "async", source, "orders").json()["id"])
    assert "say its encoding" in by_preset(plain)["orders part"]["error"]
    hinted = made(web, upload(web, "async", source, "orders?encoding=shift_jis").json()["id"])
    assert hinted["derivatives_status"] == "COMPLETE"
    declared = requests.post(
        f"{web.url}/async_upload",
        files={"file": ("a.csv", source.read_bytes(), "text/csv; charset=shift_jis")},
        timeout=20,
    )
    assert made(web, declared.json()["id"])["derivatives_status"] == "COMPLETE"


def test_a_damaged_image_is_an_error_of_its_own_and_can_be_retried(web: Web, receiver: Receiver) -> None:
    file = made(web, upload(web, "async", FILES / "sharp--truncated.jpg", "thumb").json()["id"])
    assert (file["upload_status"], file["derivatives_status"]) == ("COMPLETE", "ERROR")
    [child] = file["derivatives"]
    assert child["error"] == "The image is damaged or cut off."
    assert content(web, file["id"]).content == (FILES / "sharp--truncated.jpg").read_bytes()
    assert requests.get(f"{web.url}/files/{child['id']}/content", timeout=20).status_code == 409
    assert web.retry(child["id"]) == 202
    assert made(web, file["id"])["derivatives"][0]["error"] == "The image is damaged or cut off."
    wait_for(lambda: "file.error" in [kind for kind, _ in told(receiver, file["id"])], 20, "webhook")


def test_the_original_is_listed_and_its_derivatives_by_parent(web: Web) -> None:
    file = made(web, upload(web, "async", PHOTO, "thumb").json()["id"])
    listed = requests.get(f"{web.url}/files?limit=200", timeout=20).json()["files"]
    ids = {one["id"]: one for one in listed}
    assert file["id"] in ids
    assert file["derivatives"][0]["id"] not in ids
    assert ids[file["id"]]["derivatives"] == file["derivatives"]
    children = requests.get(f"{web.url}/files?parent={file['id']}", timeout=20).json()["files"]
    assert [child["id"] for child in children] == [file["derivatives"][0]["id"]]
    assert requests.get(f"{web.url}/files?parent=x", timeout=20).status_code == 400


def test_what_is_deleted_takes_all_that_was_made_of_it(web: Web, bucket: S3Client, prefix: str) -> None:
    file = made(web, upload(web, "async", PHOTO, "thumb", "small").json()["id"])
    keys = {file["key"], *(one["key"] for one in file["derivatives"])}
    assert keys <= set(keys_of(bucket, BUCKET, prefix))
    assert requests.delete(f"{web.url}/files/{file['id']}", timeout=20).status_code == 204
    for one in [file, *file["derivatives"]]:
        assert requests.get(f"{web.url}/files/{one['id']}", timeout=20).status_code == 404
    wait_for(lambda: not keys & set(keys_of(bucket, BUCKET, prefix)), 30, "removal of all objects")


def test_one_derivative_can_be_deleted_and_made_again(web: Web, bucket: S3Client, prefix: str) -> None:
    file = made(web, upload(web, "async", PHOTO, "thumb", "small").json()["id"])
    thumb = by_preset(file)["thumb variant"]
    assert requests.delete(f"{web.url}/files/{thumb['id']}", timeout=20).status_code == 204
    assert set(by_preset(web.file(file["id"]))) == {"small variant"}
    wait_for(lambda: thumb["key"] not in keys_of(bucket, BUCKET, prefix), 30, "removal of the object")
    wait_for(lambda: ask(web, file["id"], "thumb").status_code == 202, 30, "another thumb")
    assert set(by_preset(made(web, file["id"]))) == {"thumb variant", "small variant"}


def ask(web: Web, file_id: str, *wanted: str) -> requests.Response:
    body = [("process", name) for name in wanted]
    return requests.post(f"{web.url}/files/{file_id}/derivatives", data=body, timeout=20)


def test_more_is_made_later_of_what_s3_holds(web: Web) -> None:
    file = made(web, upload(web, "async", PHOTO).json()["id"])
    assert (file["process"], file["derivatives_status"], file["derivatives"]) == ([], None, [])
    answer = ask(web, file["id"], "thumb")
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/files/{file['id']}"
    assert made(web, file["id"])["derivatives_status"] == "COMPLETE"
    again = ask(web, file["id"], "thumb")
    assert again.status_code == 200
    assert len(again.json()["derivatives"]) == 1
    assert ask(web, file["id"], "small", "thumb").status_code == 202
    assert len(made(web, file["id"])["derivatives"]) == 2


def test_a_wrong_wish_is_refused_with_the_right_code(web: Web) -> None:
    file = made(web, upload(web, "async", PHOTO, "thumb").json()["id"])
    child = file["derivatives"][0]["id"]
    answers = {
        "unknown": (ask(web, file["id"], "tumb"), 400),
        "of another type": (ask(web, file["id"], "orders"), 415),
        "nothing": (ask(web, file["id"]), 415),
        "empty": (ask(web, file["id"], ""), 400),
        "of a derivative": (ask(web, child, "thumb"), 409),
        "of nothing": (ask(web, "0" * 32, "thumb"), 404),
        "long": (ask(web, file["id"], "thumb," * 3000), 413),
        "as JSON": (
            requests.post(f"{web.url}/files/{file['id']}/derivatives", json={"process": "thumb"}, timeout=20),
            415,
        ),
        "upload, unknown": (upload(web, "async", PHOTO, "tumb"), 400),
        "upload, of another type": (upload(web, "async", PHOTO, "orders"), 415),
        "upload, malformed hint": (upload(web, "async", TABLE, "orders?header=x"), 400),
        "no report": (requests.get(f"{web.url}/files/{file['id']}/report", timeout=20), 404),
    }
    assert {name: answer.status_code for name, (answer, _) in answers.items()} == {
        name: status for name, (_, status) in answers.items()
    }
    for answer, _ in answers.values():
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_asked_for_is_part_of_the_request(web: Web) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = upload(web, "async", PHOTO, "thumb", headers=key)
    same = upload(web, "async", PHOTO, "thumb", headers=key)
    other = upload(web, "async", PHOTO, "small", headers=key)
    assert same.json()["id"] == first.json()["id"]
    assert other.status_code == 422


def test_a_long_poll_waits_until_all_is_made(web: Web) -> None:
    file = upload(web, "async", PHOTO, "thumb", "small").json()
    tag, statuses = None, set()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        headers = {"Prefer": "wait=20", **({"If-None-Match": tag} if tag else {})}
        answer = requests.get(f"{web.url}/files/{file['id']}", headers=headers, timeout=30)
        tag, found = answer.headers["ETag"], answer.json() if answer.content else {}
        statuses.add(found.get("derivatives_status"))
        if found.get("derivatives_status") == "COMPLETE":
            break
    assert "COMPLETE" in statuses


def test_the_events_of_an_original_are_those_of_its_derivatives_too(web: Web) -> None:
    file = upload(web, "async", PHOTO, "thumb", "small").json()
    seen = []
    with requests.get(f"{web.url}/files/{file['id']}/events", stream=True, timeout=30) as stream:
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                seen.append((event["id"], event["upload_status"]))
    complete = {file_id for file_id, status in seen if status == "COMPLETE"}
    assert len(complete) == 3
    assert file["id"] in complete


def test_metrics_count_what_was_made(web: Web) -> None:
    made(web, upload(web, "async", PHOTO, "thumb").json()["id"])
    text = requests.get(f"{web.url}/metrics", timeout=20).text
    assert 'ferryman_processed_total{kind="image",outcome="made"}' in text
    assert 'ferryman_processing_cpu_seconds_count{kind="image"}' in text
    assert requests.get(f"{web.url}/status", timeout=20).json()["checks"]["loops"] == "ok"


def test_nothing_stays_in_the_spool(web: Web) -> None:
    made(web, upload(web, "async", PHOTO, "thumb", "small").json()["id"])
    spool = Path(web.env["SPOOL_DIR"])
    wait_for(lambda: {path.name for path in spool.iterdir()} <= {"spool-id", "work"}, 40, "empty spool")
    assert not list((spool / "work").glob("*.*"))


def test_of_an_original_that_fails_nothing_is_made_and_that_is_told(
    s3: S3Server, redis_server: RedisServer, receiver: Receiver, tmp_path: Path
) -> None:
    nobody = {"S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    env = settings(tmp_path, s3, redis_server, receiver, "made/") | nobody
    web = Web(tmp_path, env)
    web.start()
    try:
        web.wait()
        refused = upload(web, "normal", PHOTO, "thumb")
        assert refused.status_code == 502
        file = web.file(refused.json()["file_id"])
    finally:
        web.stop()
    assert (file["upload_status"], file["derivatives_status"]) == ("ERROR", "ERROR")
    [child] = file["derivatives"]
    assert (child["id"], child["error"]) == (None, "The original was not delivered.")


@pytest.mark.parametrize("mode", ["async", "celery"])
def test_with_no_slots_the_workers_make_them(
    s3: S3Server, redis_server: RedisServer, receiver: Receiver, tmp_path: Path, mode: str
) -> None:
    env = settings(tmp_path, s3, redis_server, receiver, f"made-{uuid4().hex}/") | {"PROCESS_SLOTS": "0"}
    web, worker = Web(tmp_path, env), Worker(tmp_path, env)
    try:
        web.start()
        worker.start()
        web.wait()
        worker.wait()
        file = made(web, upload(web, mode, PHOTO, "thumb", "small").json()["id"])
        assert file["derivatives_status"] == "COMPLETE"
    finally:
        worker.stop()
        web.stop()
