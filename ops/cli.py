"""The commands of `flask`: for the operator, and the client's `upload` and `watch`."""

from __future__ import annotations

import time
from datetime import timedelta

import click
from flask import Flask
from flask.cli import with_appcontext

from access import keys
from core.errors import StoreError
from core.services import services
from events import webhooks
from ferryman.cli import upload, watch
from intake.direct import rows as direct_rows
from intake.direct.outcome import refuse
from intake.upload_rows import AnyRow
from intake.uploads import rows as upload_rows
from intake.uploads.turns import end
from ops import doctor, walls_doctor
from ops.plain_errors import PlainCommand, PlainGroup
from ops.reconcile import Finding, comparisons
from storage import bucket
from storage.store import Store

NOT_MENDED = "not mended"
OTHER_MODES = ("readback", "auto", "crc64nvme")


def init_app(app: Flask) -> None:
    """Add the commands to `flask`."""
    for command in (
        create_bucket,
        set_lifecycle,
        set_cors,
        s3_doctor,
        processing_doctor,
        reconcile,
        key_commands,
        hooks,
        upload_commands,
        upload,
        watch,
    ):
        app.cli.add_command(command)


@click.command("create-bucket", cls=PlainCommand)
@click.option("--public-read", is_flag=True, help="Let everyone read its objects.")
@click.option("--cors", is_flag=True, help="Let pages read links to it, as set-cors does.")
@click.option("--wait", default=0.0, metavar="SECONDS", help="Keep trying for so long.")
@with_appcontext
def create_bucket(public_read: bool, cors: bool, wait: float) -> None:
    """Create the bucket, unless it exists."""
    ferry = services()
    deadline = time.monotonic() + wait
    while True:
        try:
            bucket.make(ferry.store, ferry.config.AWS_REGION, public_read)
            if cors:
                bucket.set_cors(ferry.store, ferry.config.bucket_origins)
            return
        except StoreError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


@click.command("set-lifecycle", cls=PlainCommand)
@click.option("--days", default=7, show_default=True, type=click.IntRange(1), help="Age of the abandoned.")
@with_appcontext
def set_lifecycle(days: int) -> None:
    """Let S3 abort abandoned multipart uploads."""
    ferry = services()
    bucket.set_lifecycle(ferry.store, ferry.config.S3_KEY_PREFIX, days)


@click.command("set-cors", cls=PlainCommand)
@with_appcontext
def set_cors() -> None:
    """Let pages read links to the bucket, and those of CORS_ORIGINS and PUBLIC_URL send bytes there."""
    ferry = services()
    bucket.set_cors(ferry.store, ferry.config.bucket_origins)


@click.command("s3-doctor", cls=PlainCommand)
@with_appcontext
def s3_doctor() -> None:
    """Test the bucket, and if the configured S3_CHECKSUM_MODE is safe there."""
    config, store = services().config, services().store
    running = config.S3_CHECKSUM_MODE
    bucket.check(store)
    style = "default" if config.addressing_style == "auto" else config.addressing_style
    click.echo(f"Bucket {config.S3_BUCKET_NAME}, region {config.AWS_REGION}, {style} addressing")
    probes = _examine(store, running)
    if not _is_safe(probes):
        stores = {mode: doctor.in_mode(config, mode) for mode in OTHER_MODES if mode != running}
        safe = next((mode for mode, other in stores.items() if _is_safe(_examine(other, mode))), None)
        advice = f"You run {running}: set S3_CHECKSUM_MODE={safe}." if safe else "No mode is safe with this store."
        raise click.ClickException(advice)
    for probe in doctor.conveniences(store, config.S3_KEY_PREFIX):
        _show(probe)
    if config.takes_direct:
        click.echo("Direct uploads")
        for probe in doctor.direct(services().door, config.bucket_origins):
            _show(probe)
    given_up = [probe.reason for probe in probes if not probe.passed]
    left_out = [f"{header} is left out" for header in store.features.left_out()]
    click.echo("; ".join(dict.fromkeys([f"Safe: S3_CHECKSUM_MODE={running}", *given_up, *left_out])))


@click.command("processing-doctor", cls=PlainCommand)
@with_appcontext
def processing_doctor() -> None:
    """Tell what can be made of files here, and which walls stand around what makes it."""
    names = services().presets.by_name
    click.echo(f"Presets: {', '.join(names) or 'none, since PRESETS_FILE names no file'}")
    for probe in walls_doctor.examine(services().config):
        _show(probe)


def _examine(store: Store, mode: str) -> list[doctor.Probe]:
    """Test a mode, and print the results."""
    click.echo(f"S3_CHECKSUM_MODE={mode}")
    probes = []
    for probe in doctor.integrity(store, services().config.S3_KEY_PREFIX):
        probes.append(probe)
        _show(probe)
    if mode == "auto":
        click.echo(f"  here {store.features.summary()}")
    return probes


def _is_safe(probes: list[doctor.Probe]) -> bool:
    return all(probe.passed for probe in probes if probe.is_needed)


def _show(probe: doctor.Probe) -> None:
    answer = "yes" if probe.passed else "NO" if probe.is_needed else "no"
    click.echo(f"  {answer:3}  {probe.question}{': ' if probe.reason else ''}{probe.reason}")


