"""Extracts the container engines' default seccomp list into engines.json.

The list is that of Debian's package golang-github-containers-common. The package depends on a
network stack, so it is not installed for the tests. To generate engines.json again (on Debian 12,
with network access):

    python -m tests.unit.launch.engines
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "golang-github-containers-common"
LIST = "usr/share/containers/seccomp.json"
FACTS = Path(__file__).with_name("engines.json")


def reduce(profile: dict[str, Any]) -> dict[str, Any]:
    """Return the calls that a list of the engines allows, with their arguments and conditions."""
    allowed = []
    for rule in profile["syscalls"]:
        if rule["action"] != "SCMP_ACT_ALLOW":
            continue
        names = " ".join(sorted(rule["names"]))
        arguments = [
            [arg["index"], arg["op"].removeprefix("SCMP_CMP_"), arg["value"]]
            for arg in rule.get("args") or ()
        ]
        conditions = {
            f"{kind} {what}": sorted(given)
            for kind in ("includes", "excludes")
            for what, given in (rule.get(kind) or {}).items()
            if given
        }
        allowed.append({"names": names, "arguments": arguments, **conditions})
    return {"default": profile["defaultAction"], "allowed": allowed}


def main() -> None:
    """Download the package, unpack it, and write engines.json."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["apt-get", "-q", "download", PACKAGE], cwd=directory, check=True)
        (archive,) = Path(directory).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, "root"], cwd=directory, check=True)
        facts = reduce(json.loads((Path(directory) / "root" / LIST).read_text()))
        facts = {"source": f"{LIST} of {archive.stem}", **facts}
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
