"""What may stand in the project's files: nothing of one machine, nothing that somebody else wrote."""

import re
from pathlib import Path

# written in two parts, or this file would find itself
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "deb" + "ian.org",
]
MACHINE_PATHS = ["/ro" + "ot/", "/wo" + "rk/", "/Us" + "ers/", "/opt/py" + "pi", "/opt/wh" + "eels"]
FOREIGN = re.compile(
    "|".join(
        [rf"\b{re.escape(host)}\b" for host in REGISTRY_HOSTS]
        + [rf"(?<![\w.~}}]){path}" for path in MACHINE_PATHS]
    )
)
LONGEST_WRITTEN_LINE = 300


def test_no_file_names_a_registry_or_a_machine(root: Path, project_files: list[Path]) -> None:
    """No file names the host of a package registry or a path of the machine that it was written on."""
    named = [
        f"{path.relative_to(root)}:{number} {found.group()}"
        for path in project_files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (found := FOREIGN.search(line))
    ]
    assert named == []


def test_scripts_and_styles_are_written_by_hand(root: Path, project_files: list[Path]) -> None:
    """The repository holds no minified or bundled JavaScript or CSS."""
    machine_made = [
        str(path.relative_to(root))
        for path in project_files
        if path.suffix in {".js", ".mjs", ".cjs", ".css"}
        and (
            ".min." in path.name
            or "sourceMapping" + "URL" in (text := path.read_text())
            or any(len(line) > LONGEST_WRITTEN_LINE for line in text.splitlines())
        )
    ]
    assert machine_made == []
