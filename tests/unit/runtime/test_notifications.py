"""Notifications: their order, and subscribers that are too slow."""

from __future__ import annotations

import pytest

from northstar import api
from northstar.api import notification
from northstar.model import Container
from northstar.runtime.notifications import Notifications, Subscription

CONTAINERS = [Container.parse(f"c:0.0.{n}") for n in range(20)]
LINES = [api.encode(notification.Started(container)) for container in CONTAINERS]


class Subscriber:
    def __init__(self, hub: Notifications, *, pause_after: int | None = None) -> None:
        self.lines: list[bytes] = []
        self.behind = 0
        self.pause_after = pause_after
        self.subscription: Subscription = hub.subscribe(self.take, self.fell_behind)

    def take(self, line: bytes) -> None:
        self.lines.append(line)
        if len(self.lines) == self.pause_after:
            self.subscription.pause()

    def fell_behind(self) -> None:
        self.behind += 1


def publish(hub: Notifications, count: int, first: int = 0) -> None:
    for container in CONTAINERS[first : first + count]:
        hub.publish(notification.Started(container))


def test_all_subscribers_receive_all_in_order() -> None:
    hub = Notifications(1)
    hub.publish(notification.Shutdown())
    one, two = Subscriber(hub), Subscriber(hub)
    publish(hub, 20)
    assert one.lines == two.lines == LINES


def test_a_resumed_subscriber_receives_its_queue() -> None:
    hub = Notifications(5)
    slow, quick = Subscriber(hub, pause_after=2), Subscriber(hub)
    publish(hub, 7)
    assert slow.lines == LINES[:2]
    assert quick.lines == LINES[:7]
    slow.subscription.resume()
    publish(hub, 1, first=7)
    assert slow.lines == quick.lines == LINES[:8]
    assert not slow.behind


def test_delivery_stops_when_the_subscriber_pauses_again() -> None:
    hub = Notifications(5)
    slow = Subscriber(hub, pause_after=1)
    publish(hub, 4)
    slow.pause_after = 3
    slow.subscription.resume()
    assert slow.lines == LINES[:3]
    slow.subscription.resume()
    assert slow.lines == LINES[:4]


def test_a_full_queue_ends_the_subscription() -> None:
    hub = Notifications(3)
    slow, quick = Subscriber(hub, pause_after=1), Subscriber(hub)
    # One was delivered and three are queued: the queue is full, and one more exceeds it.
    publish(hub, 4)
    counts = [slow.behind]
    publish(hub, 1, first=4)
    counts.append(slow.behind)
    publish(hub, 9, first=5)
    assert [*counts, slow.behind, quick.behind] == [0, 1, 1, 0]
    assert quick.lines == LINES[:14]
    slow.subscription.resume()
    assert slow.lines == LINES[:1]


def test_a_closed_subscription_receives_nothing() -> None:
    hub = Notifications(3)
    gone, other = Subscriber(hub), Subscriber(hub)
    publish(hub, 1)
    gone.subscription.close()
    gone.subscription.close()
    publish(hub, 1, first=1)
    assert gone.lines == LINES[:1]
    assert other.lines == LINES[:2]


def test_a_sink_may_close_another_subscription() -> None:
    hub = Notifications(3)
    two: list[bytes] = []
    second: Subscription
    hub.subscribe(lambda _line: second.close(), lambda: None)
    second = hub.subscribe(two.append, lambda: None)
    third: list[bytes] = []
    hub.subscribe(third.append, lambda: None)
    publish(hub, 2)
    assert third == LINES[:2]
    assert two in ([], LINES[:1])


def test_notifications_together_are_one_write_in_order() -> None:
    hub = Notifications(5)
    one, two = Subscriber(hub), Subscriber(hub)
    with hub.together():
        publish(hub, 3)
        assert one.lines == []
        two.subscription.pause()
        publish(hub, 2, first=3)
    assert one.lines == [b"".join(LINES[:5])]
    assert two.lines == [b"".join(LINES[:3])]
    publish(hub, 1, first=5)
    assert one.lines[1:] == [LINES[5]]
    two.subscription.resume()
    assert two.lines[1:] == LINES[3:6]


def test_held_notifications_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("northstar.runtime.notifications.BATCH_MAX", 4)
    hub = Notifications(5)
    one = Subscriber(hub)
    with hub.together():
        publish(hub, 10)
    assert one.lines == [b"".join(LINES[:4]), b"".join(LINES[4:8]), b"".join(LINES[8:10])]


def test_held_notifications_survive_a_failure_and_end_with_the_subscription() -> None:
    hub = Notifications(5)
    stays, leaves = Subscriber(hub), Subscriber(hub)

    def fail() -> None:
        with hub.together():
            publish(hub, 1)
            leaves.subscription.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stays.lines == LINES[:1]
    assert leaves.lines == []
    publish(hub, 1, first=1)
    assert stays.lines == LINES[:2]
