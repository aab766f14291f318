"""Notifications: sent to all subscribers, without waiting for any of them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from northstar import api
from northstar.api.notification import Notification, PlainNotification

BATCH_MAX: Final = 64
"""Most notifications that are written at once."""


class Subscription:
    """One subscriber: receives notifications, or queues them while it is paused."""

    __slots__ = ("_batch", "_behind", "_hub", "_paused", "_queue", "_sink")

    def __init__(
        self, hub: Notifications, sink: Callable[[bytes], object], behind: Callable[[], object]
    ) -> None:
        self._hub = hub
        self._sink = sink
        self._behind = behind
        self._queue: deque[bytes] = deque()
        self._batch: list[bytes] = []
        self._paused = False

    def push(self, line: bytes) -> None:
        """Deliver or queue an encoded notification.

        If the queue is full, the subscription ends and `behind` is called.
        """
        if not self._paused:
            self._batch.append(line)
            if not self._hub.held or len(self._batch) == BATCH_MAX:
                self.deliver()
        elif len(self._queue) < self._hub.buffer_size:
            self._queue.append(line)
        else:
            self.close()
            self._behind()

    def deliver(self) -> None:
        """Deliver what was held back, in one piece."""
        if self._batch:
            data = b"".join(self._batch)
            self._batch.clear()
            self._sink(data)

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
        self._batch.clear()
        self._hub.remove(self)


class Notifications:
    """All subscribers. Publishing never blocks and never fails, even with a slow subscriber.

    All methods run in the event loop's thread.

    Attributes:
        buffer_size: most notifications that queue for a paused subscriber.
        held: notifications are held back until the end of `together`.
    """

    def __init__(self, buffer_size: int) -> None:
        """Queue at most `buffer_size` notifications for each paused subscriber."""
        self.buffer_size = buffer_size
        self.held = False
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
            sink: receives encoded lines, one or several at a time; must not block.
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

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write what is published in the block together at its end. Nothing else may be sent in it.

        A write to each subscriber wakes it, and 20 of them take longer than 20 exits.
        """
        self.held = True
        try:
            yield
        finally:
            self.held = False
            for subscription in tuple(self._subscriptions):
                subscription.deliver()

    def publish(self, notification: Notification) -> None:
        """Send a notification to all current subscribers whose connection has it."""
        plain = isinstance(notification, PlainNotification)
        receivers = self._subscriptions if plain else self._extended
        if receivers:
            line = api.encode(notification)
            for subscription in tuple(receivers):
                subscription.push(line)
