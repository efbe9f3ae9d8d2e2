"""Print the versions that clusterglm runs with in this environment, for roles/python_env/files/requirements.lock.

python ansible/lock.py >ansible/roles/python_env/files/requirements.lock
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement


def closure(name: str) -> dict[str, str]:
    """Return the version of everything that a package needs, directly or not, by name; itself left out."""
    found: dict[str, str] = {}
    waiting = [Requirement(name)]
    while waiting:
        wanted = waiting.pop()
        distribution = metadata.distribution(wanted.name)
        key = distribution.metadata["Name"].lower().replace("_", "-")
        if key in found:
            continue
        found[key] = distribution.version
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return {key: version for key, version in sorted(found.items()) if key != Requirement(name).name}


if __name__ == "__main__":
    print("# Made by ansible/lock.py: the versions that the tests have run with.")
    for name, version in closure("clusterglm").items():
        print(f"{name}=={version}")
