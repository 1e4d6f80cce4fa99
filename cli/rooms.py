"""a module, a file or a git revision -> a folder with the rules to try, apart from those that run here."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
#: What decides how a record is understood and what follows from it; the engine stays the one at hand.
RULES = ("schemas", "tables", "agents")
#: What the engine asks about the world outside goes with the engine.
WITH_ENGINE = Path("agents/effects/supposed.py")
#: The name under which a file of rules is imported.
TRIED = "tried_rules"


def furnish(folder: Path, rules: tuple[str, ...], revision: str | None) -> str | None:
    """Put the rules into a folder; gives the module that is to be imported before they are wired, if there is one.

    `rules`: a module to import, a file to import, or `module=file`: a file that stands in for one of our modules.
    """
    folder.mkdir()
    if revision is None:
        for room in RULES:
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        _extract(revision, folder)
    shutil.copytree(ROOT / "streams", folder / "streams", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / WITH_ENGINE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / WITH_ENGINE, folder / WITH_ENGINE)
    module: str | None = None
    for each in rules:
        name, is_stand_in, file = each.partition("=")
        if is_stand_in:
            _stand_in(folder, name, Path(file))
        elif module is not None:
            raise click.BadParameter(f"{module} and {each}: one module at most is imported", param_hint="--rules")
        elif name.endswith(".py"):
            shutil.copy(_file(Path(name)), folder / f"{TRIED}.py")
            module = TRIED
        else:
            module = name
    return module


def _extract(revision: str, folder: Path) -> None:
    try:
        found = subprocess.run(
            ["git", "archive", revision, *RULES], cwd=ROOT, capture_output=True, check=True, timeout=60
        )
    except FileNotFoundError:
        raise click.BadParameter("there is no git here; try --rules", param_hint="--revision") from None
    except subprocess.CalledProcessError as error:
        detail = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise click.BadParameter(f"{revision}: {' '.join(detail)}", param_hint="--revision") from None
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _stand_in(folder: Path, module: str, file: Path) -> None:
    if module.partition(".")[0] not in RULES:
        raise click.BadParameter(f"{module} is in none of {', '.join(RULES)}", param_hint="--rules")
    place = folder.joinpath(*module.split("."))
    place = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not place.exists():
        raise click.BadParameter(f"there is no module {module} that {file} could stand in for", param_hint="--rules")
    shutil.copy(_file(file), place)


def _file(file: Path) -> Path:
    if not file.is_file():
        raise click.BadParameter(f"there is no file {file}", param_hint="--rules")
    return file
