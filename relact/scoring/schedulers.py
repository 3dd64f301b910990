"""Run independent tasks with Dask: in threads of this process, or on the workers of a cluster."""

from __future__ import annotations

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
            if not client.scheduler_info()["workers"]:
                fix = f"start one with `dask worker {scheduler}`"
                raise InputError("this scheduler has no workers", where=scheduler, fix=fix)
            yield partial(_on_cluster, client)
    else:
        fix = "give `threads` or an address like tcp://host:8786"
        raise InputError(f"{scheduler!r} is not a scheduler", where="--scheduler", fix=fix)


def _in_threads(workers: int, function: Function, job: Any, tasks: Sequence[Task], collect: Collect) -> None:
    named = {f"task-{number}": task for number, task in enumerate(tasks)}
    calls = [
        dask.delayed(partial(function, job, task), pure=False)(dask_key_name=key)
        for key, task in named.items()
    ]
    with Callback(posttask=lambda key, result, *_: collect(named[key], result)):
        dask.compute(*calls, scheduler="threads", num_workers=workers)


def _on_cluster(client: Any, function: Function, job: Any, tasks: Sequence[Task], collect: Collect) -> None:
    from distributed import KilledWorker, as_completed

    (shared,) = client.scatter([job], broadcast=True)
    calls = {client.submit(function, shared, task, pure=False): number for number, task in enumerate(tasks)}
    left, held = set(calls.values()), set[int]()
    while left:
        try:
            completed = as_completed(list(calls), client.loop, with_results=True, timeout=PATIENCE_SECONDS)
            for call, result in completed:
                number = calls.pop(call)
                if isinstance(result, CancelledError):  # a worker died that had it, or the job
                    if shared.cancelled():
                        (shared,) = client.scatter([job], broadcast=True, hash=False)
                    again = client.submit(function, shared, tasks[number], pure=False)
                    calls[again] = number
                    completed.add(again)
                    continue
                if number in left:
                    left.remove(number)
                    collect(tasks[number], result)
                if not left:
                    break
        except KilledWorker as error:
            fix = "give the workers more memory, or score with fewer neurons per task (--memory)"
            raise RelactError(
                f"workers kept dying ({error})", where=client.scheduler.address, fix=fix
            ) from error
        # tasks take long; or a worker's death hid from the client that others have finished
        except TimeoutError:
            holders = client.who_has(list(calls))
            before, held = (
                held,
                {number for call, number in calls.items() if number in left and holders.get(call.key)},
            )
            for number in before & held:
                calls[client.submit(function, shared, tasks[number], pure=False)] = number
