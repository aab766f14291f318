"""The console: connections from outside and from containers, and the requests on them."""

from northstar.runtime.console.acceptor import ConsoleError
from northstar.runtime.console.console import Console
from northstar.runtime.console.dispatch import Installation, Operations

__all__ = ["Console", "ConsoleError", "Installation", "Operations"]
