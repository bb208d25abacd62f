"""The version of agentflow."""

from importlib.metadata import PackageNotFoundError, version


def _find() -> str:
    try:
        return version("agentflow")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"


VERSION = _find()
