"""Tasks in processes side by side, none of which outlives the one that began them."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from lerobot_cdp.errors import SettingError

__all__ = ["run_all", "run_side_by_side", "succeeds"]


def run_all(work: Callable[..., bool], tasks: list[tuple], jobs: int, title: str, unit: str = "policy") -> bool:
    """As `run_side_by_side`, with a bar of this title. Returns whether all succeeded."""
    return all([*tqdm(run_side_by_side(work, tasks, jobs), total=len(tasks), desc=title, unit=unit)])


def succeeds(task: str, work: Callable[..., None], *arguments: object) -> bool:
    """Whether `work` ends without an error. One is logged with the name of the `task`: it must not stop the others."""
    try:
        work(*arguments)
    except SettingError as error:
        logging.error("%s failed: %s", task, error)
        return False
    except Exception:
        logging.exception("%s failed", task)
        return False
    return True


def run_side_by_side(work: Callable[..., bool], tasks: list[tuple], jobs: int) -> Iterator[bool]:
    """Whether `work` succeeded for each of `tasks`, its arguments: one after the other, or `jobs` at the same time."""
    if jobs == 1:
        yield from (work(*task) for task in tasks)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(jobs, spawn, _start_worker, (threads,)) as pool:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers inherit it: Ctrl-C is for this process
        futures = [pool.submit(work, *task) for task in tasks]
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield from map(_outcome, futures)
        except KeyboardInterrupt:  # to leave the pool would do all that is left; the workers end with this process
            os._exit(130)


def _outcome(future: Future) -> bool:
    try:
        return future.result()
    except BrokenProcessPool:  # it breaks for all that were not done
        logging.error("a process was killed, perhaps for memory: run the same command again")
        return False


def _start_worker(threads: int) -> None:
    """Set up a process of the pool. It ends with the one that began it: orphans would go on for hours."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
