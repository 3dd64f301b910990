"""Run independent tasks with Dask: in threads of this process, or on the workers of a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask
from dask.callbacks import Callback

from relact.errors import InputError, RelactError
from relact.scoring.options import THREADS

PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
CONNECT_SECONDS = 10
TRIES = 5  # times that a lost task is run again, and all of them
PAUSE = 0.5  # seconds before a worker that died is looked for again
PATIENCE_SECONDS = 30  # after which tasks run again whose results are there but do not arrive
Task = Any
Function = Callable[[Any, Task], Any]
Collect = Callable[[Task, Any], None]
Compute = Callable[[Function, Any, Sequence[Task], Collect], None]


@contextmanager
def on_scheduler(scheduler: str = THREADS, workers: int = 1) -> Iterator[Compute]:
    """``with on_scheduler("tcp://host:8786") as compute: compute(function, job, tasks, collect)``.

    This calls ``collect(task, function(job, task))`` in this thread for every task, in the order in which
    they finish. ``job`` is what the tasks share, sent to each worker once.

    Args:
        scheduler: ``threads``, or the address of a Dask scheduler. Tasks of a worker that dies run again
            elsewhere.
        workers: threads.

    Raises:
        InputError: an unknown or unreachable scheduler. Whatever ``function`` raises.
    """
    if scheduler == THREADS:
        yield partial(_in_threads, workers)
    elif scheduler.startswith(PROTOCOLS):
        from distributed import Client

        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        except OSError as error:
            raise InputError(
                "no scheduler answers", where=scheduler, fix="start one with `dask scheduler`"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)  # a nanny may be restarting one
            except TimeoutError as error:
                fix = f"start one with `dask worker {scheduler}`"
                raise InputError("this scheduler has no workers", where=scheduler, fix=fix) from error
            yield partial(_on_cluster, client)
    else:
        fix = "give `threads` or an address like tcp://host:8786"
        raise InputError(f"{scheduler!r} is not a scheduler", where="--scheduler", fix=fix)


def _in_threads(workers: int, function: Function, job: Any, tasks: Sequence[Task], collect: Collect) -> None:
    named = {f"task-{number}": task for number, task in enumerate(tasks)}

    def run(task: Task) -> list[Any]:
        return [function(job, task)]  # to be taken out: Dask holds what tasks return until the last has

    calls = [dask.delayed(partial(run, task), pure=False)(dask_key_name=key) for key, task in named.items()]
    with Callback(posttask=lambda key, result, *_: collect(named[key], result.pop())):
        dask.compute(*calls, scheduler="threads", num_workers=workers)


def _on_cluster(client: Any, function: Function, job: Any, tasks: Sequence[Task], collect: Collect) -> None:
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    work, losses = _Work(client, function, job, tasks), 0
    while work.left:
        try:
            for number, result in work.finished():
                work.left.remove(number)
                collect(tasks[number], result)
        except KilledWorker as error:
            raise _kept_dying(client, error) from error
        # tasks that failed because what they share went with a worker
        except (CancelledError, CommClosedError) as error:
            losses += 1
            if losses > TRIES:
                raise _kept_dying(client, error) from error
            work.again()
        # tasks take long; or a worker's death hid from the client that others have finished
        except TimeoutError:
            work.ask()


class _Work:
    """Tasks on a cluster, and what they share, which may be lost with a worker.

    Attributes:
        left: numbers of the tasks whose results did not come yet.
    """

    def __init__(self, client: Any, function: Function, job: Any, tasks: Sequence[Task]) -> None:
        self._client, self._function, self._job, self._tasks = client, function, job, tasks
        self.left, self._held = set(range(len(tasks))), set[int]()
        self._shared = self._scatter()
        self._calls: dict[Any, int] = {}
        self._submit(sorted(self.left))

    def finished(self) -> Iterator[tuple[int, Any]]:
        """(number, result) of every task as it ends; what was lost on the way is run again."""
        from distributed import as_completed

        loop, lost = self._client.loop, Counter[int]()
        completed = as_completed(list(self._calls), loop, with_results=True, timeout=PATIENCE_SECONDS)
        for call, result in completed:
            number = self._calls.pop(call)
            if number not in self.left:
                continue
            # a worker died, or was restarted, that had it or the job: no result, whatever it looks like
            if call.status != "finished" or isinstance(result, BaseException):
                lost[number] += 1
                if lost[number] > TRIES:
                    raise CancelledError(f"{call.key} was lost {TRIES} times")
                completed.update(self._submit([number]))
                continue
            yield number, result
            if not self.left:
                return

    def again(self) -> None:
        """Run everything again that is left."""
        self._calls.clear()
        self._shared = self._scatter()
        self._submit(sorted(self.left))

    def ask(self) -> None:
        """Run again what the cluster has had for a while without telling."""
        holders = self._client.who_has(list(self._calls))
        before = self._held
        self._held = {
            number for call, number in self._calls.items() if number in self.left and holders.get(call.key)
        }
        self._submit(sorted(before & self._held))

    def _submit(self, numbers: Sequence[int]) -> list[Any]:
        if self._shared.status != "finished":
            self._shared = self._scatter()
        submit, tasks = self._client.submit, self._tasks
        calls = {
            submit(self._function, self._shared, tasks[number], pure=False): number for number in numbers
        }
        self._calls |= calls
        return list(calls)

    def _scatter(self) -> Any:
        """Send the job to the workers, once there is one; a nanny takes seconds to bring one back."""
        from distributed.comm import CommClosedError

        for attempt in range(TRIES + 1):
            try:
                self._client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
                return self._client.scatter([self._job], broadcast=True, hash=False)[0]
            except (CommClosedError, TimeoutError) as error:  # it died while the job came
                if attempt == TRIES or isinstance(error, TimeoutError):
                    raise _kept_dying(self._client, error) from error
                time.sleep(PAUSE)


def _kept_dying(client: Any, error: BaseException) -> RelactError:
    fix = "give the workers more memory, or score with fewer neurons per task (--memory)"
    return RelactError(f"workers kept dying ({error})", where=client.scheduler.address, fix=fix)
