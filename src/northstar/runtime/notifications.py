"""Notifications: from whoever knows something to all who subscribed, without waiting for any."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from northstar import api
from northstar.api.notification import Notification


class Subscription:
    """One subscriber: passes on what is published, or keeps it while the subscriber is paused."""

    __slots__ = ("_behind", "_hub", "_paused", "_queue", "_sink")

    def __init__(
        self, hub: Notifications, sink: Callable[[bytes], object], behind: Callable[[], object]
    ) -> None:
        self._hub = hub
        self._sink = sink
        self._behind = behind
        self._queue: deque[bytes] = deque()
        self._paused = False

    def push(self, line: bytes) -> None:
        """Hand over an encoded notification. More than the bound while paused: `behind` is called.

        The subscription has ended then.
        """
        if not self._paused:
            self._sink(line)
        elif len(self._queue) < self._hub.buffer_size:
            self._queue.append(line)
        else:
            self.close()
            self._behind()

    def pause(self) -> None:
        """Keep what comes from now on."""
        self._paused = True

    def resume(self) -> None:
        """Hand over what was kept; the sink may pause again at any of them."""
        self._paused = False
        while self._queue and not self._paused:
            self._sink(self._queue.popleft())

    def close(self) -> None:
        """End the subscription. May be called twice."""
        self._queue.clear()
        self._hub.remove(self)


class Notifications:
    """All subscribers. Publishing never blocks and never fails; nobody waits for a slow one.

    Everything here runs in the event loop's thread.
    """

    def __init__(self, buffer_size: int) -> None:
        """Allow each subscriber to be `buffer_size` notifications behind."""
        self.buffer_size = buffer_size
        # A dict is an ordered set: subscribers are served in the order in which they came.
        self._subscriptions: dict[Subscription, None] = {}

    def subscribe(
        self, sink: Callable[[bytes], object], behind: Callable[[], object]
    ) -> Subscription:
        """Add a subscriber.

        Args:
            sink: takes an encoded line; must not block.
            behind: called once if the subscriber is too far behind and was removed.
        """
        subscription = Subscription(self, sink, behind)
        self._subscriptions[subscription] = None
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscriber, if it is there."""
        self._subscriptions.pop(subscription, None)

    def publish(self, notification: Notification) -> None:
        """Send a notification to all who are subscribed now."""
        if self._subscriptions:
            line = api.encode(notification)
            for subscription in tuple(self._subscriptions):
                subscription.push(line)
