"""`vlmlab serve`: a model behind OpenAI's API and text-generation-inference's. Whatever is heavy is imported inside."""

import dataclasses
import ipaddress
import math
import os
import re
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vlmlab import cluster
from vlmlab.commands import Device, Number, adapter_folder, best_device, model_folder, torch_dtype
from vlmlab.quantize_command import configured, speed_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlmlab.serve.media import Pictures, Policy
    from vlmlab.serve.service import Limits, Service

Names = Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: none)")]


@dataclasses.dataclass(frozen=True)
class Serving:
    """How a model is served."""

    host: str = "127.0.0.1"
    """The address to listen at: this machine alone may ask, unless another is said."""
    port: int = 8000
    """The port to listen at; 0 takes a free one."""
    name: str = ""
    """What clients may call the model too; `tgi` is another name of it."""
    adapter: Annotated[str, arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: none)")] = ""
    """An adapter to let act in it, in PEFT's files: its folder, a run's, or a name on the hub."""
    adapters: Annotated[
        tuple[str, ...], arg(metavar="NAME=FOLDER [NAME=FOLDER ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Adapters that requests may ask for by name, as their model."""
    adapters_from: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: not at all)")] = None
    """Let clients load adapters from folders inside of this one, and unload any, while the server runs."""
    adapters_memory: int = 1024
    """So many MiB may adapters with names take together."""
    rows: int = 16
    """How many answers are written at a time."""
    context: Annotated[
        int, arg(metavar="TOKENS", help_behavior_hint="(default: 4096, or fewer where it has fewer)")
    ] = 0
    """How many tokens a request may have, prompt and answer; the memory of --rows of them is taken at the start."""
    memory: int = 256
    """For pictures that come again: so many MiB of what was seen in them is kept."""
    queue: int = 64
    """How many requests may wait; the next are told to try again later."""
    max_new_tokens: int = 512
    """The tokens of an answer whose request does not say how many."""
    api_key_env: Annotated[str, arg(metavar="VARIABLE", help_behavior_hint="(default: no key)")] = ""
    """The environment variable that holds the key which requests must show."""
    api_key_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: no key)")] = None
    """The file that holds it."""
    allow_urls: Annotated[str, arg(metavar="off|public|HOST,HOST")] = "off"
    """Which pictures may be fetched from URLs: none, those of any host of the open internet, or of these hosts."""
    max_pictures: int = 16
    """The most pictures that a request may have."""
    max_request_mib: int = 32
    """The most MiB that a request may have, its pictures included."""
    cors: Names = ()
    """Sites whose pages may ask from a browser, such as https://example.org."""
    names: Names = ()
    """Names under which the server may be reached; at 127.0.0.1 those of this machine alone, else any."""
    chat: bool = False
    """Show a page to talk with the model, at /chat."""
    drain: float = 30.0
    """How many seconds what is under way may go on when the server is told to stop."""
    log_prompts: bool = False
    """Write what is asked into the log."""
    ray: bool = False
    """Answer with replicas on Ray, on this machine's GPUs or CPUs; see docs/serve.md."""
    replicas: Annotated[int, arg(help_behavior_hint="(default: one for each GPU, or one)")] = 0
    """How many of them."""
    ray_address: Annotated[str, arg(metavar="auto|HOST:PORT", help_behavior_hint="(default: a Ray of its own)")] = ""
    """The Ray cluster to put them on."""
    quantize: Annotated[
        Literal["", "int8", "int4", "nf4"], arg(metavar="int8|int4|nf4", help_behavior_hint="(default: as stored)")
    ] = ""
    """Hold the decoder's weights in few bits; see vlmlab quantize for a folder of them, and for awq."""
    device: Device = ""
    """Where to compute."""
    dtype: Number = "auto"
    """The kind of numbers to compute with; auto is as stored."""


