"""The process that runs a foreign evaluation. `ProcessRunner` starts it; it limits itself before it loads any code."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitgolf.score.audit.sandbox import apply_limits, only_standard_error

if TYPE_CHECKING:
    import io

    from bitgolf.score.audit.evaluation import Evaluation
    from bitgolf.score.audit.messages import WorkerAnswer, WorkerTask


def main() -> None:
    """Arguments: the evaluation as MODULE:CLASS or FILE.py:CLASS, and a JSON object with `hidden` and `memory`."""
    target, options = sys.argv[1], json.loads(sys.argv[2])
    with only_standard_error() as (source, sink):
        missing = apply_limits(options["hidden"], options["memory"])
        with os.fdopen(source, "rb") as tasks, os.fdopen(sink, "wb") as answers:
            _serve(target, missing, tasks, answers)


def _serve(target: str, missing: dict[str, str], tasks: io.BufferedReader, answers: io.BufferedWriter) -> None:
    """Answer requests until the stream ends. The evaluation is loaded with the first one."""
    from bitgolf.score.audit.messages import WorkerTask, framed, receive

    desk = _Desk(target, missing, lambda: receive(tasks, WorkerTask), answers)
    while task := receive(tasks, WorkerTask):
        answers.write(framed(desk.answer(task)))
        answers.flush()


class _Desk:
    """Answers requests. The evaluation is loaded when it is first needed."""

    def __init__(
        self, target: str, missing: dict[str, str], more: Callable[[], WorkerTask | None], answers: Any
    ) -> None:
        self.target, self.missing, self.more, self.answers = target, missing, more, answers
        self.make: Callable[[], Evaluation] | None = None
        self.encoder: Any = None

    def answer(self, task: WorkerTask) -> WorkerAnswer:
        """The answer to one request; an exception of the evaluation is an answer, too."""
        from bitgolf.score.audit.messages import WorkerAnswer

        try:
            self.make = self.make or load_evaluation(self.target)
            return getattr(self, f"_{task.call}")(self.make, task)
        except BaseException as failure:  # third-party code may raise anything, even `SystemExit`
            return WorkerAnswer(error=f"{type(failure).__name__}: {failure}", missing_limits=self.missing)

    def _facts(self, make: Callable[[], Evaluation], task: WorkerTask) -> WorkerAnswer:
        from bitgolf.score.audit.messages import WorkerAnswer
        from bitgolf.score.audit.runner import facts_of

        isolated, vocab, bos = facts_of(make())
        return WorkerAnswer(isolated=isolated, vocab=vocab, bos=bos, missing_limits=self.missing)

    def _encode(self, make: Callable[[], Evaluation], task: WorkerTask) -> WorkerAnswer:
        import numpy as np

        from bitgolf.score.audit.messages import WorkerAnswer

        self.encoder = self.encoder or make().tokenizer
        encoded = [np.asarray(self.encoder.encode(document), np.int64).tobytes() for document in task.documents]
        return WorkerAnswer(documents=encoded)

    def _decode(self, make: Callable[[], Evaluation], task: WorkerTask) -> WorkerAnswer:
        from bitgolf.score.audit.messages import WorkerAnswer, ints
        from bitgolf.score.audit.runner import decode_anew

        return WorkerAnswer(documents=decode_anew(make, [ints(ids) for ids in task.documents]))

    def _run(self, make: Callable[[], Evaluation], task: WorkerTask) -> WorkerAnswer:
        import numpy as np

        from bitgolf.score.audit.messages import WorkerAnswer, framed, ints
        from bitgolf.score.audit.runner import EvaluationRequest, run_evaluation

        def scoring() -> Any:
            self.answers.write(framed(WorkerAnswer(ready=True)))
            self.answers.flush()
            following = self.more()
            if following is None:
                raise EOFError("the audit has ended")
            return ints(following.scoring)

        targets = frozenset(task.distribution_targets)
        build, warm_up, training = ints(task.build), ints(task.warm_up), ints(task.training)
        request = EvaluationRequest(build, warm_up, build[:0], training, task.raw_bytes, targets)
        claim, reads = run_evaluation(make, request, scoring)
        distributions = {int(t): np.asarray(own, np.float64).tobytes() for t, own in claim.distributions.items()}
        return WorkerAnswer(
            positions=np.asarray(claim.positions, np.int64).tobytes(),
            bits=np.asarray(claim.bits, np.float64).tobytes(),
            counted_bytes=int(claim.bytes),
            side_bits=float(claim.side_bits),
            distributions=distributions,
            reads=[(read.phase, read.start, read.stop) for read in reads],
        )


def load_evaluation(target: str) -> Callable[[], Evaluation]:
    """The class or function of MODULE:NAME or FILE.py:NAME. Modules of the current folder and of the file's are found."""
    module, _, name = target.rpartition(":")
    sys.path[:0] = [str(Path(module).resolve().parent), ""] if module.endswith(".py") else [""]
    loaded = importlib.import_module(Path(module).stem if module.endswith(".py") else module)
    return getattr(loaded, name)


if __name__ == "__main__":
    main()
