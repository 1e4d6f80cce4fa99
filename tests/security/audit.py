"""requirements.lock -> pip-audit and its database -> packages with known holes; `make audit`.

Exit codes: 0 none is known, 1 some are, 2 the database (or pip-audit itself) could not be had, so nothing is known.
`make` itself ends with 2 for either; a job that must tell them apart runs `python -m tests.security.audit`.
pip-audit comes by `uv tool run`, into an environment of its own: what it needs must not mix with what is audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from tests.processes import ROOT

LOCK = "requirements.lock"
COMMAND = (
    sys.executable, "-m", "uv", "tool", "run", "--quiet", "pip-audit", "--requirement", LOCK,
    "--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off", "--timeout", "20",
)  # fmt: skip
PATIENCE_S = 600.0
NOT_KNOWN = (
    "So it is not known whether they have holes. pip-audit comes from a package registry and asks the Python Packaging"
    " Advisory Database on pypi.org: run this where both can be reached."
)

Run = Callable[[Sequence[str]], tuple[int, str, str]]


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {PATIENCE_S:g} s"
    return ran.returncode, ran.stdout, ran.stderr


def audit(run: Run = _run) -> int:
    """Print what is known, and give the exit code."""
    _, out, err = run(COMMAND)
    try:
        packages = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        why = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "it said nothing")
        print(f"make audit: pip-audit did not run: {why[:300]}\n{NOT_KNOWN}", file=sys.stderr)
        return 2
    holes = [(package, hole) for package in packages for hole in package.get("vulns", ())]
    for package, hole in holes:
        mended = ", ".join(hole.get("fix_versions", ())) or "no version yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {mended}")
    # A registry that is only a mirror knows packages and no advisories: pip-audit then says "none found".
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages of {LOCK} looked up.", file=sys.stderr)
    if skipped or not packages:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print(
            f"make audit: not in the database: {', '.join(skipped[:5]) or 'anything'}{more}.\n{NOT_KNOWN}",
            file=sys.stderr,
        )
    return 1 if holes else 2 if skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(audit())
