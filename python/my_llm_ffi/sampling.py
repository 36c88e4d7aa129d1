"""From logits to a token: stages, samplers, and the parameters of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _ffi_api
from .arrays import check_shareable
from .checks import as_count, as_float32

if TYPE_CHECKING:
    from .context import Context


class Stage:
    """What a `Sampler` is made of; made with its parameters, which are checked at once."""

    def __post_init__(self) -> None:
        self._add_to(_ffi_api.Sampler.create())

    def _add_to(self, handle: Any) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Penalties(Stage):
    """Makes tokens that were accepted before less likely.

    Args:
        repetition: Divides positive logits and multiplies negative ones; 1 changes nothing.
        frequency: Subtracted once per occurrence.
        presence: Subtracted once.
        last_n: How many accepted tokens are looked at; -1: all.
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    last_n: int = 64

    def _add_to(self, handle: Any) -> None:
        handle.add_penalties(
            as_float32("repetition_penalty", self.repetition),
            as_float32("frequency_penalty", self.frequency),
            as_float32("presence_penalty", self.presence),
            as_count("last_n", self.last_n),
        )


@dataclass(frozen=True)
class LogitBias(Stage):
    """Adds to the logits of some tokens; ``-inf`` forbids one."""

    bias: Mapping[int, float]

    def _add_to(self, handle: Any) -> None:
        if not isinstance(self.bias, Mapping):
            raise TypeError(f"logit_bias is {type(self.bias).__name__}, expected a mapping")
        handle.add_logit_bias(
            {
                as_count("logit_bias token", token): as_float32("logit_bias", bias)
                for token, bias in self.bias.items()
            }
        )


@dataclass(frozen=True)
class Temperature(Stage):
    """Divides logits; 0 leaves only the best token."""

    temperature: float

    def _add_to(self, handle: Any) -> None:
        handle.add_temperature(as_float32("temperature", self.temperature))


@dataclass(frozen=True)
class TopK(Stage):
    """Keeps the ``k`` best tokens."""

    k: int

    def _add_to(self, handle: Any) -> None:
        handle.add_top_k(as_count("top_k", self.k))


@dataclass(frozen=True)
class TopP(Stage):
    """Keeps the smallest set of best tokens whose probability reaches ``p``."""

    p: float

    def _add_to(self, handle: Any) -> None:
        handle.add_top_p(as_float32("top_p", self.p))


@dataclass(frozen=True)
class MinP(Stage):
    """Keeps tokens with at least ``p`` times the best one's probability."""

    p: float

    def _add_to(self, handle: Any) -> None:
        handle.add_min_p(as_float32("min_p", self.p))


@dataclass(frozen=True)
class TypicalP(Stage):
    """Keeps the most typical tokens (arXiv:2202.00666) up to probability ``p``."""

    p: float

    def _add_to(self, handle: Any) -> None:
        handle.add_typical_p(as_float32("typical_p", self.p))


@dataclass(frozen=True)
class Draw(Stage):
    """Draws by probability; without this stage the best token is taken. No seed: a fresh one."""

    seed: int | None = None

    def _add_to(self, handle: Any) -> None:
        handle.add_draw(None if self.seed is None else as_count("seed", self.seed))


class Sampler(_ffi_api.Wrapper):
    """Stages, applied in the order of the list. One thread at a time.

    Raises:
        ValueError: A parameter is negative, NaN, infinite or out of its range; it is named.
    """

    def __init__(self, stages: Sequence[Stage] = ()) -> None:
        self._handle: Any = _ffi_api.Sampler.create()
        if not isinstance(stages, Iterable):
            raise TypeError(f"stages is {type(stages).__name__}, expected stages of a sampler")
        for stage in stages:
            if not isinstance(stage, Stage):
                raise TypeError(f"stages: {type(stage).__name__} is not a stage of a sampler")
            stage._add_to(self._handle)

    @classmethod
    def greedy(cls) -> Sampler:
        """Always takes the best token."""
        return cls()

    @classmethod
    def from_params(cls, params: SamplingParams) -> Sampler:
        """Returns a fresh sampler with the stages of ``params`` in their fixed order."""
        if not isinstance(params, SamplingParams):
            raise TypeError(f"params is {type(params).__name__}, expected SamplingParams")
        return cls(params.stages())

    def sample(self, ctx: Context, index: int = -1) -> int:
        """Samples row ``index`` of the context's logits and accepts the token.

        Raises:
            IndexError: The last decode gave no such row.
            ValueError: No token is left with a logit above -inf.
        """
        from .context import Context

        if not isinstance(ctx, Context):
            raise TypeError(f"ctx is {type(ctx).__name__}, expected a Context")
        return int(self._handle.sample(ctx._handle, as_count("index", index)))

    def sample_logits(self, logits: Any) -> int:
        """Samples one row ``[n_vocab]`` float32 on the CPU, without accepting the token."""
        check_shareable("logits", logits)
        return int(self._handle.sample_logits(logits))

    def probabilities(self, logits: Any) -> tuple[list[int], list[float]]:
        """Returns what a draw would choose from: ids and probabilities, best first."""
        check_shareable("logits", logits)
        ids, probabilities = self._handle.probabilities(logits)
        return list(ids), list(probabilities)

    def accept(self, token: int) -> None:
        """Adds a token to the history that penalties look at."""
        self._handle.accept(as_count("token", token))

    def reset(self) -> None:
        """Forgets the history and starts the seed's numbers again."""
        self._handle.reset()


@dataclass(frozen=True)
class SamplingParams:
    """How a request is sampled, always in this order.

    Penalties, logit bias, temperature, top-k, typical-p, top-p, min-p, draw. ``None`` leaves a
    stage out.

    Args:
        temperature: Divides logits, >= 0; 0 takes the best token.
        top_k: Keep the k best, >= 1.
        top_p: Keep the smallest set of probability p, 0 < p <= 1.
        min_p: Keep tokens with p times the best one's probability, 0 <= p <= 1.
        typical_p: Keep the most typical tokens of probability p, 0 < p <= 1.
        seed: Of the draws; None: a fresh one.
        repetition_penalty: Over prompt and answer, > 0; 1 changes nothing.
        frequency_penalty: Subtracted per occurrence.
        presence_penalty: Subtracted once.
        penalty_last_n: Tokens that penalties look at; -1: all.
        logit_bias: Added to logits by token id.

    Raises:
        ValueError: A parameter is out of its range; it is named.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = -1
    logit_bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        if as_count("penalty_last_n", self.penalty_last_n) < -1:
            raise ValueError(
                f"penalty_last_n is {self.penalty_last_n}, expected a count, or -1 for all"
            )
        self.stages()  # checks the others

    def stages(self) -> list[Stage]:
        """Returns what a sampler of these parameters is made of."""
        stages: list[Stage] = []
        penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        if penalties != (1.0, 0.0, 0.0):
            stages.append(Penalties(*penalties, last_n=self.penalty_last_n))
        if self.logit_bias is not None:
            stages.append(LogitBias(self.logit_bias))
        stages.append(Temperature(self.temperature))
        if self.top_k is not None:
            stages.append(TopK(self.top_k))
        if self.typical_p is not None:
            stages.append(TypicalP(self.typical_p))
        if self.top_p is not None:
            stages.append(TopP(self.top_p))
        if self.min_p is not None:
            stages.append(MinP(self.min_p))
        stages.append(Draw(self.seed))
        return stages
