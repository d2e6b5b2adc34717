"""What OpenAI's clients send: the fields that are read, those that are passed over, and those that are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

STOPS = 4
"""How many stop strings a request may have, as OpenAI's."""

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Schema(BaseModel):
    """Fields that are not known are errors: a name that is misspelt must not be passed over."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Schema):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Schema):
    """Where a picture is: `data:image/png;base64,...`, or an http(s) URL where the server opens those."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="Passed over; say `splitting` and `longest_edge` for the whole request."
    )


class ImagePart(Schema):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Turn(Schema):
    """One message: who says it, and text, or text and pictures in reading order."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = Field(None, description="Passed over.")
    tool_calls: None = None
    refusal: None = None


class JsonSchema(Schema):
    """A JSON schema that the answer must follow."""

    name: str = Field(max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class Format(Schema):
    """What the answer must be: any text, some JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Schema):
    """What a stream holds beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="Passed over.")


class Asking(Schema):
    """What chats and completions have in common, vlmlab's own fields last."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="1 by default; 0 is greedy.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: float | None = Field(None, description="Only 0: use `repetition_penalty`.")
    presence_penalty: float | None = Field(None, description="Only 0: use `repetition_penalty`.")
    logit_bias: dict[str, float] | list[float] | None = Field(None, description="Only none.")
    user: str | None = Field(None, description="Passed over.")
    metadata: dict[str, Any] | None = Field(None, description="Passed over.")
    store: bool | None = Field(None, description="Passed over: nothing is stored.")
    service_tier: str | None = Field(None, description="Passed over.")
    safety_identifier: str | None = Field(None, description="Passed over.")
    prompt_cache_key: str | None = Field(None, description="Passed over: beginnings are shared by themselves.")

    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="vlmlab: draw from the so many likeliest."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="vlmlab: above 1, what was said becomes less likely."
    )
    splitting: bool | None = Field(
        None, description="vlmlab: read each picture in four parts and as a whole; sees small print."
    )
    longest_edge: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="vlmlab: pictures are made no larger than this, in pixels."
    )
    max_visual_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="vlmlab: the most that all the request's pictures may cost; they are made smaller until fit."
    )
    report_cost: bool = Field(False, description="vlmlab: say in `cost` what the answer took.")

    @field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("only 0 is served; repetition_penalty makes what was said less likely")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _no_bias(cls, value: dict[str, float] | list[float] | None) -> dict[str, float] | list[float] | None:
        if value:
            raise ValueError("a bias of tokens is not served")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Asking):
    """A conversation to be continued by the assistant."""

    messages: list[Turn] = Field(min_length=1)
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Format | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = Field(None, description="Passed over.")
    verbosity: str | None = Field(None, description="Passed over.")
    parallel_tool_calls: bool | None = Field(None, description="Passed over.")
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Only none.")
    tool_choice: Literal["none", "auto"] | None = Field(None, description="Passed over: there are no tools.")


class CompletionRequest(Asking):
    """A text to go on from, read as it stands, without the chat template; `![](url)` in it is a picture."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=16)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="Only 1.")
