"""Objects behind a URL, through fsspec: finding them, telling their versions apart, reading ranges of their bytes.

Every call has its time limits and a few attempts, and every error of a store becomes one of ours here, but for
FileNotFoundError, of which the caller knows what was expected. Credentials and endpoints are those of the process that
reads, as its libraries find them (AWS_PROFILE, AWS_ENDPOINT_URL, a role of the machine): none is ever sent or kept.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from clusterglm.errors import ClusterError, ClusterglmError, DataError, UsageError, quoted

_CONNECT_SECONDS, _READ_SECONDS = 5, 10
_MOST_HELD = 256 * 2**20  # bytes of one object fetched at once
_ATTEMPTS = 2  # of s3fs, each of as many of botocore's
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "modified", "updated", "created"),
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.S)
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"}
_NO_CREDENTIALS |= {"TokenRetrievalError", "UnauthorizedSSOTokenError", "DefaultCredentialsError"}


class Object(NamedTuple):
    """An object as it is now; ``version`` is its ETag or the time of its last change, "" where its store tells none."""

    url: str
    size: int
    version: str


def checked(url: str, option: str = "--data") -> str:
    """Return a URL whose protocol can be read here, the protocol in small letters.

    Raises
    ------
    UsageError
        Not a URL, a protocol that is not known or whose package is not installed, or a password in it.
    """
    found = _URL.fullmatch(url)
    if not found or "\0" in url:
        raise UsageError(option, url, "not a URL: write PROTOCOL://...")
    protocol, host, rest = found[1].lower(), found[2], found[3]
    if ":" in host.rpartition("@")[0]:
        cure = (
            "holds somebody's password; leave it out, and put credentials where the protocol's library looks for them"
        )
        raise UsageError(option, url, cure)
    if not (host + rest).strip("/"):
        raise UsageError(option, url, "names nothing: write BUCKET/KEY or HOST/PATH behind it")
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        cause: Any = error.__cause__ or error
        package = str(cause.name or protocol).partition(".")[0]
        raise UsageError(option, url, f"{protocol}:// needs the package {package}: pip install {package}") from error
    except ValueError as error:
        cure = f"{protocol}:// is not known: a path, or a URL such as s3://BUCKET/KEY"
        raise UsageError(option, url, cure) from error
    return f"{protocol}://{host}{rest}"


def options(url: str) -> dict[str, Any]:
    """Return what keeps fsspec's calls on this URL from taking for ever, and from answering out of their own memory."""
    protocol = url.partition("://")[0]
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        return {"use_listings_cache": False, "config_kwargs": limits | {"retries": {"total_max_attempts": _ATTEMPTS}}}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        return {"use_listings_cache": False, "client_kwargs": {"timeout": limit, "trust_env": True}}
    return {}


