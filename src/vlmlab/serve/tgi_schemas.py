"""What clients of text-generation-inference send: every parameter of its client, and which are refused."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vlmlab.serve.schemas import STOPS, Schema, Stop

_LONG = Field(lt=2**31)


class Grammar(Schema):
    """What the text must be: JSON that follows a schema, or text that a regular expression matches whole."""

    type: Literal["json", "regex"]
    value: str | dict[str, Any]


class Parameters(Schema):
    """How to write. Drawing begins with `do_sample`, or where a temperature, `top_k` or `top_p` narrows what is drawn.

    vlmlab's own fields come last.
    """

    do_sample: bool = False
    max_new_tokens: Annotated[int, Field(ge=1), _LONG] | None = 100
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    temperature: Annotated[float, Field(gt=1e-4, le=100)] | None = None
    top_k: Annotated[int, Field(ge=1), _LONG] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    stop: Annotated[list[Stop], Field(max_length=STOPS)] = Field(default_factory=list)
    stop_sequences: Annotated[list[Stop], Field(max_length=STOPS)] | None = Field(None, description="Same as `stop`.")
    details: bool = False
    return_full_text: bool | None = False
    top_n_tokens: Annotated[int, Field(ge=0, le=20)] | None = None
    grammar: Grammar | None = None
    decoder_input_details: bool = Field(False, description="Only false: prompts are not scored.")
    frequency_penalty: float | None = Field(None, description="Only none: use `repetition_penalty`.")
    typical_p: float | None = Field(None, description="Only none or 1.")
    truncate: int | None = Field(None, description="Only none: a prompt that is too long is refused, with what fits.")
    best_of: int | None = Field(None, description="Only none or 1.")
    watermark: bool = Field(False, description="Only false.")
    adapter_id: str | None = Field(None, description="The adapter that acts for this request, of `GET /v1/models`.")

    splitting: bool | None = Field(None, description="vlmlab: read each picture in four parts and as a whole.")
    longest_edge: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_visual_tokens: Annotated[int, Field(ge=1), _LONG] | None = None
    report_cost: bool = Field(False, description="vlmlab: say in `details.cost` what the answer took.")

    @field_validator("decoder_input_details", "watermark")
    @classmethod
    def _not(cls, value: bool) -> bool:
        if value:
            raise ValueError("it is not served")
        return value

    @field_validator("frequency_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("it is not served; repetition_penalty makes what was said less likely")
        return value

    @field_validator("typical_p", "best_of")
    @classmethod
    def _one(cls, value: float | int | None) -> float | int | None:
        if value is not None and value != 1:
            raise ValueError("only 1 is served")
        return value

    @field_validator("truncate")
    @classmethod
    def _whole(cls, value: int | None) -> int | None:
        if value is not None:
            raise ValueError("prompts are read whole; one that is too long is refused, with what would fit")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, by both names."""
        return (*self.stop, *(self.stop_sequences or []))

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, rather than the likeliest taken."""
        warm = self.temperature is not None and self.temperature != 1
        return self.do_sample or warm or self.top_k is not None or (self.top_p is not None and self.top_p < 1)


class GenerateRequest(Schema):
    """A prompt, with the template written out and pictures as `![](url)`, and how to go on."""

    inputs: str = Field(min_length=1)
    parameters: Parameters | None = None


class CompatRequest(GenerateRequest):
    """The same, and whether the answer is a stream."""

    stream: bool = False
