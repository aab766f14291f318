"""Notifications: sent to all subscribers, without waiting for any of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from northstar import api
from northstar.api.notification import Notification, PlainNotification


class Subscription:
    """One subscriber: receives notifications, or queues them while it is paused."""

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
        """Deliver or queue an encoded notification.

        If the queue is full, the subscription ends and `behind` is called.
        """
        if not self._paused:
            self._sink(line)
        elif len(self._queue) < self._hub.buffer_size:
            self._queue.append(line)
        else:
            self.close()
            self._behind()

    def pause(self) -> None:
        """Queue notifications from now on."""
        self._paused = True

    def resume(self) -> None:
        """Deliver the queue; the sink may pause again at any notification."""
        self._paused = False
        while self._queue and not self._paused:
            self._sink(self._queue.popleft())

    def close(self) -> None:
        """End the subscription; idempotent."""
        self._queue.clear()
        self._hub.remove(self)


class Notifications:
    """All subscribers. Publishing never blocks and never fails, even with a slow subscriber.

    All methods run in the event loop's thread.
    """

    def __init__(self, buffer_size: int) -> None:
        """Queue at most `buffer_size` notifications for each paused subscriber."""
        self.buffer_size = buffer_size
        # A dict is an ordered set: delivery follows the order of subscription.
        self._subscriptions: dict[Subscription, None] = {}
        self._extended: dict[Subscription, None] = {}

    def subscribe(
        self,
        sink: Callable[[bytes], object],
        behind: Callable[[], object],
        *,
        extended: bool = False,
    ) -> Subscription:
        """Add a subscriber.

        Args:
            sink: receives each encoded line; must not block.
            behind: called once if the subscriber was removed, because its queue was full.
            extended: whether it also receives the notifications of extended connections.
        """
        subscription = Subscription(self, sink, behind)
        self._subscriptions[subscription] = None
        if extended:
            self._extended[subscription] = None
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscriber; idempotent."""
        self._subscriptions.pop(subscription, None)
        self._extended.pop(subscription, None)

    @property
    def has_extended(self) -> bool:
        """Whether anybody receives the notifications of extended connections."""
        return bool(self._extended)

    def publish(self, notification: Notification) -> None:
        """Send a notification to all current subscribers whose connection has it."""
        plain = isinstance(notification, PlainNotification)
        receivers = self._subscriptions if plain else self._extended
        if receivers:
            line = api.encode(notification)
            for subscription in tuple(receivers):
                subscription.push(line)
