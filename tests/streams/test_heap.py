"""work that comes in bursts -> the heap is trimmed once after each, and never in its midst."""

from __future__ import annotations

from streams.heap import Heap


async def test_the_heap_is_trimmed_once_after_each_burst() -> None:
    trimmed: list[int] = []
    heap = Heap(lambda: trimmed.append(progress))
    for progress in (0, 0, 5, 9, 14, 14, 14, 14, 15, 20, 20, 20):
        await heap.look(progress, pressed=False)
    assert trimmed == [14, 20]


async def test_a_full_batch_that_takes_long_is_no_rest() -> None:
    """Nothing is committed from one look to the next, and more waits."""
    trimmed: list[int] = []
    heap = Heap(lambda: trimmed.append(progress))
    for progress, pressed in ((2_000, True), (2_000, True), (4_000, True), (4_000, True), (4_000, False)):
        await heap.look(progress, pressed)
    assert trimmed == [4_000]


async def test_the_system_has_something_to_trim_with_or_nothing_happens() -> None:
    heap = Heap()
    for progress in (1, 1):
        await heap.look(progress, pressed=False)
