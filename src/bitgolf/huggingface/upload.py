"""Upload of a folder to a model repository of the Hugging Face hub. Needs the extra `hub`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from bitgolf import __version__
from bitgolf.errors import BitgolfError, UsageError

_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)


class ModelRepository:
    """A model repository of the hub, which need not exist yet.

    Address, token and offline mode are those of `huggingface_hub` and its environment variables. Raises `UsageError` if
    the name is not OWNER/NAME, the package is missing, or there is no token, before anything is sent.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name) or len(name) > 96:
            raise UsageError(f"expected the name of a repository as OWNER/NAME, got {name!r:.200}", where="--push")
        try:
            self._library: Any = import_module("huggingface_hub")
            self._errors: Any = import_module("huggingface_hub.errors")
            self._api = self._library.HfApi(library_name="bitgolf", library_version=__version__)
        except ImportError as error:
            hint = "pip install 'bitgolf[hub]', or leave --push out"
            raise UsageError("it needs the package huggingface_hub", where="--push", hint=hint) from error
        except ValueError as error:
            message = f"huggingface_hub refuses the value of an environment variable ({error})"
            raise UsageError(message, hint="check the variables that start with HF_, such as HF_ENDPOINT") from error
        if not self._library.get_token():
            hint = "set HF_TOKEN to a token that may write, or run `hf auth login`"
            raise UsageError("there is no token for the hub", where="--push", hint=hint)
        self.name = name

    def push(self, folder: Path, *, private: bool) -> str:
        """Create the repository if it does not exist, and commit all files of a folder; returns the commit's address.

        Files of the repository that the folder does not have stay. Raises `BitgolfError` if the hub cannot be reached or
        refuses.
        """
        errors = self._errors
        try:
            self._api.create_repo(self.name, private=private or None, exist_ok=True)
            with self._no_progress_bars():
                commit = self._api.upload_folder(
                    repo_id=self.name, folder_path=folder, commit_message=f"Model packed by bitgolf {__version__}"
                )
        except errors.OfflineModeIsEnabled as error:
            message = "HF_HUB_OFFLINE is set, so nothing can be sent"
            raise BitgolfError(message, where=self.name, hint="unset it") from error
        except (errors.HTTPError, errors.HfHubHTTPError, ValueError, OSError, RuntimeError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            message = (
                f"the hub refuses ({status})" if status else f"the upload failed ({' '.join(str(error).split()):.200})"
            )
            hint = (
                "set HF_TOKEN to a token that may write to this repository"
                if status in (401, 403, 404)
                else f"the folder {folder} is complete: `hf upload {self.name} {folder}` sends it again"
            )
            raise BitgolfError(message, where=self.name, hint=hint) from error
        return str(commit.commit_url)

    @contextmanager
    def _no_progress_bars(self) -> Iterator[None]:
        """Those of the library would be between the lines of this program."""
        utils: Any = import_module("huggingface_hub.utils")
        if utils.are_progress_bars_disabled():
            yield
            return
        utils.disable_progress_bars()
        try:
            yield
        finally:
            utils.enable_progress_bars()
