import asyncio
import threading

from dropt.tuning.bell import Bell

PATIENCE_S = 60.0


def test_ring_from_another_thread_wakes_all_that_listen() -> None:
    bell = Bell()

    async def listen(n_ready: list[int]) -> None:
        with bell.listening() as rung:
            n_ready.append(1)
            if len(n_ready) == 2:
                threading.Thread(target=bell.ring).start()
            await rung.wait()

    async def both() -> None:
        n_ready: list[int] = []
        await asyncio.gather(listen(n_ready), listen(n_ready))

    asyncio.run(asyncio.wait_for(both(), PATIENCE_S))


def test_ring_before_the_wait_is_not_lost() -> None:
    bell = Bell()

    async def ring_first() -> None:
        with bell.listening() as rung:
            bell.ring()
            await rung.wait()

    asyncio.run(asyncio.wait_for(ring_first(), PATIENCE_S))


def test_who_has_left_is_not_woken() -> None:
    """Its loop may be closed: a ring would raise."""
    bell = Bell()

    async def leave() -> asyncio.Event:
        with bell.listening() as rung:
            return rung

    rung = asyncio.run(leave())
    bell.ring()
    assert not rung.is_set()
