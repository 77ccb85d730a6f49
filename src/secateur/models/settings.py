"""Settings of networks, known names, and checks of names before anything is opened.

Nothing here imports PyTorch, or the library to which a name belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean, did_you_mean_file
from secateur.core.registry import Registry
from secateur.models import installed, own_code
from secateur.models.safetensors_file import read_metadata

if TYPE_CHECKING:
    from torch import nn

registered: Registry[nn.Module] = Registry(
    "model",
    {
        **dict.fromkeys(("resnet20", "resnet56", "vgg11-bn-32"), "secateur.models.cifar"),
        "vit-32": "secateur.models.vit",
        "prototype-network": "secateur.models.prototype_network",
    },
)

SHIPPED = {"resnet20-cifar10": "resnet20", "vit-cifar10": "vit-32"}
"""Trained networks that come with this package, and what they are."""

WEIGHTS = Path(__file__).parent / "weights"
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
PROGRAM = ".pt2"
LIBRARIES = ("torchvision", "timm", "transformers")
BUNDLE = "manifest.json"

Kind = Literal["registered", "shipped", "torchvision", "timm", "transformers", "weights", "program", "bundle", "code"]


class ModelSettings(BaseModel):
    """The network, and its weights.

    ``name`` is one of ours (``resnet20``, ``resnet56``, ``vgg11-bn-32``, ``vit-32``), a shipped trained network
    (``resnet20-cifar10``, ``vit-cifar10``), ``torchvision/NAME``, ``timm/NAME``, ``transformers/CLASS``, a bundle
    folder, a file of weights (``.safetensors``; ``architecture`` names the network where the file does not), an
    exported program (``.pt2``), or with ``trust_code`` the user's own: ``package.module:factory`` or
    ``path/to/file.py:factory``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "resnet20"
    arguments: dict[str, Any] = Field(default_factory=dict, description="passed to the network's constructor")
    weights: Path | None = Field(default=None, description=".safetensors, or .pt/.pth that loads with weights_only")
    architecture: str | None = Field(
        default=None, description="network of a file of weights, or of a bundle of your own network"
    )
    trust_code: bool = Field(default=False, description="run your own code to which name or architecture refers")
    allow_untrained: bool = Field(default=False, description="allow a network with random weights")
    replace_head: Literal["keep", "slice", "mask"] = Field(
        default="keep",
        description="keep all logits, or slice or mask the head: to data.classes, or the data's classes by name",
    )


def known_models() -> list[str]:
    """Names that `build` accepts without a prefix."""
    return sorted([*registered, *SHIPPED])


def kind_of(name: str) -> Kind:
    """The kind of a network's name. Registered names take precedence over files and folders (write those with ``./``).

    Raises:
        RequestError: for a name of no known kind.

    Example:
        >>> kind_of("resnet20-cifar10"), kind_of("timm/resnet18"), kind_of("my_package.networks:make")
        ('shipped', 'timm', 'code')
    """
    if name in registered:
        return "registered"
    if name in SHIPPED:
        return "shipped"
    for library in LIBRARIES:
        if name.startswith(f"{library}/"):
            return library  # type: ignore[return-value]  # one of the literals
    if ":" in name:
        return "code"
    suffix = Path(name).suffix.lower()
    if suffix == PROGRAM:
        return "program"
    if suffix in WEIGHT_FILES:
        return "weights"
    if name and Path(name).is_dir():
        return "bundle"
    if name in installed.torchvision_classifiers():
        return "torchvision"
    raise _unknown(name)


def check_model_name(name: str) -> None:
    """Refuse names of networks that are certainly wrong, without importing PyTorch or another library.

    Args:
        name: see `ModelSettings`.

    Raises:
        RequestError: for an unknown name, a file or folder that is missing, or a library that is not installed; with
            the nearest valid name.

    Example:
        >>> check_model_name("torchvision/resnet18")
        >>> check_model_name("resnet")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown model 'resnet' (did you mean 'resnet20'?); known: ...
    """
    kind, plain = kind_of(name), name.partition("/")[2]
    if kind == "torchvision":
        _check_torchvision(plain or name)
    elif kind == "timm":
        _check_timm(plain)
    elif kind == "transformers":
        _check_transformers(plain)
    elif kind == "code":
        own_code.check_reference(name)
    elif kind == "bundle":
        _check_bundle(Path(name))
    elif kind in ("weights", "program") and not Path(name).is_file():
        raise RequestError(f"model '{name}' is a file that does not exist{did_you_mean_file(name)}")


def check_model(settings: ModelSettings) -> None:
    """Refuse settings of a network that are certainly wrong, without importing PyTorch.

    Raises:
        RequestError: as `check_model_name`; for weights that are missing or given twice, for a file of weights
            without a named network, and for the user's own code without ``trust_code``.

    Example:
        >>> check_model(ModelSettings(name="resnet20", architecture="resnet56"))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: model.architecture says what a file of weights or a bundle holds; ...
    """
    name = settings.name
    check_model_name(name)
    kind = kind_of(name)
    if kind == "code":
        own_code.check_trust(name, settings.trust_code)
    if settings.weights is not None:
        _check_weights(settings.weights, name, kind)
    if settings.architecture is not None:
        _check_architecture(settings.architecture, kind, settings)
    elif kind == "weights":
        architecture_of(name)


