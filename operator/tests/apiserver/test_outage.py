"""An API server, or a proxy before it, that answers errors for long: nobody ends, and all goes on by itself."""

from proxy import Fault, Request, of_lease, to
from replicas import Replicas, soon

# kopf's own patience would end with the seventh try, after half a minute.
TRIES = 8


def elsewhere(request: Request) -> bool:
    return not of_lease(request)


def watch_of_backups(request: Request) -> bool:
    return request.watches and "/backups" in request.path


async def test_errors_for_longer_than_kopf_tries_end_no_replica(replicas: Replicas):
    leader, late = await replicas.leader(), await replicas.add("late")
    await leader.watches_everything()
    away = [one.proxy.switch(Fault.UNAVAILABLE, elsewhere) for one in (leader, late)]
    await late.start()
    await replicas.world.backup("b")  # with it, the watch of Backups breaks off
    await soon("the tries to watch anew", lambda: len(list(filter(watch_of_backups, away[0].caught))) >= TRIES, 90)
    assert "The caches could not be filled" in late.log
    for switch in away:
        switch.off()
    await late.says("is held by leader_")
    await soon(
        "the leader to work", lambda: [r for r in leader.proxy.sent(to("PATCH", "backups/status")) if r.done], 30
    )
    assert await leader.probe("/healthz") == (200, "ok\n")
    assert leader.log.count("Trying to acquire") == 1