@click.command("reconcile", cls=PlainCommand)
@click.option("--apply", is_flag=True, help="Mend what can be mended, instead of only reporting it.")
@click.option("--grace", default=3600, show_default=True, metavar="SECONDS", help="Leave alone what is younger.")
@with_appcontext
def reconcile(apply: bool, grace: int) -> None:
    """Report where spool, database and bucket disagree."""
    count, failed = 0, False
    for name, found in comparisons(timedelta(seconds=grace)).items():
        try:
            for finding in found:
                count += 1
                outcome = _outcome(finding, apply)
                failed |= outcome.startswith(NOT_MENDED)
                click.echo(f"{finding.kind}: {finding.name} ({outcome})")
        except StoreError as error:
            failed = True
            click.echo(f"{name} cannot be listed here: {error.detail}", err=True)
    click.echo(f"{count} found.")
    if failed:
        raise click.exceptions.Exit(1)


def _outcome(finding: Finding, apply: bool) -> str:
    """Repair a finding, if requested and possible. Returns the outcome."""
    if finding.mend is None:
        return "look at it"
    if not apply:
        return "would be mended by --apply"
    try:
        finding.mend()
    except StoreError as error:
        return f"{NOT_MENDED}: {error.detail}"
    return "mended"


key_commands = PlainGroup("keys", help="API keys: who may use the service.")


@key_commands.command("create")
@click.argument("name")
@click.option("--metrics", is_flag=True, help="Let it read /metrics, and nothing else.")
def create_key(name: str, metrics: bool) -> None:
    """Create a key for NAME and print it once. All keys of one name see the same files."""
    try:
        click.echo(keys.create_key(name, keys.METRICS if metrics else keys.FILES))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@key_commands.command("list")
def list_keys() -> None:
    """List the keys by id, without their secrets."""
    for key in keys.all_keys():
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "live"
        click.echo(f"{key.id}  {key.created_at:%Y-%m-%d}  {state:18}  {key.role:7}  {key.owner}")


@key_commands.command("revoke")
@click.argument("key_id", metavar="ID")
def revoke_key(key_id: str) -> None:
    """Revoke a key. ID is its id in `list`, or the middle part of the key."""
    if not keys.revoke_key(key_id):
        raise click.ClickException("There is no live key with this id.")


hooks = PlainGroup("webhooks", help="Messages about files to WEBHOOK_URL.")


@hooks.command("list")
@click.option("--failed", is_flag=True, help="Only those whose last attempt failed.")
def list_webhooks(failed: bool) -> None:
    """List the messages of the last week with their state, oldest first."""
    for message in webhooks.log(failed):
        click.echo(
            f"{message.id}  {message.created_at:%Y-%m-%dT%H:%M:%SZ}  {message.type:13}  {message.file_id}"
            f"  {message.attempts:2}  {webhooks.state(message):9}  {message.last_error or ''}".rstrip()
        )


@hooks.command("redeliver")
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option("--failed", is_flag=True, help="All whose last attempt failed.")
def redeliver_webhooks(ids: tuple[str, ...], failed: bool) -> None:
    """Send messages again, with all their attempts. ID is the id in `list`."""
    if bool(ids) == failed:
        raise click.UsageError("Name messages by their ID, or take all with --failed.")
    wanted = [message.id for message in webhooks.log(failed=True)] if failed else ids
    unknown = [message_id for message_id in wanted if not webhooks.redeliver(message_id)]
    click.echo(f"{len(wanted) - len(unknown)} will be sent again.")
    if unknown:
        raise click.ClickException(f"There is no message {', '.join(unknown)}.")


upload_commands = PlainGroup("uploads", help="Resumable and direct uploads in progress.")


@upload_commands.command("list")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many, at most.")
def list_uploads(limit: int) -> None:
    """List the uploads in progress, those first that expire first."""
    for row in upload_rows.unfinished(limit):
        _show_upload(row, f"{row.way:4}  {row.mode:6}  {row.offset}/{'?' if row.length is None else row.length}")
    for row in direct_rows.unfinished(limit):
        _show_upload(row, f"{row.kind:5}  direct  {'?' if row.size is None else row.size}")
    count, here = upload_rows.totals()
    click.echo(f"{count} in progress, with {here} bytes here; {direct_rows.count()} direct ones.")


def _show_upload(row: AnyRow, about: str) -> None:
    click.echo(f"{row.id}  {about} bytes  until {row.expires_at:%Y-%m-%dT%H:%M:%SZ}  {row.owner}")


@upload_commands.command("expire")
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="All uploads in progress.")
def expire_uploads(ids: tuple[str, ...], everyone: bool) -> None:
    """End uploads in progress; what is here of them is removed, and their clients begin anew."""
    if bool(ids) == everyone:
        raise click.UsageError("Name uploads by their ID, or take all with --all.")
    wanted = _unfinished_ids() if everyone else ids
    ended = [upload_id for upload_id in wanted if end(upload_id) or _end_direct(upload_id)]
    click.echo(f"{len(ended)} ended.")
    if unknown := sorted(set(wanted) - set(ended)):
        raise click.ClickException(f"There is no upload in progress {', '.join(unknown)}.")


def _unfinished_ids() -> list[str]:
    found = (*upload_rows.unfinished(upload_rows.totals()[0]), *direct_rows.unfinished(direct_rows.count()))
    return [row.id for row in found]


def _end_direct(upload_id: str) -> bool:
    row = direct_rows.find(upload_id)
    return row is not None and refuse(row)
