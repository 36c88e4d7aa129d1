"""Many requests over one model: continuous batching on a thread of the library."""

from __future__ import annotations

import asyncio
import atexit
import os
import traceback
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

from . import _ffi_api
from .checks import as_count, as_flag, as_float32, as_number, as_path
from .model import Model
from .request import (
    ExecutorConfig,
    Request,
    Response,
    check_request,
    config_values,
    request_values,
)
from .responses import ANY, OWN, PUMP, Mailbox, Pump, ResponseStream

if TYPE_CHECKING:
    from .guided import GuidedDecoding

_alive: weakref.WeakSet[Executor] = weakref.WeakSet()


class MaskEntry(_ffi_api.Wrapper):
    """One sequence in a call of a logits post-processor; valid during the call only.

    Attributes:
        request_id: Of the request.
        client_id: As the request has it.
        sequence_index: Which of the request's answers.
        tokens: Ids of the answer that are new since the last call for this sequence.
        bitmask: int32 ``[ceil(n_vocab / 32)]`` (DLPack), all bits set: bit i % 32 of word i / 32
            allows token i. To be filled in place.
        temperature: Of the next draw; may be set.
        ln_min_p: Likewise; -inf: no min_p.
        mask_fraction: Probability that the last mask left.
        is_final: The sequence is over; nothing will be sampled.
        forced_tokens: May be set: the tokens that follow, whatever the logits say. All but the
            first are taken without logits: their log-probability is said to be 0.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def request_id(self) -> int:
        """Of the request."""
        return int(self._raw.request_id())

    @property
    def client_id(self) -> int:
        """As the request has it."""
        return int(self._raw.client_id())

    @property
    def sequence_index(self) -> int:
        """Which of the request's answers."""
        return int(self._raw.sequence_index())

    @property
    def tokens(self) -> list[int]:
        """Ids of the answer that are new since the last call for this sequence."""
        return list(self._raw.tokens())

    @property
    def bitmask(self) -> Any:
        """Which tokens are allowed, a bit each; to be filled in place."""
        return self._raw.bitmask()

    @property
    def mask_fraction(self) -> float:
        """Probability that the last mask left."""
        return float(self._raw.mask_fraction())

    @property
    def is_final(self) -> bool:
        """Whether the sequence is over; nothing will be sampled."""
        return bool(self._raw.is_final())

    @property
    def temperature(self) -> float:
        """Of the next draw."""
        return float(self._raw.temperature())

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._raw.set_temperature(as_float32("temperature", value))

    @property
    def ln_min_p(self) -> float:
        """Logarithm of min_p."""
        return float(self._raw.ln_min_p())

    @ln_min_p.setter
    def ln_min_p(self, value: float) -> None:
        self._raw.set_ln_min_p(as_float32("ln_min_p", value))

    @property
    def forced_tokens(self) -> list[int]:
        """What follows without a choice."""
        return list(self._raw.forced_tokens())

    @forced_tokens.setter
    def forced_tokens(self, tokens: Sequence[int]) -> None:
        self._raw.force([as_count("forced_tokens", token) for token in tokens])

    def fail(self, text: str) -> None:
        """Ends this sequence with an error of this text; others go on."""
        self._raw.fail(str(text))


