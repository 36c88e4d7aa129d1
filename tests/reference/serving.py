"""Drives an executor: collects what it answers, holds its engine between steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 60.0  # of whatever must come: never a measure

Executor = Any
Request = Any


@dataclass
class Answer:
    """All that came of one sequence."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    responses: list[Any] = field(default_factory=list)

    @property
    def last(self) -> Any:
        """The response that ended it."""
        return self.responses[-1]

    @property
    def reason(self) -> Any:
        """Why it ended."""
        return self.last.finish_reason

    @property
    def error(self) -> str:
        """The text of the last response."""
        return str(self.last.error)


class Answers:
    """Adds up responses; AssertionError for one that comes after the end of its sequence."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self.by_request: dict[int, dict[int, Answer]] = {}
        self.over: set[int] = set()

    def add(self, response: Any) -> None:
        """Takes one response."""
        request = response.request_id
        assert request not in self.over, f"{response} after the end of its request"
        answer = self.by_request.setdefault(request, {}).setdefault(
            response.sequence_index, Answer()
        )
        ended = bool(answer.responses) and answer.last.is_sequence_final
        assert not ended, f"{response} after the end of its sequence"
        answer.tokens += response.tokens
        answer.text += response.text
        answer.logprobs += response.logprobs
        answer.prompt_logprobs += response.prompt_logprobs
        answer.responses.append(response)
        assert response.is_sequence_final == (response.finish_reason != 0), response
        if response.is_request_final:
            self.end(request)

    def end(self, request: int) -> None:
        """The last response of a request: each of its sequences has had its last one."""
        for answer in self.by_request[request].values():
            assert answer.last.is_sequence_final, f"request {request} ended before its sequences"
        self.over.add(request)

    def of(self, request: int) -> list[Answer]:
        """The answers of a request that is over, by sequence index."""
        assert request in self.over
        sequences = self.by_request[request]
        assert sorted(sequences) == list(range(len(sequences)))
        return [sequences[index] for index in range(len(sequences))]


def collect(executor: Executor, requests: Iterable[int]) -> dict[int, list[Answer]]:
    """Awaits requests one by one to their ends."""
    answers, out = Answers(), {}
    deadline = time.monotonic() + TIMEOUT_S
    for request in requests:
        while request not in answers.over:
            assert time.monotonic() < deadline, f"request {request} does not end"
            for response in executor.await_responses(1000, request):
                answers.add(response)
        assert executor.await_responses(0, request) == []
        out[request] = answers.of(request)
    return out


def run(executor: Executor, requests: Iterable[Request]) -> list[list[Answer]]:
    """Enqueues all, then awaits all: answers by request and sequence."""
    ids = [executor.enqueue_request(request) for request in requests]
    answers = collect(executor, ids)
    return [answers[request] for request in ids]


def answer(executor: Executor, request: Request) -> Answer:
    """The only answer of one request."""
    ((only,),) = run(executor, [request])
    return only


def wait_for(condition: Callable[[], Any]) -> None:
    """Returns once the condition holds; fails when it does not come to hold."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "what is waited for does not come"
        time.sleep(0.001)


def in_flight(executor: Executor) -> int:
    """Requests that wait or run, both of one moment."""
    stats = executor.stats()
    return int(stats["waiting"] + stats["running"])


def settled(executor: Executor) -> dict[str, Any]:
    """Figures once nothing waits or runs: they are published after the step that ended it all."""
    wait_for(lambda: in_flight(executor) == 0)
    return dict(executor.stats())


class Gate:
    """An `on_step` that holds the engine after every step until it is let go.

    It begins open. What it saw stands in `steps`.
    """

    def __init__(self) -> None:
        """Lets all pass."""
        self.steps: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._left: float = float("inf")  # turns of the engine
        self._held = False

    def __call__(self, stats: dict[str, Any]) -> None:
        """Called by the engine."""
        with self._changed:
            self.steps.append(stats)
            self._left -= 1
            self._held = self._left <= 0
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._left > 0, TIMEOUT_S)
            self._held = False

    def close(self) -> None:
        """Holds the engine after its next step."""
        with self._changed:
            self._left = 1

    def step(self, count: int = 1) -> None:
        """Lets the held engine make as many turns and waits until it is held again."""
        self.await_held()
        with self._changed:
            self._left, self._held = count, False
            self._changed.notify_all()
        self.await_held()

    def await_held(self) -> None:
        """Returns once the engine is held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held, TIMEOUT_S), "the engine does not come"

    def open(self) -> None:
        """Lets the engine run."""
        with self._changed:
            self._left = float("inf")
            self._changed.notify_all()
