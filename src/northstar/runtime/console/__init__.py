"""The console: connections from outside and from containers, and the requests on them."""

from northstar.runtime.console.console import Console

__all__ = ["Console"]
