"""Which queues a worker consumes: those of all zones, whenever it came to hear of them."""

from types import SimpleNamespace

from web.reconcile.messages import Messages


def test_a_zone_that_comes_while_the_consumer_starts_is_consumed_once_it_has():
    messages = Messages(SimpleNamespace(), lambda host_id: None)
    messages.zones, messages.consumed = {"nova"}, {"nova"}
    messages.add_zones(["nova", "east"])
    asked = []
    messages.controller = SimpleNamespace(consumer=SimpleNamespace(call_soon=lambda *words: asked.append(words[2])))
    for _ in range(2):
        messages.add_zones(["nova", "east"])
    messages.add_zones(["west"])
    assert asked == ["east", "west"]
