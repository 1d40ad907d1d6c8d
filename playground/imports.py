"""Models from a bucket: s3://bucket/prefix, read through s3fs with the team's own credentials.

The list and the small files are judged before a byte of the weights comes. Each object is then read in
ranges, as long as it is still the one that was listed, and goes on after a break. The credentials are the
team's secret "s3"; those of the machine are never used. What has come is judged and named by `landing`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from playground import disk, jobs, landing, safety, secrets, uploads, weights
from playground.jobs import JobFailed, Work
from playground.models import Job, Team, Upload, User
from playground.work import Cancelled

if TYPE_CHECKING:
    from s3fs import S3FileSystem

SECRET = "s3"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
PIECE = 16 << 20
MAX_CONFIG = 16 << 20
# Stores with an address of their own seldom have a host name a bucket.
PATHS = {"addressing_style": "path"}
# What was listed when the files of a folder were fetched.
LISTED = ".objects.json"
PLAIN_ETAG = re.compile(r"[0-9a-f]{32}")


class ImportRefused(Exception):
    """This cannot be imported; `fields` say why, by the field of the form."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


@dataclass(frozen=True)
class Credentials:
    """What opens a team's buckets. `endpoint` is empty for AWS itself."""

    key: str
    secret: str
    endpoint: str = ""
    region: str = ""


@dataclass(frozen=True)
class Object:
    """One object of the listing: `name` below the prefix, `key` in the bucket."""

    name: str
    key: str
    size: int
    etag: str


def split(address: str) -> tuple[str, str]:
    """ "s3://bucket/some/prefix/" → ("bucket", "some/prefix"). ImportRefused when it is no such address."""
    scheme, _, rest = address.strip().partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    odd = any(part in ("", ".", "..") for part in prefix.split("/")) if prefix else False
    if scheme != "s3" or not BUCKET.fullmatch(bucket) or odd or len(prefix) > 900 or not prefix.isprintable():
        raise ImportRefused({"address": "An address looks like s3://bucket/folder/of/the-model."})
    return bucket, prefix


def keep_credentials(team: Team, user: User, given: Credentials) -> None:
    """Encrypt them as the team's; the ones before are gone."""
    wrong = {}
    if not given.key.strip() or not given.secret.strip():
        wrong["key"] = "Both the access key and the secret key."
    if given.endpoint and not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", given.endpoint, re.ASCII):
        wrong["endpoint"] = "An address like https://minio.example:9000, or nothing for AWS."
    if given.region and not re.fullmatch(r"[a-z0-9-]{1,40}", given.region):
        wrong["region"] = "A name like eu-central-1, or nothing."
    if wrong:
        raise ImportRefused(wrong)
    value = {"secret": given.secret, "endpoint": given.endpoint, "region": given.region}
    # The access key last: people tell credentials apart by its last letters.
    secrets.keep(team, SECRET, f"{json.dumps(value)}\n{given.key}", user)


def credentials(team: Team) -> Credentials | None:
    """The team's, decrypted; None when it has none."""
    value, _, key = secrets.reveal(team, SECRET).partition("\n")
    return Credentials(key, **json.loads(value)) if value else None


def request(team: Team, user: User, address: str, name: str) -> Job:
    """Ask for the model at that address under that name. ImportRefused or LandingRefused with why not."""
    bucket, prefix = split(address)
    name = name.strip() or (prefix.rpartition("/")[2] or bucket).removesuffix(".gguf")
    try:
        landing.check_name(name)
    except landing.LandingRefused as problem:
        raise ImportRefused({"name": str(problem)}) from problem
    if Upload.objects.filter(team=team, name=name).exists():
        raise ImportRefused(
            {"name": f"An upload is called {name}: end or remove it, or choose another name."}
        )
    arguments = {"address": f"s3://{bucket}/{prefix}", "name": name}
    target = landing.target(team.pk, name)
    job = jobs.request(Job.Kind.IMPORT_MODEL, landing.node(), target, arguments, team, user)
    if job.arguments != arguments:
        raise ImportRefused({"name": f"{name} is being imported from elsewhere: choose another name."})
    return job


def run(work: Work) -> dict[str, Any]:
    """Job: land an upload that is whole, or fetch a model from a bucket."""
    given, team = work.job.arguments, work.job.team
    if "upload" in given:
        return uploads.settle(work, team, given["upload"])
    try:
        return _fetch(work, team, given["address"], given["name"])
    except Cancelled:
        landing.clear(team.pk, given["name"])
        raise