def serve(
    model: Annotated[
        Positional[str], arg(metavar="FOLDER|HUB-ID", help_behavior_hint="(default: nano, the model in the box)")
    ] = "",
    serving: Annotated[Serving, arg(name="", prefix_name=False)] = Serving(),
) -> None:
    """Serve a model by OpenAI's API and text-generation-inference's. Ctrl-C lets answers end, then stops.

    Examples:
      vlmlab serve --chat
      vlmlab serve HuggingFaceM4/idefics2-8b --allow-urls public --api-key-env VLMLAB_KEY --host 0.0.0.0

    Args:
        model: A model's folder, a run's, a name on the hub, or nano.
    """
    try:
        from vlmlab.serve import app, running
    except ModuleNotFoundError as error:
        raise ValueError(f"vlmlab serve needs {error.name}: pip install 'vlmlab[serve]'") from None
    limits, policy = limits_of(serving), policy_of(serving)
    _check_place(serving.host, serving.port)
    _check_ray(serving)
    import logging

    from vlmlab.serve.media import Pictures

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if serving.ray:
        _serve_with_replicas(model, serving, limits)
        return
    with Pictures(policy) as pictures:
        service = _built(model, serving, limits, pictures)
        running.Server(app.create(service), service, serving.host, serving.port).run()


def _built(model: str, serving: Serving, limits: "Limits", pictures: "Pictures") -> "Service":
    """A model, loaded, as what serves it."""
    import logging

    from vlmlab.generate.engine import Engine
    from vlmlab.hub.load import load, locate
    from vlmlab.serve.service import Service

    name = model or "nano"
    adapter, adapters = adapter_folder(serving.adapter), adapters_of(serving)
    where, dtype = serving.device or best_device(), torch_dtype(serving.dtype)
    quantizer = configured(serving.quantize).build() if serving.quantize else None
    loaded, processor = load(model_folder(name), device=where, dtype=dtype, adapter=adapter, quantize=quantizer)
    speed_up(loaded)
    positions = loaded.config.language.positions
    if serving.context > positions:
        raise ValueError(f"--context must be {positions} or less, the positions of {name}, not {serving.context}")
    engine = Engine(
        loaded,
        processor,
        serving.rows,
        serving.memory << 20,
        serving.context or None,
        queue=serving.queue,
        adapter_memory=serving.adapters_memory << 20,
    )
    called = Path(name).name if Path(name).is_dir() else name
    names = tuple(dict.fromkeys([called, *([serving.name] if serving.name else [])]))
    for own, folder in adapters.items():
        if own in names:
            raise ValueError(f"--adapters {own}: that is the model's own name")
        size = engine.load_adapter(own, locate(folder)).nbytes
        logging.getLogger("vlmlab.serve").info("the adapter %s takes %d bytes", own, size)
    return Service(engine, names, limits, pictures)


def _serve_with_replicas(model: str, serving: Serving, limits: "Limits") -> None:
    from vlmlab.serve import replicas, running
    from vlmlab.serve.front import Front

    if not serving.ray_address:  # what is wrong with these is said here, before anything is started
        model_folder(model or "nano")
        adapter_folder(serving.adapter)
        adapters_of(serving)
    # What the front sees to is left out: the key stays here. Replicas may run in another folder.
    within = dataclasses.replace(limits, key=None, hosts=(), origins=())
    model = _whole_path(model)
    named = tuple(f"{name}={_whole_path(folder)}" for name, folder in adapters_of(serving).items())
    serving = dataclasses.replace(serving, adapter=_whole_path(serving.adapter), adapters=named)

    def build(device: str) -> "Callable[[], Service]":
        return partial(_replica, model, dataclasses.replace(serving, device=device), within)

    with (
        cluster.joined(serving.ray_address, "serve,ray"),
        replicas.started(
            build, serving.replicas, serving.device, replicas.own_name(serving.port), limits.drain_seconds
        ) as copies,
    ):
        front = Front(copies, dataclasses.replace(limits, at_once=limits.at_once * copies.wanted))
        running.Server(front.app(), front, serving.host, serving.port).run()


