"""Another process of a group as the first one sees it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from bitgolf.files import write_json
from bitgolf.runtime.hosts.channel import ANY, Channel, Failed, Hello, Missing, Provide
from bitgolf.runtime.hosts.inputs import HostInputs
from bitgolf.runtime.hosts.outcome import lost
from bitgolf.runtime.job_files import JOB, error_from, moved_job

JOB_FILES = (".npy", ".py")
"""Suffixes of the files of a job besides `job.json`: arrays, and code files of the user."""


class GroupMember:
    """Another process of the group of `size`. replies: its answers; None when the connection has ended."""

    def __init__(self, channel: Channel, hello: Hello, size: int) -> None:
        self.channel, self.hello, self._size = channel, hello, size
        self.replies = SimpleQueue[ANY | None]()

    @property
    def place(self) -> str:
        """The host, for messages; "" if it is that of the first process."""
        return f"host {self.hello.host} ({self.hello.name})" if self.hello.host else ""

    def ask(self, question: ANY) -> ANY:
        """Send a message and wait for the answer, without a time limit.

        Raises the error that the other process reports, and `BitgolfError` if it has ended.
        """
        with suppress(EOFError):
            self.channel.send(question)
        answer = self.replies.get()
        if isinstance(answer, Failed):
            error = error_from(answer.error)
            error.message = f"{self.place}: {error.message}" if self.place else error.message
            raise error
        if answer is None:
            self.replies.put(None)
            raise lost(self.hello.rank, self._size, self.place)
        return answer

    def provide(self, folder: Path, inputs: HostInputs) -> str:
        """Send the host what it does not have of the job in a folder, and of the files that the job reads.

        Returns the folder of the job on that host.
        """
        missing = self.ask(Provide(inputs))
        assert isinstance(missing, Missing)
        moved = folder / f"host-{self.hello.host}.json"
        write_json(moved, moved_job(folder, Path(inputs.folder), missing.folder))
        files = {name: Path(inputs.folder, name) for name in missing.names}
        files |= {f"{folder.name}/{path.name}": path for path in folder.iterdir() if path.suffix in JOB_FILES}
        with suppress(EOFError):  # the next question finds that the process has ended
            for name, path in {**files, f"{folder.name}/{JOB}": moved}.items():
                self.channel.send_file(name, path)
        self.ask(Provide(HostInputs()))  # answered when all files are written
        return str(Path(missing.folder) / folder.name)
