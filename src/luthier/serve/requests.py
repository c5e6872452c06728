"""Requests of OpenAI's chat and completion endpoints: what they may say, and how.

A field that means nothing here and changes no answer (`user`, `store`, ...) is passed over. One that would change the
answer and is not there (`tools`, `logit_bias`, ...) is refused by name, unless it asks for nothing; so is one that
nobody knows, as OpenAI does. Numbers are not taken from strings.

Every list is read up to its first mistake: a body has room for a million, and they are read in the event loop.

Source: OpenAI's API reference. Not covered: images, audio, tools, structured output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from luthier.generate.choosing import Sampling
from luthier.serve.refusals import ApiError

MOST_ANSWERS = 16
"""Answers to one request, over all of its prompts."""
MOST_FIELDS = 200
PASSED_OVER = frozenset(
    ("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
     "service_tier", "store", "user")
)  # fmt: skip
NOT_THERE = frozenset(
    ("audio", "best_of", "echo", "function_call", "functions", "logit_bias", "modalities", "moderation", "prediction",
     "reasoning_effort", "response_format", "suffix", "tool_choice", "tools", "verbosity", "web_search_options")
)  # fmt: skip
ASKS_FOR_NOTHING: tuple[Any, ...] = (None, False, [], {}, "", "none", 1, ["text"], {"type": "text"})

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000, fail_fast=True)]

Each = TypeVar("Each")
Several = Annotated[list[Each], Field(min_length=1, max_length=MOST_ANSWERS, fail_fast=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True)


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Turn(_Strict):
    """A message. What a client sends back of an earlier answer may stand beside it, if it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1000, fail_fast=True)]
    name: str | None = None

    @property
    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    @model_validator(mode="after")
    def _holds_text_alone(self) -> Turn:
        full = [name for name, value in (self.model_extra or {}).items() if value not in (None, [], {})]
        if full:
            raise ValueError(f"'{full[0][:50]}' is not supported: messages are text")
        return self


class StreamOptions(_Strict):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None


class Asked(_Strict, ABC):
    """What both endpoints have."""

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    @property
    def answers(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, most_tokens: int) -> Sampling:
        """How the answers are written; what is left open is as OpenAI has it.

        Args:
            most_tokens: The server's longest answer.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_new_tokens=min(self._longest() or most_tokens, most_tokens),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            top_logprobs=self._top(),
        )

    def _longest(self) -> int | None:
        return self.max_tokens

    @abstractmethod
    def _top(self) -> int | None:
        """How many of the likeliest tokens are told with each; None: no log-probabilities."""


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096, fail_fast=True)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _names_tokens_only_with_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs 'logprobs': true")
        return self

    def conversation(self) -> list[dict[str, str]]:
        """The messages as chat templates read them."""
        return [{"role": turn.role.replace("developer", "system"), "content": turn.text} for turn in self.messages]

    def _longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def _top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: str | Several[str] | Ids | Several[Ids]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _is_not_too_much(self) -> CompletionRequest:
        prompts = len(self.prompts())
        if not 1 <= prompts * self.answers <= MOST_ANSWERS:
            raise ValueError(f"prompts times 'n' must be 1 to {MOST_ANSWERS}")
        return self

    def prompts(self) -> list[str | list[int]]:
        """Texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]

    def _longest(self) -> int | None:
        return self.max_tokens or 16  # as OpenAI has it

    def _top(self) -> int | None:
        return self.logprobs


Kind = TypeVar("Kind", bound=Asked)


def read(kind: type[Kind], body: bytes) -> Kind:
    """The request in a body.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(content, dict) or len(content) > MOST_FIELDS:
        raise ApiError(400, "the body is not a JSON object with the fields of a request")
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        raise _refusal(error) from error
    _check_others(request.model_extra or {})
    return request


def _refusal(error: ValidationError) -> ApiError:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    # Of a union: the kind that fits furthest.
    first = max(errors, key=lambda found: (len(found["loc"]), [part for part in found["loc"] if isinstance(part, int)]))
    shown = [part for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    place = ".".join(str(part)[:50] for part in shown)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{place}'", param=place, code="missing_required_parameter")
    return ApiError(
        400, f"Invalid '{place}': {message}" if place else message, param=place or None, code="invalid_value"
    )


def _check_others(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        nothing = any(type(value) is type(other) and value == other for other in ASKS_FOR_NOTHING)  # True == 1
        if name in PASSED_OVER or (name in NOT_THERE and nothing):
            continue
        if name in NOT_THERE:
            message = f"'{name}' is not supported by this server"
            raise ApiError(400, message, param=name, code="unsupported_parameter")
        shown = name[:50]
        raise ApiError(400, f"Unrecognized request argument supplied: {shown}", param=shown, code="unknown_parameter")