def _whole_path(name: str) -> str:
    """A folder's whole path; a name on the hub as it is."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _replica(model: str, serving: Serving, limits: "Limits") -> "Service":
    """The service of one replica, in its own process."""
    from vlmlab.serve.media import Pictures

    return _built(model, serving, limits, Pictures(policy_of(serving)))


def _check_ray(serving: Serving) -> None:
    """Raise ValueError for options that contradict each other."""
    if not serving.ray and (serving.replicas or serving.ray_address):
        raise ValueError("--replicas and --ray-address are for --ray: say that too")
    if serving.replicas < 0:
        raise ValueError(f"--replicas must be 1 or more, not {serving.replicas}")
    if serving.ray_address.startswith("ray://"):
        raise ValueError(
            f"--ray-address {serving.ray_address}: Ray's client cannot stream; start this on a machine of the cluster, "
            "and say auto"
        )
    if serving.ray and serving.device not in ("", "cpu", "cuda"):
        raise ValueError(f"--device {serving.device}: with --ray say cuda or cpu; Ray chooses which GPU each gets")
    if serving.ray and serving.adapters_from is not None:
        raise ValueError("--adapters-from: with --ray an adapter would reach one replica alone; name it in --adapters")


def limits_of(serving: Serving) -> "Limits":
    """The limits that a command line asks for. Raises ValueError for what cannot be."""
    from vlmlab.serve.service import LOCAL, Limits

    _check(serving)
    local = _is_local(serving.host)
    return Limits(
        key=_key(serving),
        hosts=tuple(name.lower() for name in serving.names) + (LOCAL if local else ()),
        origins=serving.cors,
        body_bytes=serving.max_request_mib << 20,
        at_once=serving.rows + serving.queue + 16,
        new_tokens=serving.max_new_tokens,
        drain_seconds=serving.drain,
        chat=serving.chat,
        log_prompts=serving.log_prompts,
        adapters_from=serving.adapters_from,
    )


def _check(serving: Serving) -> None:
    """Raise ValueError for a number that cannot be, and for a site or a name that no client has."""
    if serving.context and serving.context < 256:
        raise ValueError(f"--context must be 256 or more, not {serving.context}")
    if not 0 <= serving.port < 65536:
        raise ValueError(f"--port must be 0 to 65535, not {serving.port}")
    for option, value, least in (
        ("--rows", serving.rows, 1),
        ("--memory", serving.memory, 0),
        ("--adapters-memory", serving.adapters_memory, 1),
        ("--queue", serving.queue, 1),
        ("--max-new-tokens", serving.max_new_tokens, 1),
        ("--max-pictures", serving.max_pictures, 1),
        ("--max-request-mib", serving.max_request_mib, 1),
        ("--drain", serving.drain, 0),
    ):
        if not least <= value < math.inf:
            raise ValueError(f"{option} must be {least} or more, not {value}")
    for site in serving.cors:
        if site != "*" and not re.fullmatch(r"https?://[^/\s]+", site):
            raise ValueError(f"--cors {site}: write a site as browsers do, https://example.org, without a path")
    for name in serving.names:
        if not re.fullmatch(r"[^/\s:]+|\[[0-9a-fA-F:.]+\]", name):
            raise ValueError(f"--names {name}: write a name as example.org, without scheme, port or path")


def adapters_of(serving: Serving) -> dict[str, str]:
    """The folders or hub ids of the adapters with names, by those. Raises ValueError for what cannot be."""
    if serving.adapter and (serving.adapters or serving.adapters_from):
        raise ValueError("--adapter acts for all requests, --adapters and --adapters-from for those that ask: say one")
    found: dict[str, str] = {}
    for item in serving.adapters:
        name, _, folder = item.partition("=")
        if not name or not folder or name in found:
            raise ValueError(f"--adapters {item}: say NAME=FOLDER, each name once")
        found[name] = adapter_folder(folder) or folder
    return found


def policy_of(serving: Serving) -> "Policy":
    """What pictures requests may name. Raises ValueError for what cannot be."""
    from vlmlab.serve.media import Policy

    most = serving.max_pictures
    if serving.allow_urls == "off":
        return Policy(pictures=most)
    if serving.allow_urls == "public":
        return Policy("public", pictures=most)
    hosts = tuple(host.strip() for host in serving.allow_urls.split(",") if host.strip())
    try:
        return Policy("listed", hosts, pictures=most)
    except ValueError as error:
        raise ValueError(f"--allow-urls {serving.allow_urls}: say off, public, or hosts: {error}") from None


def _check_place(host: str, port: int) -> None:
    """Raise ValueError for a place where one cannot listen: before a model is loaded for it."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as trying:
            trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trying.bind(place)
    except OSError as error:
        raise ValueError(f"cannot listen at --host {host} --port {port}: {error.strerror or error}") from None


def _key(serving: Serving) -> str | None:
    if serving.api_key_env and serving.api_key_file:
        raise ValueError("--api-key-env and --api-key-file: say one of them")
    if serving.api_key_env:
        key = os.environ.get(serving.api_key_env, "")
        if not key:
            raise ValueError(f"--api-key-env {serving.api_key_env}: there is no such variable, or it is empty")
        return key
    if serving.api_key_file:
        return serving.api_key_file.read_text(encoding="utf-8").strip()
    return None


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