class Executor(_ffi_api.Wrapper):
    """Runs many requests at once: one step computes a token of each, and parts of new prompts.

    May be used from any thread; from its own callbacks too, but for what waits for the engine. The
    same request gives the same tokens, bit for bit, whatever runs beside it. One that nobody refers
    to any more, its own callbacks aside, is shut down without draining once these have returned.

    A process may fork while it runs: the child can make executors of its own. But not within a
    callback, unless the child leaves by ``os._exit`` or ``exec``: one that returns from the
    callback would return into an engine that stayed with the parent.

    Args:
        model: Stays open as long as the executor runs.
        config: None: the defaults.
        logits_post_processor: Called once per step with a list of `MaskEntry`, for the requests
            that ask for it, while the forward pass runs. What it raises ends these requests with
            ERROR. A `GuidedDecoding` serves requests with a grammar.
        on_step: Called with `stats` after each step, on the engine's thread.

    Raises:
        ValueError: A field of the configuration is out of its range.
        MemoryError: The KV cache does not fit the address space.
    """

    def __init__(
        self,
        model: Model,
        config: ExecutorConfig | None = None,
        *,
        logits_post_processor: Callable[[list[MaskEntry]], None] | None = None,
        on_step: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model is {type(model).__name__}, expected Model")
        for name, fn in (("logits_post_processor", logits_post_processor), ("on_step", on_step)):
            if fn is not None and not callable(fn):
                raise TypeError(f"{name} is {type(fn).__name__}, expected a callable or None")
        values = config_values(ExecutorConfig() if config is None else config)
        self._max_pending_responses = int(
            values.get("max_pending_responses", ExecutorConfig.max_pending_responses)
        )
        self._logits_post_processor, self._on_step = logits_post_processor, on_step
        self._guided: Any = None
        self._detach: Callable[[], object] = lambda: None
        if hasattr(logits_post_processor, "attach"):
            if values.get("n_post_processor_threads", 1) != 1:
                raise ValueError(
                    "executor: n_post_processor_threads is "
                    f"{values['n_post_processor_threads']}, expected 1 with a GuidedDecoding, "
                    "which has threads of its own (n_threads)"
                )
            self._guided = logits_post_processor
            self._guided.attach()
            self._detach = _detacher(self, self._guided)
        try:
            self._handle = _ffi_api.Executor.create(
                model._handle,
                values,
                _callback(self, "_logits_post_processor", _mask_entries),
                _callback(self, "_on_step", _stats),
            )
        except BaseException:
            self._detach()
            raise
        self._pump = Pump(self._handle)
        self._pid = os.getpid()
        _alive.add(self)

    # ---- requests -------------------------------------------------------------------------------

    def can_enqueue_request(self) -> bool:
        """Whether the queue has room; others may take it, and answers that nobody read fill it."""
        return bool(self._handle.can_enqueue())

    def enqueue_request(self, request: Request) -> int:
        """Enqueues a request and returns its id.

        Raises:
            ValueError: A field is out of its range, or the request can never fit the KV cache.
            TypeError: A field is of the wrong type.
            KeyError: ``lora`` is not loaded.
            RuntimeError: The queue is full, or the executor is shut down.
        """
        return self._enqueue(request, ANY)

    def _enqueue(self, request: Request, audience: int) -> int:
        values = request_values(request)
        if request.guided is None:
            return int(self._handle.enqueue(values, audience))
        if self._guided is None:
            raise ValueError(
                "request: guided is set, but the executor's logits_post_processor is no "
                "GuidedDecoding"
            )
        if request.beam_width > 1:
            raise ValueError("request: guided is set, expected None with beam_width > 1")
        values["use_logits_post_processor"] = True
        return int(
            self._guided.enqueue(
                request.guided,
                lambda: int(self._handle.enqueue(values, audience)),
                n_sequences=max(request.num_return_sequences, request.best_of or 1),
                scored=request.logprobs > 0
                or (request.best_of or 1) > request.num_return_sequences,
            )
        )

    def await_responses(
        self, timeout_ms: float | None = None, request_id: int | None = None
    ) -> list[Response]:
        """Waits for responses and returns those that are there.

        Each is returned once, whoever waits; several threads may. Those of `stream` and `astream`
        go to their iterators alone.

        Args:
            timeout_ms: An empty list after so long; None: as long as something is in flight.
            request_id: Only of this request; None: of any.

        Raises:
            ValueError: The id was never given.
        """
        timeout = None if timeout_ms is None else as_number("timeout_ms", timeout_ms)
        wanted = None if request_id is None else as_count("request_id", request_id)
        raw = self._handle.await_responses(timeout, wanted, ANY)
        return [Response.from_native(response) for response in raw]

    def stream(self, request: Request) -> ResponseStream:
        """Enqueues a request at once and iterates over its responses; leaving cancels it."""
        return ResponseStream(self, self._enqueue(request, OWN))

    async def astream(self, request: Request) -> AsyncIterator[Response]:
        """The same for asyncio; the request is cancelled when its consumer goes away."""
        check_request(request)
        if request.guided is not None and self._guided is not None:
            # The grammar is compiled beside the loop, and found compiled below.
            await asyncio.to_thread(self._guided.compile, request.guided)
        self.can_enqueue_request()  # in a child of fork the pump's lock may be held for ever
        box = Mailbox(self._max_pending_responses)
        request_id = self._pump.enqueue(self, lambda: self._enqueue(request, PUMP), box)
        over = False
        try:
            while not over:
                response = await box.get()
                over = response.is_request_final
                yield response
        finally:
            if not over:
                self._pump.forget(request_id)

    def cancel_request(self, request_id: int) -> bool:
        """Ends a request with CANCELLED before the next step; False when it is over already.

        Raises:
            ValueError: The id was never given.
        """
        return bool(self._handle.cancel(as_count("request_id", request_id)))

    # ---- the rest -------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Returns figures: now, and since the start; docs/guide_executor.md explains each."""
        return _stats(self._handle.stats())

    def load_lora(self, name: str, path: str | bytes | os.PathLike[Any]) -> None:
        """Loads an adapter from a GGUF file, for requests with ``lora=name``.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no adapter for this model, or the name is in use.
        """
        if not isinstance(name, str):
            raise TypeError(f"name is {type(name).__name__}, expected str")
        self._handle.load_lora(name, as_path("path", path))

    def unload_lora(self, name: str) -> None:
        """Forgets an adapter; requests that use it go on. KeyError for an unknown name."""
        if not isinstance(name, str):
            raise TypeError(f"name is {type(name).__name__}, expected str")
        self._handle.unload_lora(name)

    def loras(self) -> list[dict[str, Any]]:
        """Returns the loaded adapters: name, path, alpha, n_pairs, bytes."""
        return [
            {**dict(item.items()), "path": os.fsdecode(item["path"])}
            for item in self._handle.loras()
        ]

    def shutdown(self, drain: bool = False) -> None:
        """Ends the engine and frees its memory; what it has answered can still be awaited.

        Args:
            drain: First finish what was enqueued. Otherwise it ends with CANCELLED.

        Raises:
            RuntimeError: Called from one of the executor's callbacks.
            TypeError: ``drain`` is no bool.
        """
        drains = as_flag("drain", drain)
        if self._pid != os.getpid():
            return  # the engine is the parent's
        self._handle.shutdown(drains)
        self._pump.join()
        self._detach()
        _alive.discard(self)

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


def _callback(executor: Executor, name: str, convert: Callable[[Any], Any]) -> Any:
    """A user's function as the library calls it; None where there is none.

    The library holds no more than a weak reference, through the executor: so Python's garbage
    collector sees the cycle of an executor and a callback that refers to it.

    What it raises is told in text that UTF-8 holds. Another text would not cross the border, nor
    would anything of an exception without one.
    """
    if getattr(executor, name) is None:
        return None
    owner = weakref.ref(executor)

    def call(raw: Any) -> None:
        alive = owner()  # stays so during the call
        if alive is None:  # nobody can ask for anything any more
            return
        try:
            getattr(alive, name)(convert(raw))
        except BaseException as error:
            said = "".join(traceback.format_exception_only(type(error), error)).strip()
            text = said.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
            raise RuntimeError(text) from None

    return call


def _mask_entries(raw: Any) -> list[MaskEntry]:
    return [MaskEntry(entry) for entry in raw]


def _detacher(executor: Executor, guided: GuidedDecoding) -> Callable[[], object]:
    """Gives ``guided`` back once: when it is called, or when the executor is gone."""
    finalizer = weakref.finalize(executor, _detach, weakref.ref(guided), os.getpid())
    finalizer.atexit = False
    return finalizer


def _detach(guided: weakref.ref[GuidedDecoding], pid: int) -> None:
    alive = guided()
    if alive is not None and pid == os.getpid():  # a child of fork may find its lock held
        alive.detach()


def _stats(raw: Any) -> dict[str, Any]:
    return {name: list(value) if name.endswith("_counts") else value for name, value in raw.items()}


def _shut_down_all() -> None:
    for executor in list(_alive):
        executor.shutdown()


atexit.register(_shut_down_all)