def _fetch(work: Work, team: Team, address: str, name: str) -> dict[str, Any]:
    bucket, prefix = split(address)
    if not landing.has_landed(team, name):
        _gather(work, team, bucket, prefix, name)
    model = landing.land(work, team, name, {"how": "s3", "address": address})
    return {"model": model.pk}


def _gather(work: Work, team: Team, bucket: str, prefix: str, name: str) -> None:
    """Bring what is not here yet."""
    work.progress("asking the bucket")
    with _explained(bucket):
        source = _connect(credentials(team))
        objects = _listing(source, bucket, prefix)
        wanted = _judged(source, bucket, objects)
        _forget_changed(landing.folder(team.pk, name), wanted)
        done, total = 0, sum(one.size for one in wanted)
        for one in wanted:
            _check_room(team, name, wanted)
            _bring(work, source, bucket, one, landing.folder(team.pk, name), done, total)
            done += one.size


def _connect(given: Credentials | None) -> "S3FileSystem":
    """Without credentials only public buckets open: this machine's own are nobody's business."""
    from s3fs import S3FileSystem

    given = given or Credentials("", "")
    retries = {"max_attempts": 2, "mode": "standard"}
    timeouts = {"connect_timeout": settings.HUB_TIMEOUT_S, "read_timeout": settings.DOWNLOAD_SILENCE_S}
    return S3FileSystem(
        anon=not given.key,
        key=given.key or None,
        secret=given.secret or None,
        endpoint_url=given.endpoint or None,
        client_kwargs={"region_name": given.region} if given.region else {},
        config_kwargs={"retries": retries, **timeouts, **({"s3": PATHS} if given.endpoint else {})},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _listing(source: "S3FileSystem", bucket: str, prefix: str) -> list[Object]:
    """What lies below the prefix, or the one object of that name."""
    root = f"{prefix}/" if prefix else ""
    objects = [
        _object(str(one["Key"]).removeprefix(root), one)
        for one in _keys(source, bucket, root)
        if one["Size"] and not str(one["Key"]).endswith("/")
    ]
    if not objects and prefix:
        told = source.call_s3("head_object", Bucket=bucket, Key=prefix)
        one = {"Key": prefix, "Size": told["ContentLength"], "ETag": told["ETag"]}
        objects = [_object(prefix.rpartition("/")[2], one)]
    if not objects:
        raise JobFailed(f"s3://{bucket}/{prefix} is empty: look at the folder's name.")
    return objects


def _keys(source: "S3FileSystem", bucket: str, root: str) -> list[dict[str, Any]]:
    """The objects whose keys begin so. JobFailed where they are more than any model has."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        page = source.call_s3("list_objects_v2", Bucket=bucket, Prefix=root, **more)
        found += page.get("Contents", [])
        if len(found) > safety.MAX_FILES:
            raise JobFailed(
                f"s3://{bucket}/{root} has more than {safety.MAX_FILES} objects: name one model's folder."
            )
        if not page.get("IsTruncated"):
            return found
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _object(name: str, told: dict[str, Any]) -> Object:
    return Object(name, str(told["Key"]), int(told["Size"]), str(told.get("ETag", "")).strip('"'))


def _judged(source: "S3FileSystem", bucket: str, objects: list[Object]) -> list[Object]:
    """The objects worth fetching. JobFailed with the reason when the model may not be loaded."""
    configs = {one.name: _config(source, bucket, one) for one in objects if safety.is_config(one.name)}
    judgement = safety.judge_listing([one.name for one in objects], configs)
    if judgement.refused:
        raise JobFailed(judgement.refused)
    wanted = [one for one in objects if one.name not in judgement.left_out]
    if not any(one.name.endswith((".safetensors", ".gguf")) for one in wanted):
        raise JobFailed("It has no weights as safetensors or GGUF, which are what engines here load.")
    return wanted


def _config(source: "S3FileSystem", bucket: str, one: Object) -> Any:
    if one.size > MAX_CONFIG:
        raise JobFailed(f"{one.name} is too large for a configuration.")
    text = _range(source, bucket, one, 0, one.size).decode(errors="replace")
    if one.name.endswith(".jinja"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise JobFailed(f"{one.name} is no sound JSON.") from problem


def _forget_changed(folder: Path, wanted: list[Object]) -> None:
    """Throw away what an earlier attempt fetched of objects that are others now."""
    listed = folder / LISTED
    before = json.loads(listed.read_text()) if listed.exists() else {}
    now = {one.name: one.etag for one in wanted}
    for name in before:
        if before[name] != now.get(name):
            (folder / name).unlink(missing_ok=True)
            _part(folder / name, before[name]).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    listed.write_text(json.dumps(now))


def _part(path: Path, etag: str) -> Path:
    return path.with_name(f".{path.name}.{hashlib.sha256(etag.encode()).hexdigest()[:12]}.part")


def _check_room(team: Team, name: str, wanted: list[Object]) -> None:
    here = weights.bytes_below(landing.folder(team.pk, name))
    try:
        landing.check_room(team, max(sum(one.size for one in wanted) - here, 0))
    except landing.LandingRefused as problem:
        raise JobFailed(str(problem)) from problem


def _bring(
    work: Work, source: "S3FileSystem", bucket: str, one: Object, folder: Path, before: int, total: int
) -> None:
    """One object, from where an earlier attempt left it; named once its hash is right."""
    path = folder / one.name
    if path.exists():
        return
    part = _part(path, one.etag)
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with part.open("ab") as file:
        while (done := file.tell()) < one.size:
            work.progress("downloading", before + done, total, "bytes")
            disk.brake(path, min(PIECE, one.size - done))
            file.write(_patiently(work, source, bucket, one, done))
    if PLAIN_ETAG.fullmatch(one.etag) and not _encrypted(source, bucket, one) and _md5(part) != one.etag:
        part.unlink()
        raise JobFailed(f"{one.name} did not come as the bucket has it: it was thrown away. Try again.")
    part.rename(path)


def _patiently(work: Work, source: "S3FileSystem", bucket: str, one: Object, start: int) -> bytes:
    """The piece that begins at `start`; a connection that breaks is tried again, each time a little later."""
    from botocore.exceptions import HTTPClientError

    waits = list(settings.DOWNLOAD_RETRY_S)
    while True:
        try:
            return _range(source, bucket, one, start, min(start + PIECE, one.size))
        except (ConnectionError, TimeoutError, HTTPClientError) as problem:
            work.note(f"{one.name} at {start}: {_first_line(problem)}")
            if not waits:
                raise
            work.wait(waits.pop(0))


def _range(source: "S3FileSystem", bucket: str, one: Object, start: int, end: int) -> bytes:
    """Some bytes of an object that is still the one that was listed."""
    if start == end:
        return b""
    got: bytes = _call(source, bucket, one, start, end)
    if len(got) != end - start:
        raise ConnectionError(f"{one.name} was cut short on its way.")
    return got


def _call(source: "S3FileSystem", bucket: str, one: Object, start: int, end: int) -> bytes:
    import aiohttp
    from fsspec.asyn import sync

    async def read() -> bytes:
        answer = await source._call_s3(
            "get_object",
            Bucket=bucket,
            Key=one.key,
            Range=f"bytes={start}-{end - 1}",
            IfMatch=f'"{one.etag}"',
        )
        try:
            async with answer["Body"] as body:
                whole: bytes = await body.read()
                return whole
        except aiohttp.ClientError as problem:
            raise ConnectionError("The connection broke.") from problem

    read_now: bytes = sync(source.loop, read)
    return read_now


def _encrypted(source: "S3FileSystem", bucket: str, one: Object) -> bool:
    """Whether the server keeps it under a key of its own: its tag is then no hash of the contents."""
    told = source.call_s3("head_object", Bucket=bucket, Key=one.key)
    return str(told.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in told


def _md5(path: Path) -> str:
    whole = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(PIECE):
            whole.update(block)
    return whole.hexdigest()


@contextmanager
def _explained(bucket: str) -> Iterator[None]:
    """What the store or the way to it raises, in words that name the next step."""
    from botocore.exceptions import BotoCoreError, EndpointConnectionError

    try:
        yield
    except secrets.Unreadable as problem:
        raise JobFailed(str(problem)) from problem
    except disk.DiskFull as problem:
        raise JobFailed(str(problem)) from problem
    except PermissionError as problem:
        raise JobFailed(
            f"The bucket {bucket} refused the team's credentials: an administrator enters others on Models."
        ) from problem
    except FileNotFoundError as problem:
        raise JobFailed(f"There is no bucket {bucket}, or nothing of that name in it.") from problem
    except EndpointConnectionError as problem:
        raise JobFailed("The store cannot be reached from this machine: look at its address.") from problem
    except (BotoCoreError, OSError, TimeoutError) as problem:
        raise JobFailed(f"The store broke off: {_first_line(problem)} Try again: it goes on.") from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:200]
