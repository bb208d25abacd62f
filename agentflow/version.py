"""The version of agentflow."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("agentflow")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "0+source"
