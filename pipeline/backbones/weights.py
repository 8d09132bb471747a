"""Where weights come from: a published tag, a local file, or a seeded random initialisation that says so.

A file is read as data only: safetensors, or `torch.load(weights_only=True)`. Accepted wrappings are those in which the models are
published: a plain state dict, `{"model_state": ...}` (pytorchvideo), `{"state_dict": ...}` (open_clip training checkpoints).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.errors import WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice, looks_like_file, require_file

WRAPPERS = ("model_state", "state_dict", "model")


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What the fingerprint keeps of weights: tag (or `file`), the seed where random, and the digest of the tensors.

    published_as: the tag that a file was said to hold, or empty.
    """

    tag: str
    digest: str
    seed: int | None = None
    file: str = ""
    published_as: str = ""

    def as_fields(self) -> dict[str, Any]:
        """JSON-able fields; the file's name is not among them, since moving a file does not change a feature."""
        fields: dict[str, Any] = {"tag": self.tag, "digest": self.digest}
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.published_as:
            fields["published_as"] = self.published_as
        return fields


def record_of(choice: StreamChoice, digest: str) -> WeightsRecord:
    """The record of weights of this digest that a choice named: random, a file or a tag."""
    if choice.weights == RANDOM:
        return WeightsRecord(RANDOM, digest, seed=choice.seed)
    if looks_like_file(choice.weights):
        return WeightsRecord("file", digest, file=choice.weights, published_as=choice.tag)
    return WeightsRecord(choice.weights, digest)


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """`sha256:<hex>` over names, dtypes, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def read_state_dict(path: Path, *, said: str) -> dict[str, torch.Tensor]:
    """Tensors of a weights file by name. said: the path as it was given. Raises WeightsError with it and what is accepted."""
    require_file(path, said=said)
    try:
        torchscript = _is_torchscript(path)
        loaded: Any = None if torchscript else _load(path)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        if type(error).__name__ == "UnpicklingError":  # torch's own words advise to run what is in it
            reason = "it holds objects beside tensors, which are never loaded"
        raise WeightsError(
            f"{said}: cannot be read as weights ({reason[:200]}); a damaged download?"
        ) from error
    if torchscript:
        raise WeightsError(
            f"{said}: this is a TorchScript archive, which holds code to run; "
            "give the same weights as safetensors or as a plain state dict"
        )
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    tensors = (
        {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors:
        raise WeightsError(f"{said}: holds no tensors by name; expected a state dict")
    if all(name.startswith("module.") for name in tensors):  # saved from DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def fill_weights(module: torch.nn.Module, choice: StreamChoice, *, url: str) -> WeightsRecord:
    """Load what `choice.weights` names into a network that was built under the choice's seed: `random` leaves it, a file, or, for

    a tag, the file at `url`. Eval mode, frozen. Raises WeightsError.
    """
    said = choice.setting("weights", choice.weights)
    if choice.weights == RANDOM:
        tag, seed, file = RANDOM, choice.seed, ""
    elif looks_like_file(choice.weights):
        state = read_state_dict(Path(choice.weights), said=said)
        load_exactly(module, state, origin=said)
        tag, seed, file = "file", None, choice.weights
    else:
        load_exactly(module, _download(choice, url), origin=said)
        tag, seed, file = choice.weights, None, ""
    module.eval().requires_grad_(False)
    return WeightsRecord(tag, state_digest(module.state_dict()), seed=seed, file=file)


def _download(choice: StreamChoice, url: str) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=True, weights_only=True, check_hash=True
        )
    except Exception as error:  # urllib, ssl and file system errors all mean: the file is not here
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"{choice.setting('weights', choice.weights)}: cannot be downloaded ({type(error).__name__}). Get {url} "
            f"on a machine with network and put it into {folder}, or pass "
            f"{choice.setting('weights', 'PATH/TO/' + url.rsplit('/', maxsplit=1)[-1])}; "
            f"or use {choice.setting('weights', RANDOM)} for a dry run"
        ) from error
    state: dict[str, torch.Tensor] = loaded.get("model_state", loaded)
    return state


def load_exactly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, origin: str) -> None:
    """Load `state` into `module`, every tensor and no other. Raises WeightsError naming what does not fit."""
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    misshapen = [
        f"{k} is {list(state[k].shape)} not {list(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if state[k].shape != own[k].shape
    ]
    problems = [_few("missing", missing), _few("not in the model", unknown), _few("wrong shape", misshapen)]
    if any(problems):
        raise WeightsError(f"{origin}: does not fit the model: " + "; ".join(p for p in problems if p))
    module.load_state_dict(dict(state))


def _few(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
