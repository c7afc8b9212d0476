"""A group of processes as its first one sees it: it runs jobs on all of them."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from torch.distributed import TCPStore

from bitgolf.errors import BitgolfError, Interrupted, UsageError
from bitgolf.report.display import current_display
from bitgolf.runtime.hosts.channel import (
    Exists,
    Finished,
    Found,
    Provide,
    Signalled,
    Start,
    Stop,
    WorkerEnded,
)
from bitgolf.runtime.hosts.inputs import HostInputs
from bitgolf.runtime.hosts.members import GroupMember
from bitgolf.runtime.hosts.outcome import Outcome, ended_worker, lost
from bitgolf.runtime.hosts.place import Place
from bitgolf.runtime.hosts.workers import device_number, start_worker
from bitgolf.runtime.job_files import write_error
from bitgolf.runtime.signals import signals_to
from bitgolf.runtime.worker_process import Ended, WorkerProcess

Answer = TypeVar("Answer")
SETTLE_SECONDS = 5.0
"""After a failure without a stated cause: time for a worker to report the cause."""
STOP_SECONDS = 30.0
"""After a signal: time for the workers to save their state. torchrun allows as much."""
FINISH_SECONDS = 10.0


class Lost(NamedTuple):
    """The process of this rank has ended without a message."""

    rank: int


Event = WorkerEnded | Signalled | Lost


class Group:
    """The processes of a group. Only the main thread of the first process calls the methods of this class, `terminate` apart.

    members: the other processes, by rank. failure: why the command cannot go on: another process has ended or has
    received a signal. It is set while no job runs, when the main thread receives an interrupt.
    """

    def __init__(self, place: Place, members: Mapping[int, GroupMember]) -> None:
        self.place, self.members = place, dict(sorted(members.items()))
        self.failure: BitgolfError | None = None
        self._events, self._running = SimpleQueue[Event](), False
        self._main = threading.get_ident()
        for member in self.members.values():
            threading.Thread(target=self._listen, args=(member,), daemon=True).start()

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.place.size

    def check_devices(self, kind: str) -> None:
        """Raise `UsageError` if a process sees GPUs and another one does not. kind: of device, "cuda" or another one."""
        for member in self.members.values():
            if (member.hello.gpus > 0) != (kind == "cuda"):
                others = f"process {member.hello.rank} of {self.size} on {member.place or 'this host'}"
                have = "sees GPUs, and the first process none" if member.hello.gpus else "sees no GPU"
                raise UsageError(f"{others} {have}", where="--device", hint="--device cpu uses no GPU on any host")

    @property
    def local_size(self) -> int:
        """Number of processes on the host of the first one."""
        return 1 + sum(member.hello.host == self.place.host for member in self.members.values())

    @property
    def host_count(self) -> int:
        """Number of hosts."""
        return 1 + len(self._other_hosts())

    def run(self, folder: Path, inputs: Callable[[], HostInputs]) -> Ended:
        """Run the job in a folder, one worker for each process.

        The error that ended it is written to the folder, as a worker would. inputs: returns the files that it reads.
        """
        self._running = True
        try:
            if self.failure:
                raise self.failure
            folders = self._provide(folder, inputs)
            server = TCPStore("localhost", 0, None, True, wait_for_workers=False)  # the workers meet here
            for member in self.members.values():
                with suppress(EOFError):  # the end of a process is an event
                    member.channel.send(Start(folders.get(member.hello.host, str(folder)), server.port))
            return self._collect(folder, server.port)
        finally:
            self._running = False

    def terminate(self) -> None:
        """End the workers of a job as SIGTERM does. Any thread may call it."""
        self._events.put(Signalled(signal.SIGTERM))

    def finish(self, status: int) -> None:
        """Tell the others that the command has ended, and wait until they have, so that they can read it."""
        self._running = True  # from here on, their ends are no failures
        deadline = time.monotonic() + FINISH_SECONDS
        for member in self.members.values():
            with suppress(EOFError):
                member.channel.send(Finished(status))
        for member in self.members.values():
            with suppress(Empty):
                while member.replies.get(timeout=max(0.0, deadline - time.monotonic())) is not None:
                    pass
            member.channel.close()

    def _other_hosts(self) -> list[GroupMember]:
        """The first process of each other host."""
        return [m for m in self.members.values() if m.hello.leads and m.hello.host != self.place.host]

    def hosts_with(self, path: Path) -> list[str]:
        """The other hosts that have a file at this path, for messages."""
        answers = [(member.place, member.ask(Exists(str(path)))) for member in self._other_hosts()]
        return [place for place, answer in answers if isinstance(answer, Found) and answer.found]

    # ---- the files of a job ----------------------------------------------------------------------------------------

    def _provide(self, folder: Path, inputs: Callable[[], HostInputs]) -> dict[int, str]:
        """Send each other host the files of a job that it does not have. Returns host -> its folder of the job."""
        return self._on_hosts(inputs, lambda member, wanted: member.provide(folder, wanted))

    def check(self, inputs: Callable[[], HostInputs]) -> None:
        """Raise `BitgolfError` if another host cannot have these files; nothing is copied yet."""
        self._on_hosts(inputs, lambda member, wanted: member.ask(Provide(wanted)))

    def _on_hosts(
        self, inputs: Callable[[], HostInputs], ask: Callable[[GroupMember, HostInputs], Answer]
    ) -> dict[int, Answer]:
        """Ask all other hosts side by side. Raises the error of the first one that has one."""
        leaders = self._other_hosts()
        if not leaders:
            return {}
        wanted = inputs()
        with ThreadPoolExecutor(len(leaders)) as threads:
            answers = [threads.submit(ask, member, wanted) for member in leaders]
            return {member.hello.host: answer.result() for member, answer in zip(leaders, answers, strict=True)}

    # ---- its workers -----------------------------------------------------------------------------------------------

    def _collect(self, folder: Path, port: int) -> Ended:
        """Start this process's worker, and wait until all workers have ended; one that fails ends the others."""
        outcome = Outcome({0: ""} | {rank: member.place for rank, member in self.members.items()})
        own, printed = start_worker(self.place, folder, port), list[str]()

        def await_own() -> None:
            status, lines = own.wait()
            printed.extend(lines)
            self._events.put(ended_worker(0, folder, status, lines))

        threading.Thread(target=await_own, daemon=True).start()
        with signals_to(lambda number: self._events.put(Signalled(number))):
            signalled = self._await_all(outcome, own)
        if outcome.status and not signalled:
            self._explain(outcome, folder)
        return Ended(outcome.status, signalled, printed)

    def _await_all(self, outcome: Outcome, own: WorkerProcess) -> bool:
        """Wait until all workers have ended; one that fails ends the others. Returns whether a signal was received."""
        signalled, deadline, killed = False, math.inf, False
        while not outcome.complete:
            event = self._next_event(deadline)
            if event is None and killed:
                break  # a process that does not answer
            if event is None:
                killed, deadline = True, time.monotonic() + FINISH_SECONDS
                outcome.close()
                self._stop(own, signal.SIGKILL)
            elif isinstance(event, Signalled):
                signalled, deadline = True, min(deadline, time.monotonic() + STOP_SECONDS)
                self._stop(own, event.number)
            elif isinstance(event, Lost):
                outcome.lose(event.rank)
            else:
                outcome.add(event)
            if outcome.status and not signalled and not killed:
                wait = 0.0 if outcome.cause() else SETTLE_SECONDS
                if outcome.interrupted:  # one of the workers received a signal, but no process that has started one
                    signalled, wait = True, STOP_SECONDS
                    self._stop(own, signal.SIGTERM)
                deadline = min(deadline, time.monotonic() + wait)
        return signalled

    def _next_event(self, deadline: float) -> Event | None:
        """The next event, None if there is none before the deadline."""
        try:
            return self._events.get(timeout=None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
        except Empty:
            return None

    def _stop(self, own: WorkerProcess, number: int) -> None:
        """Send a signal to all workers."""
        own.send_signal(number)
        for member in self.members.values():
            with suppress(EOFError):
                member.channel.send(Stop(number))

    def _explain(self, outcome: Outcome, folder: Path) -> None:
        """Write the error that ended the job to its folder; without one, show what is known."""
        if error := outcome.cause():
            write_error(folder, error)
        elif evidence := outcome.evidence():
            current_display().message(evidence)

    def _listen(self, member: GroupMember) -> None:
        """Receive what another process sends until it ends. Runs in a thread."""
        rank = member.hello.rank
        while True:
            try:
                message = member.channel.receive()
            except EOFError:
                break
            if isinstance(message, WorkerEnded):
                self._events.put(message)
            elif isinstance(message, Signalled):
                self._note(message, Interrupted("stopped by a signal that another process received"))
            else:
                member.replies.put(message)
        member.replies.put(None)
        self._note(Lost(rank), lost(rank, self.size, member.place))

    def _note(self, event: Event, failure: BitgolfError) -> None:
        """Pass an event to the job that runs. If none does, interrupt the main thread, whose command cannot go on."""
        if self._running:
            self._events.put(event)
        elif self.failure is None:
            self.failure = failure
            signal.pthread_kill(self._main, signal.SIGTERM)


_LEADING = list[Group]()


@contextmanager
def leading(group: Group) -> Iterator[None]:
    """Make a group that of this process for the duration of a block, which SIGTERM ends as SIGINT does."""
    _LEADING.append(group)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _LEADING.remove(group)


def current_group() -> Group | None:
    """The group that this process leads, None without one."""
    return _LEADING[-1] if _LEADING else None


def last_device(processes: int) -> int:
    """The largest number of a GPU that `processes` processes use on this host; of a group, those that are here."""
    group = current_group()
    return device_number(group.local_size - 1, os.environ) if group else processes - 1
