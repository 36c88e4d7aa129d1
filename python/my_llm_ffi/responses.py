"""How the responses of one request reach its one reader: `ResponseStream`, and those of astream.

Counterpart: executor.py, which enqueues the requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

from . import _ffi_api
from .generation import FinishReason
from .request import Response

if TYPE_CHECKING:
    from .executor import Executor

ANY, OWN, PUMP = 0, 1, 2  # who gets the responses of a request


class ResponseStream(_ffi_api.Wrapper):
    """The responses of one request, as `Executor.stream` gives them; keeps the executor alive.

    Attributes:
        request_id: Of the request.
    """

    def __init__(self, executor: Executor, request_id: int) -> None:
        self._executor = executor
        self._handle = executor._handle
        self._ready: list[Any] = []
        self._over = False
        self.request_id = request_id

    def __iter__(self) -> ResponseStream:
        return self

    def __next__(self) -> Response:
        if not self._ready and not self._over:
            self._ready = list(self._handle.await_responses(None, self.request_id, OWN))[::-1]
        if not self._ready:
            raise StopIteration
        raw = self._ready.pop()
        self._over = self._over or raw.is_request_final
        return Response.from_native(raw)

    def close(self) -> None:
        """Cancels the request if it is not over, and waits for its end, but not in a callback."""
        if self._over:
            return
        self._over, self._ready = True, []
        self._handle.cancel(self.request_id)
        try:
            while self._handle.await_responses(None, self.request_id, OWN):
                pass
        except RuntimeError:  # of a callback, for which the engine waits
            pass
        finally:
            self._handle.forget(self.request_id)

    def __del__(self) -> None:
        # Runs wherever the garbage collector does, on the engine's thread too: must never wait.
        try:
            if not self._over:
                self._handle.forget(self.request_id)
        except (AttributeError, RuntimeError):  # never made; in a child of fork; at Python's exit
            pass


class Mailbox:
    """Responses of one request between the pump and the event loop of who reads them.

    Args:
        limit: So many may wait, the last one of a sequence not counted.
    """

    def __init__(self, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._responses: deque[Any] = deque()
        self._came = asyncio.Event()
        self._is_late = False

    def put(self, raw: Any) -> bool:
        """Takes a response, on any thread; False when the request must be cancelled.

        Raises:
            RuntimeError: The event loop is closed.
        """
        self._responses.append(raw)
        self._loop.call_soon_threadsafe(self._came.set)
        if self._is_late or raw.is_sequence_final or len(self._responses) <= self._limit:
            return True
        self._is_late = True
        return False

    async def get(self) -> Response:
        """The next response."""
        while not self._responses:
            self._came.clear()
            await self._came.wait()
        response = Response.from_native(self._responses.popleft())
        cancelled = response.finish_reason == FinishReason.CANCELLED
        if not (self._is_late and cancelled) or response.error:
            return response
        said = f"max_pending_responses={self._limit} responses wait and nobody reads them"
        return replace(response, error=said)


class Pump:
    """A thread that hands the responses of `Executor.astream` to their event loops."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._boxes: dict[int, Mailbox] = {}
        self._thread: threading.Thread | None = None

    def enqueue(self, executor: Executor, send: Callable[[], int], box: Mailbox) -> int:
        """Sends a request off, whose responses go to ``box``.

        Args:
            executor: Lives as long as somebody may call its callbacks for these requests.
            send: Enqueues the request and returns its id.
            box: Where its responses go.
        """
        with self._lock:  # responses wait for their box
            request_id = send()
            self._boxes[request_id] = box
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(executor,), name="my_llm_ffi responses", daemon=True
                )
                self._thread.start()
        return request_id

    def forget(self, request_id: int) -> None:
        """Cancels a request whose reader went away."""
        with self._lock:
            self._boxes.pop(request_id, None)
        self._handle.forget(request_id)

    def _run(self, executor: Executor) -> None:
        while True:
            responses = self._handle.await_responses(None, None, PUMP)
            with self._lock:
                for raw in responses:
                    self._deliver(raw)
                if not responses and not self._boxes:  # who comes later starts another thread
                    self._thread = None
                    return

    def _deliver(self, raw: Any) -> None:
        request_id = raw.request_id
        box = self._boxes.get(request_id)
        if raw.is_request_final:
            self._boxes.pop(request_id, None)
        try:
            if box is not None and not box.put(raw):
                self._handle.cancel(request_id)
        except RuntimeError:  # its event loop is closed
            self._boxes.pop(request_id, None)
            self._handle.forget(request_id)

    def join(self) -> None:
        """Waits until all is delivered; the executor was shut down."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