def has_random_weights(settings: ModelSettings) -> bool:
    """Whether the settings name no trained weights.

    Example:
        >>> [has_random_weights(ModelSettings(name=name)) for name in ("resnet20", "resnet20-cifar10")]
        [True, False]
    """
    by_name = kind_of(settings.name) in ("registered", *LIBRARIES)
    return by_name and settings.weights is None and not fetched(settings.arguments)


def fetched(arguments: Mapping[str, Any]) -> bool:
    """Whether a constructor's arguments request trained weights from a library.

    Example:
        >>> fetched({"weights": "DEFAULT"}), fetched({"pretrained": False})
        (True, False)
    """
    inner = arguments.get("backbone_arguments")
    return bool(arguments.get("weights") or arguments.get("pretrained") or (isinstance(inner, dict) and fetched(inner)))


def architecture_of(path: str | Path) -> str:
    """The name of the network of the weights in a safetensors file, by its header.

    Raises:
        RequestError: when it names none, or one that an untrusted file must not name.
    """
    remedy = "name its network: --architecture resnet20 (model.architecture), or any other that --model takes"
    if Path(path).suffix.lower() != ".safetensors":
        raise RequestError(f"'{path}' holds weights, and does not say of which network; {remedy}")
    name = read_metadata(path).get("architecture")
    if name is None and (Path(path).parent / BUNDLE).is_file():
        raise RequestError(f"'{path}' belongs to a bundle; give the folder: '{Path(path).parent}'")
    if not isinstance(name, str):
        raise RequestError(f"the header of '{path}' does not say of which network the weights are; {remedy}")
    try:
        kind = kind_of(name)
    except RequestError as error:
        raise RequestError(f"the header of '{path}' names a network that is not known here ({error})") from error
    if kind in ("registered", *LIBRARIES):
        check_model_name(name)
        return name
    raise RequestError(f"the header of '{path}' names '{name[:60]}', which a file may not ask for; {remedy}")


def _check_architecture(name: str, kind: Kind, settings: ModelSettings) -> None:
    if kind not in ("weights", "bundle"):
        raise RequestError(
            f"model.architecture says what a file of weights or a bundle holds; '{settings.name}' is neither, leave "
            "it out (weights go in model.weights)"
        )
    check_model_name(name)
    inner = kind_of(name)
    if inner in ("weights", "bundle") or (inner == "program" and kind == "weights"):
        raise RequestError(f"model.architecture='{name}' holds weights itself; name how the network is built")
    if inner == "code":
        own_code.check_trust(name, settings.trust_code)


def _check_weights(weights: Path, name: str, kind: Kind) -> None:
    if kind in ("weights", "program", "bundle"):
        raise RequestError(f"'{name}' brings its weights; leave out --weights (model.weights)")
    if not weights.is_file():
        raise RequestError(f"checkpoint '{weights}' does not exist{did_you_mean_file(weights)}")


def _check_torchvision(name: str) -> None:
    if not installed.is_installed("torchvision"):
        raise RequestError(f"model 'torchvision/{name}' needs torchvision: pip install torchvision")
    known = installed.torchvision_classifiers()
    if name not in known:
        raise RequestError(
            f"torchvision has no classifier '{name}'{did_you_mean(name, known)}; "
            "see torchvision.models.list_models(module=torchvision.models)"
        )


def _check_timm(name: str) -> None:
    installed.need_library("timm", f"timm/{name}")
    if ":" in name:
        raise RequestError(
            f"'timm/{name}': networks are not fetched from a hub by name; give one of timm.list_models()"
        )
    plain = name.partition(".")[0]  # behind it, the tag of the weights
    if plain not in installed.timm_networks() and plain not in installed.renamed_in_timm():
        close = did_you_mean(plain, installed.timm_networks())
        raise RequestError(f"timm has no model '{plain}'{close}; see timm.list_models()")


def _check_transformers(name: str) -> None:
    installed.need_library("transformers", f"transformers/{name}")
    if not name.isidentifier() or name.startswith("_") or not installed.has_transformers_class(name):
        close = did_you_mean(name, installed.transformers_classes())
        raise RequestError(
            f"transformers has no network class '{name}'{close}; give one such as ViTForImageClassification"
        )


def _check_bundle(folder: Path) -> None:
    if (folder / BUNDLE).is_file():
        return
    weights = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    close = f"; a file of weights lies there: give '{weights[0]}'" if weights else ""
    inner = sorted(file.parent for file in folder.glob(f"*/{BUNDLE}"))
    close = f" (did you mean '{inner[0]}'?)" if inner else close
    raise RequestError(f"folder '{folder}' is not a bundle: {BUNDLE} is missing{close}")


def _unknown(name: str) -> RequestError:
    known = known_models()
    close = did_you_mean(name, [*known, *installed.torchvision_classifiers()])
    if "/" in name:
        close = did_you_mean_file(name) or close or ", and there is no such folder"
    return RequestError(
        f"unknown model '{name}'{close}; known: {', '.join(known)}, torchvision/NAME, timm/NAME, transformers/CLASS, "
        "a bundle folder, a .safetensors or .pt2 file, package.module:factory"
    )
