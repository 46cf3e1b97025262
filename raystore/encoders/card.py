"""What is known of a model beside what it puts out, read from its model card: licence, training data, objective.

Nothing here changes a vector, so nothing here is in the fingerprint. Only what the card says is taken over; what it
leaves open stays open. Reads two small files and the versions of installed packages; loads no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from raystore.encoders.passport import Card
from raystore.errors import InvalidArguments

Objective = Literal["supervised", "contrastive", "self-supervised"]

MAX_CARD_BYTES = 262_144  # what is read of a README: the longest cards on the hub are a quarter of it
_SHORT = 200  # characters kept of one value
_MANY = 100  # values kept of one list

# Tags that name a way of training without labels. DINO's and MAE's cards carry them.
_SELF_SUPERVISED = {"dino", "dinov2", "dinov3", "mae", "vit-mae", "byol", "data2vec", "ijepa", "self-supervised"}
# Tasks of models that put like beside like; they count as contrastive where the card says that word or names such a loss.
_PAIRED = {"sentence-similarity", "feature-extraction", "zero-shot-image-classification", "text-ranking"}
_CONTRASTIVE = re.compile(r"contrastive|multiplenegatives|simcse|infonce|clip loss", re.IGNORECASE)
_SUPERVISED = {"image-classification", "text-classification", "token-classification"}


def read_card(
    folder: Path,
    *,
    licence: str | None = None,
    trained_on: Sequence[str] = (),
    objective: Objective | None = None,
) -> Card:
    """What the model card in `folder` says, with the caller's values before the card's, and the libraries' versions.

    Args:
        folder: of the model; README.md opens with YAML between two lines of three dashes. None there is no error.
        licence: as the caller knows it; else the card's, else "see LICENSE" where there is such a file.
        trained_on: names of data sets; else the card's.
        objective: else from the card's tags and task, where they say it.

    Raises:
        InvalidArguments: `objective` is none of the three, `licence` or `trained_on` are not texts.
    """
    _check(licence, trained_on, objective)
    said, prose = _front_matter(folder / "README.md")
    return Card(
        licence=licence or _licence(said) or _licence_file(folder),
        trained_on=tuple(trained_on) or _texts(said.get("datasets")),
        objective=objective or _objective(said, prose),
        base_model=next(iter(_texts(said.get("base_model"))), None),
        libraries=_libraries(has_images=(folder / "preprocessor_config.json").is_file()),
    )


def _check(licence: object, trained_on: object, objective: object) -> None:
    problems = []
    if licence is not None and not isinstance(licence, str):
        problems.append("licence= is a text such as 'apache-2.0'")
    if (
        isinstance(trained_on, (str, bytes))
        or not isinstance(trained_on, Iterable)
        or not all(isinstance(name, str) for name in trained_on)
    ):
        problems.append("trained_on= is a list of names of data sets")
    if objective is not None and objective not in get_args(Objective):
        problems.append(f"objective= is one of {', '.join(get_args(Objective))}")
    if problems:
        raise InvalidArguments(call="register", problems=problems)


def _front_matter(path: Path) -> tuple[dict[str, Any], str]:
    """The card's YAML as a mapping, and the text below it; both empty where there is none or it does not parse."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", "replace").lstrip("\ufeff").replace("\r\n", "\n")
    except OSError:
        return {}, ""
    if not text.startswith("---\n"):
        return {}, text
    head, closing, prose = text[4:].partition("\n---")
    if not closing:
        return {}, text
    try:
        found = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that does not exist is a ValueError
        return {}, prose
    return (found if isinstance(found, dict) else {}), prose


def _texts(value: object) -> tuple[str, ...]:
    """The texts in a value that may be one or a list of them; whatever else stands there is left out."""
    values = value if isinstance(value, list) else [value]
    return tuple(v.strip()[:_SHORT] for v in values[:_MANY] if isinstance(v, str) and v.strip())


def _licence(said: dict[str, Any]) -> str | None:
    names = _texts(said.get("license"))
    if names == ("other",):  # the hub's word for a licence it has no short name for; the name stands beside it
        names = _texts(said.get("license_name")) or names
    return ", ".join(names) or None


def _licence_file(folder: Path) -> str | None:
    found = sorted(p.name for p in folder.glob("LICEN[SC]E*") if p.is_file())
    return f"see {found[0]}" if found else None


def _objective(said: dict[str, Any], prose: str) -> Objective | None:
    """A classifier was trained on labels, whatever came before; a model of pairs is contrastive if its card says so."""
    task = next(iter(_texts(said.get("pipeline_tag"))), "").lower()
    tags = [tag.lower() for tag in _texts(said.get("tags"))]
    if task in _SUPERVISED:
        return "supervised"
    if _SELF_SUPERVISED & {*tags}:
        return "self-supervised"
    is_paired = task in _PAIRED or bool(_PAIRED & {*tags})
    if is_paired and _CONTRASTIVE.search("\n".join([*tags, prose])):
        return "contrastive"
    return None


def _libraries(*, has_images: bool) -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "tokenizers", *(["pillow"] if has_images else [])):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