def store(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec behind a URL, and the name that it has for it."""
    import fsspec

    with answered(url):
        system, path = fsspec.url_to_fs(url, **options(url))
    if hasattr(system, "retries"):
        system.retries = _ATTEMPTS
    return system, path


@contextmanager
def answered(url: str, verb: str = "read") -> Iterator[None]:
    """Ask a store inside this.

    Raises
    ------
    FileNotFoundError
        Nothing is there.
    ClusterError
        It must not be read (or written: ``verb``), or the store does not answer as it should.
    """
    try:
        yield
    except ClusterglmError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec says so too of web servers that refuse or do not answer
        of_web = isinstance(cause, Exception) and type(cause).__module__.startswith("aiohttp")
        if of_web and getattr(cause, "status", None) not in (404, 410):
            raise refusal(url, cause, verb) from error  # type: ignore[arg-type]
        raise
    except Exception as error:
        raise refusal(url, error, verb) from error


def refusal(url: str, error: Exception, verb: str = "read") -> ClusterError:
    """Return the error that says why a store did not do what was asked of it."""
    status, name, on_s3 = getattr(error, "status", None), type(error).__name__, url.startswith("s3")
    if isinstance(error, PermissionError) or status in (401, 403):
        return ClusterError(quoted(url), status or 403, f"these credentials may not {verb} it")
    if name in _NO_CREDENTIALS:
        cure = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where the workers run"
        return ClusterError(quoted(url), "no credentials", cure if on_s3 else "log in where the workers run")
    lines = str(error).strip().splitlines()
    reason = f"{name}: {lines[0]}" if lines else name
    cure = "no good answer: check the network" + (", AWS_ENDPOINT_URL and AWS_REGION" if on_s3 else " and the URL")
    return ClusterError(quoted(url), reason, cure)


def version_of(info: dict[str, Any]) -> str:
    """Return what a listing or a head says about an object's version, the surest first."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def find(url: str) -> tuple[list[Object], str]:
    """Return the objects that a URL stands for, in no order, and the URL that their names are relative to.

    It is an object, a prefix, whose objects are all taken, or a pattern.

    Raises
    ------
    FileNotFoundError
        No such object, and none under it.
    ClusterError
        See ``answered``.
    """
    system, path = store(url)
    with answered(url):
        system.invalidate_cache()
        try:
            found = system.info(path)
        except FileNotFoundError:
            if not _has_magic(path) or path.startswith("http"):  # whose ? begins a query
                raise
            return _matches(system, path)
        if found["type"] == "file":
            return [_object(system, path, found)], posixpath.dirname(system.unstrip_protocol(path))
        return _below(system, path), system.unstrip_protocol(path).rstrip("/")


def _has_magic(path: str) -> bool:
    return any(letter in path for letter in "*?[")


def _matches(system: Any, path: str) -> tuple[list[Object], str]:
    found: dict[str, Object] = {}
    for name, info in system.glob(path, detail=True).items():
        if not posixpath.basename(name.rstrip("/")).startswith((".", "_")):
            within = [_object(system, name, info)] if info["type"] == "file" else _below(system, name)
            found |= {item.url: item for item in within}
    folders = [posixpath.dirname(item) for item in found]
    return list(found.values()), posixpath.commonpath(folders).replace(":/", "://", 1) if folders else ""


def _below(system: Any, path: str) -> list[Object]:
    found = system.find(path, detail=True)
    return [_object(system, name, info) for name, info in found.items() if not name.endswith("/")]


def _object(system: Any, name: str, info: dict[str, Any]) -> Object:
    if info.get("size") is None:
        raise DataError("--data", system.unstrip_protocol(name), "its server does not tell its size: copy it here")
    return Object(system.unstrip_protocol(name), int(info["size"]), version_of(info))


def now(url: str) -> list[Object]:
    """Return the object behind a URL as it is now, or all those under a prefix. Raises as ``find`` does."""
    system, path = store(url)
    with answered(url):
        system.invalidate_cache()
        found = system.info(path)
        return [_object(system, path, found)] if found["type"] == "file" else _below(system, path)


def read(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes ``start`` to ``stop - 1`` of every range, asked for at once.

    Raises
    ------
    FileNotFoundError, ClusterError
        See ``answered``.
    DataError
        The object is shorter than that.
    """
    wanted = [(start, stop) for start, stop in ranges if stop > start]
    system, path = store(url)
    starts, stops = [start for start, _ in wanted], [stop for _, stop in wanted]
    attempts = 1 if hasattr(system, "retries") else _ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            with answered(url):
                contents = system.cat_ranges([path] * len(wanted), starts, stops, on_error="raise")
            break
        except ClusterError:
            if attempt == attempts:
                raise
    found = dict(zip(wanted, contents, strict=True))
    for (start, stop), data in found.items():
        if len(data) < stop - start:
            raise DataError(quoted(posixpath.basename(url)), "cut short", "start again when it is complete")
        if len(data) > stop - start:
            raise ClusterError(quoted(url), "no ranges of bytes", "its server sends whole files only: copy it here")
    return [found.get((start, stop), b"") for start, stop in ranges]


class RangedFile(io.RawIOBase):
    """An object as a file to read: what is held is here already, anything else is fetched when it is asked for."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.place = url, size, 0
        self.held: dict[tuple[int, int], bytes] = {}

    def hold(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch these ranges of bytes, and forget those held before; too much for a worker's memory is left out."""
        self.held = {}
        if sum(stop - start for start, stop in ranges) <= _MOST_HELD:
            self.held = dict(zip(ranges, read(self.url, ranges), strict=True))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self.place + size, self.size)
        data = self._bytes(self.place, stop)
        self.place += len(data)
        return data

    def _bytes(self, start: int, stop: int) -> bytes:
        for (first, last), data in self.held.items():
            if first <= start and stop <= last:
                return data[start - first : stop - first]
        return read(self.url, [(start, stop)])[0]
