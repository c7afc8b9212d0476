"""Requests to the Hugging Face hub through `huggingface_hub`: listings and streams, with retries and clear errors.

The library supplies the address (HF_ENDPOINT), the token (HF_TOKEN, HF_HOME), the offline mode (HF_HUB_OFFLINE), the
timeouts and the HTTP session. Its own `hf_hub_download` is not used, because a transfer that was killed starts over
with it: version 2.4 writes to a temporary file with a random name and deletes it when it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, TypeVar

import msgspec

from bitgolf import __version__
from bitgolf.data.hub.retries import Retries, describe_failure, is_transient, status_of
from bitgolf.data.hub.selection import RemoteFile
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.report.log import RunLog

T = TypeVar("T")


class RepositoryListing(msgspec.Struct, frozen=True):
    """The files of a repository at one commit (40 hexadecimal digits)."""

    repository: str
    commit: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    files: tuple[RemoteFile, ...]


class HubClient:
    """Access to the dataset repositories of the hub.

    wait: sleeps for a number of seconds between attempts. Raises `BitgolfError` if the package `huggingface_hub` is not
    installed, or an environment variable that it reads is invalid.
    """

    def __init__(self, log: RunLog, wait: Callable[[float], object] = time.sleep) -> None:
        self.log, self.wait = log, wait
        try:
            # When it is first needed: the package is optional, and takes long to import.
            self.library, self.errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
            self.api = self.library.HfApi(library_name="bitgolf", library_version=__version__)
        except ImportError as error:
            message = "published shards need the package huggingface_hub"
            raise BitgolfError(message, hint="pip install 'bitgolf[hub]'") from error
        except ValueError as error:
            message = f"huggingface_hub refuses the value of an environment variable ({error})"
            raise UsageError(message, hint="check the variables that start with HF_, such as HF_ENDPOINT") from error

    def retries(self) -> Retries:
        """Return the counter of attempts for one request or transfer."""
        return Retries(self.log, self.wait)

    def list_files(self, repository: str, revision: str | None) -> RepositoryListing:
        """Return the files of a repository at a branch, tag or commit, None for its main branch.

        Raises `UsageError` if there is no such repository or revision, `BitgolfError` if it cannot be reached or read.
        """

        def request() -> Any:
            return self.api.dataset_info(repository, revision=revision, files_metadata=True, timeout=30.0)

        info = self._repeat(request, repository, revision)
        try:
            files = [_remote_file(sibling) for sibling in info.siblings or ()]
            return msgspec.convert({"repository": repository, "commit": info.sha, "files": files}, RepositoryListing)
        except (AttributeError, msgspec.ValidationError) as error:
            raise self._not_a_hub(repository, error) from error

    @contextmanager
    def open_stream(self, repository: str, commit: str, path: str, start: int) -> Iterator[Any]:
        """Yield the response to a GET of a file from byte `start` on: 206 for that part, or 200 for the whole file.

        Redirects are followed; the token is sent to the hub only. Raises the library's errors, see `is_http_error`.
        """
        url = self.library.hf_hub_url(repository, path, repo_type="dataset", revision=commit)
        utils, constants = import_module("huggingface_hub.utils"), import_module("huggingface_hub.constants")
        # Without compression, because a range of bytes is a range of what was sent.
        headers = {**utils.build_hf_headers(library_name="bitgolf"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session, timeout = self.library.get_session(), constants.HF_HUB_DOWNLOAD_TIMEOUT
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            utils.hf_raise_for_status(response)
            yield response

    def is_http_error(self, error: BaseException) -> bool:
        """Whether an exception reports a failed request: a refused or cut connection, or an HTTP status."""
        return isinstance(error, self.errors.HTTPError)

    def _repeat(self, request: Callable[[], T], repository: str, revision: str | None) -> T:
        """Return the result of a request, repeated after transient failures."""
        retries = self.retries()
        while True:
            try:
                return request()
            except (self.errors.HFValidationError, self.errors.OfflineModeIsEnabled) as error:
                raise self.translate(error, repository, revision) from error
            except self.errors.HTTPError as error:
                if not is_transient(error):
                    raise self.translate(error, repository, revision) from error
                retries.after(error, repository)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._not_a_hub(repository, error) from error

    def translate(self, error: Exception, repository: str, revision: str | None, path: str = "") -> BitgolfError:
        """Return the error to show for one of the library that repetition does not mend."""
        errors, where = self.errors, f"{repository}:{path}" if path else repository
        token = "set HF_TOKEN to a token that may read it, after accepting its terms on its page"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return BitgolfError("HF_HUB_OFFLINE is set, so nothing can be fetched", where=where, hint="unset it")
        if isinstance(error, errors.HFValidationError):
            return UsageError(f"not the name of a repository ({error})", where=where, hint="write it as owner/name")
        if isinstance(error, errors.RevisionNotFoundError):
            return UsageError(f"the repository has no revision {revision!r}", where=where, hint="leave out --revision")
        status = status_of(error)
        if isinstance(error, errors.EntryNotFoundError) or (path and status == 404):
            hint = "the server may be a mirror that is behind; unset HF_ENDPOINT, or run the same command again later"
            return BitgolfError(f"the file is listed, but missing at revision {revision}", where=where, hint=hint)
        if isinstance(error, errors.GatedRepoError) or status == 403:
            return BitgolfError("the hub refuses access (403)", where=where, hint=token)
        if status in (401, 404):
            message = f"there is no such public dataset repository ({status})"
            return UsageError(message, where=where, hint=f"check the name; if it is private, {token}")
        hint = f"check the network and the address of the hub, {self.api.endpoint} (HF_ENDPOINT)"
        return BitgolfError(describe_failure(error), where=where, hint=hint)

    def _not_a_hub(self, repository: str, error: Exception) -> BitgolfError:
        message = f"the answer is not a listing of a repository ({type(error).__name__}: {error})"
        hint = f"check that {self.api.endpoint} is a Hugging Face hub or a mirror of it (HF_ENDPOINT)"
        return BitgolfError(message, where=repository, hint=hint)


def _remote_file(sibling: Any) -> dict[str, Any]:
    """Return an entry of the library's listing with the keys of a `RemoteFile`."""
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    return {"path": sibling.rfilename, "size": sibling.size, "sha256": sha256, "blob_sha1": sibling.blob_id or ""}
