"""kazoo against a server: every recipe, transactions, identities, versions; and what survives the loss of a node.

Usage: kazoo_recipes.py HOSTS [lose]

Prints `ok NAME` for each check and ends with 0, or tells what went wrong. With `lose` it holds a lock, an election, an
ephemeral and watches, prints `attached PORT`, waits for the line `gone` on stdin (its server has been stopped by then),
and requires that the session and all of these have outlived it; then it runs the recipes on the servers that are left.

Absent: waiting by the clock. Everything waits for a condition, two minutes at most.
"""

import functools
import logging
import queue
import sys
import threading

from kazoo.client import KazooClient
from kazoo.exceptions import (BadVersionError, CancelledError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError,
                              RolledBackError, RuntimeInconsistency)
from kazoo.protocol.states import EventType, KazooState
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.lease import MultiNonBlockingLease, NonBlockingLease
from kazoo.recipe.watchers import PatientChildrenWatch
from kazoo.security import make_digest_acl, make_acl, OPEN_ACL_UNSAFE

PATIENCE = 120
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def client(hosts, **options):
    made = KazooClient(hosts=hosts, timeout=20, randomize_hosts=True, **options)
    made.start(timeout=PATIENCE)
    return made


def wait(what, condition):
    """Waits for a condition that another thread makes true."""
    deadline = threading.Event()
    for _ in range(PATIENCE * 50):
        if condition():
            return
        deadline.wait(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE} s")


def thread(function, *args):
    """A thread whose failure is told by join()."""
    outcome = queue.Queue()

    def run():
        try:
            outcome.put((function(*args), None))
        except BaseException as error:  # told where it is joined
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()

    def join():
        value, error = outcome.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return value

    return join


@check
def basics(a, b):
    a.create("/k/basics", b"one", makepath=True)
    data, stat = b.get("/k/basics")
    assert data == b"one" and stat.version == 0 and stat.ephemeralOwner == 0, (data, stat)
    stat = b.set("/k/basics", b"two", version=0)
    assert stat.version == 1
    for wrong, error in [(lambda: a.set("/k/basics", b"", version=0), BadVersionError),
                         (lambda: a.create("/k/basics"), NodeExistsError),
                         (lambda: a.get("/k/none"), NoNodeError),
                         (lambda: a.delete("/k"), NotEmptyError)]:
        try:
            wrong()
            raise AssertionError(f"{error.__name__} expected")
        except error:
            pass
    path, stat = a.create("/k/basics/n-", b"", sequence=True, ephemeral=True, include_data=True)
    assert path == "/k/basics/n-0000000000" and stat.ephemeralOwner == a.client_id[0], (path, stat)
    assert b.get_children("/k/basics") == ["n-0000000000"]
    names, stat = b.get_children("/k/basics", include_data=True)
    assert stat.numChildren == 1 and a.exists("/k/none") is None
    assert b.sync("/k") == "/k"
    assert a.server_version() >= (3, 5)
    b.ensure_path("/k/basics/x/y/z")
    b.delete("/k/basics", recursive=True)
    assert a.exists("/k/basics") is None
    assert a.command(b"ruok") == "imok"


@check
def one_shot_watches(a, b):
    a.ensure_path("/k/watch")
    seen = queue.Queue()
    b.get("/k/watch", watch=seen.put)
    b.get_children("/k/watch", watch=seen.put)
    b.exists("/k/watch/kid", watch=seen.put)
    a.set("/k/watch", b"x")
    assert seen.get(timeout=PATIENCE).type == EventType.CHANGED
    a.create("/k/watch/kid")
    kinds = {seen.get(timeout=PATIENCE).type for _ in range(2)}
    assert kinds == {EventType.CREATED, EventType.CHILD}, kinds


@check
def transactions(a, b):
    a.ensure_path("/k/txn")
    txn = a.transaction()
    txn.create("/k/txn/a", b"1")
    txn.set_data("/k/txn/a", b"2", version=0)
    txn.check("/k/txn/a", version=1)
    txn.create("/k/txn/s-", b"", sequence=True, ephemeral=True)
    txn.delete("/k/txn/a", version=1)
    done = txn.commit()
    assert done[0] == "/k/txn/a" and done[1].version == 1 and done[2] is True and done[4] is True, done
    txn = a.transaction()
    txn.create("/k/txn/b", b"1")
    txn.check("/k/txn/none", version=1)
    txn.create("/k/txn/c", b"1")
    done = txn.commit()
    kinds = [type(one) for one in done]
    assert kinds == [RolledBackError, NoNodeError, RuntimeInconsistency], done
    assert b.exists("/k/txn/b") is None


@check
def identities(a, b):
    a.add_auth("digest", "ann:secret")
    b.add_auth("digest", "bob:secret")
    ann = make_digest_acl("ann", "secret", all=True)
    a.create("/k/private", b"mine", acl=[ann], makepath=True)
    try:
        b.get("/k/private")
        raise AssertionError("NoAuthError expected")
    except NoAuthError:
        pass
    acls, stat = a.get_acls("/k/private")
    assert acls == [ann] and stat.aversion == 0, acls
    a.set_acls("/k/private", [ann, make_acl("world", "anyone", read=True)])
    assert b.get("/k/private")[0] == b"mine"
    a.set_acls("/k/private", OPEN_ACL_UNSAFE, version=1)
    b.delete("/k/private")


@check
def lock(a, b):
    mine, theirs = a.Lock("/k/lock", "a"), b.Lock("/k/lock", "b")
    assert mine.acquire(timeout=PATIENCE)
    assert not theirs.acquire(blocking=False)
    waits = thread(theirs.acquire, True, PATIENCE)
    wait("both contend", lambda: b.Lock("/k/lock").contenders() == ["a", "b"])
    mine.release()
    assert waits()
    assert theirs.is_acquired
    theirs.cancel()
    theirs.release()
    with mine:
        assert mine.is_acquired
    waiting = b.Lock("/k/lock", "c")
    assert mine.acquire(timeout=PATIENCE)
    waits = thread(waiting.acquire, True, PATIENCE)
    wait("c contends", lambda: "c" in a.Lock("/k/lock").contenders())
    waiting.cancel()
    try:
        waits()
        raise AssertionError("CancelledError expected")
    except CancelledError:
        pass
    mine.release()


@check
def read_and_write_lock(a, b):
    first, second = a.ReadLock("/k/rw", "r1"), b.ReadLock("/k/rw", "r2")
    assert first.acquire(timeout=PATIENCE) and second.acquire(timeout=PATIENCE)
    writer = b.WriteLock("/k/rw", "w")
    waits = thread(writer.acquire, True, PATIENCE)
    wait("the writer contends", lambda: "w" in writer.contenders())
    assert not a.ReadLock("/k/rw", "r3").acquire(blocking=False)
    first.release()
    second.release()
    assert waits()
    assert not a.ReadLock("/k/rw", "r4").acquire(blocking=False)
    writer.release()


@check
def semaphore(a, b):
    one, two, three = (c.Semaphore("/k/sem", name, max_leases=2) for c, name in [(a, "1"), (b, "2"), (a, "3")])
    assert one.acquire(timeout=PATIENCE) and two.acquire(timeout=PATIENCE)
    assert not three.acquire(blocking=False)
    wait("both hold", lambda: sorted(one.lease_holders()) == ["1", "2"])
    waits = thread(three.acquire, True, PATIENCE)
    two.release()
    assert waits()
    one.release()
    three.release()


@check
def election(a, b):
    led = queue.Queue()
    go_on = threading.Event()
    first = a.Election("/k/election", "a")
    second = b.Election("/k/election", "b")

    def lead(name):
        led.put(name)
        if name == "a":
            assert go_on.wait(PATIENCE)

    ends = thread(first.run, lead, "a")
    assert led.get(timeout=PATIENCE) == "a"
    others = thread(second.run, lead, "b")
    wait("both stand", lambda: second.contenders() == ["a", "b"])
    go_on.set()
    assert led.get(timeout=PATIENCE) == "b"
    ends()
    others()


@check
def party(a, b):
    for kind in ["Party", "ShallowParty"]:
        path = f"/k/{kind}"
        mine, theirs = getattr(a, kind)(path, "a"), getattr(b, kind)(path, "b")
        mine.join()
        theirs.join()
        wait("both are in", lambda: sorted(mine) == ["a", "b"] and len(theirs) == 2)
        mine.leave()
        wait("one has left", lambda: list(theirs) == ["b"])
        theirs.leave()


@check
def barrier(a, b):
    barred = a.Barrier("/k/barrier")
    barred.create()
    waits = thread(b.Barrier("/k/barrier").wait, PATIENCE)
    assert not a.Barrier("/k/barrier").wait(0.01)
    assert barred.remove()
    assert waits()


@check
def double_barrier(a, b):
    one, two = a.DoubleBarrier("/k/double", 2, "a"), b.DoubleBarrier("/k/double", 2, "b")
    enters = thread(one.enter)
    wait("one is there", lambda: a.exists("/k/double") is not None and len(a.get_children("/k/double")) == 1)
    two.enter()
    enters()
    leaves = thread(one.leave)
    two.leave()
    leaves()


@check
def counter(a, b):
    one, two = a.Counter("/k/counter"), b.Counter("/k/counter", default=0)

    def add(counter):
        for _ in range(20):
            counter += 1

    joins = [thread(add, one), thread(add, two)]
    for join in joins:
        join()
    wait("forty", lambda: one.value == 40)
    two -= 5
    assert two.pre_value == 40 and two.post_value == 35
    wait("five less", lambda: one.value == 35)
    real = a.Counter("/k/counter-real", default=1.0)
    real += 0.5
    assert real.value == 1.5


@check
def queues(a, b):
    put, get = a.Queue("/k/queue"), b.Queue("/k/queue")
    put.put(b"second", priority=200)
    put.put(b"first", priority=1)
    wait("both have come", lambda: len(get) == 2)
    assert get.get() == b"first" and get.get() == b"second" and get.get() is None
    put, get = a.LockingQueue("/k/locking"), b.LockingQueue("/k/locking")
    waits = thread(get.get, PATIENCE)
    put.put(b"one")
    assert waits() == b"one" and get.holds_lock() and get.consume()
    put.put_all([b"two", b"three"])
    assert get.get(PATIENCE) == b"two"
    assert get.release()
    assert put.get(PATIENCE) == b"two" and put.consume()
    assert put.get(PATIENCE) == b"three" and put.consume()
    wait("it is empty", lambda: len(put) == 0)


@check
def partitioner(a, b):
    one = a.SetPartitioner("/k/parts", set=(1, 2, 3, 4), identifier="a", time_boundary=0.1)
    two = b.SetPartitioner("/k/parts", set=(1, 2, 3, 4), identifier="b", time_boundary=0.1)

    def settled(*members):
        for member in members:
            if member.release:
                member.release_set()
            elif member.allocating:
                member.wait_for_acquire(0.1)
        if not all(member.acquired for member in members):
            return False
        return sorted(part for member in members for part in list(member)) == [1, 2, 3, 4]

    wait("two share", lambda: settled(one, two) and len(list(one)) == 2)
    two.finish()
    wait("one has all", lambda: settled(one))
    one.finish()


@check
def data_watch(a, b):
    seen = queue.Queue()

    @b.DataWatch("/k/data-watch")
    def changed(data, stat):
        seen.put(data)

    assert seen.get(timeout=PATIENCE) is None
    a.create("/k/data-watch", b"1")
    assert seen.get(timeout=PATIENCE) == b"1"
    a.set("/k/data-watch", b"2")
    assert seen.get(timeout=PATIENCE) == b"2"
    a.delete("/k/data-watch")
    assert seen.get(timeout=PATIENCE) is None


@check
def children_watch(a, b):
    a.ensure_path("/k/children")
    seen = queue.Queue()

    @b.ChildrenWatch("/k/children")
    def changed(children):
        seen.put(sorted(children))

    assert seen.get(timeout=PATIENCE) == []
    a.create("/k/children/a")
    assert seen.get(timeout=PATIENCE) == ["a"]
    a.create("/k/children/b", ephemeral=True)
    assert seen.get(timeout=PATIENCE) == ["a", "b"]
    a.delete("/k/children/a")
    assert seen.get(timeout=PATIENCE) == ["b"]
    patient = PatientChildrenWatch(b, "/k/children", time_boundary=0.1)
    children, changed_again = patient.start().get(timeout=PATIENCE)
    assert children == ["b"]
    a.delete("/k/children/b")
    changed_again.get(timeout=PATIENCE)


@check
def tree_cache(a, b):
    a.ensure_path("/k/tree/x")
    cache = TreeCache(b, "/k/tree")
    events = queue.Queue()
    cache.listen(events.put)
    cache.start()
    wait("it is filled", lambda: cache.get_children("/k/tree") == frozenset(["x"]))
    a.create("/k/tree/x/y", b"deep")
    wait("y is there", lambda: (cache.get_data("/k/tree/x/y") or None) and cache.get_data("/k/tree/x/y").data == b"deep")
    a.set("/k/tree/x/y", b"deeper")
    wait("y is new", lambda: cache.get_data("/k/tree/x/y").data == b"deeper")
    a.delete("/k/tree/x/y")
    wait("y is gone", lambda: cache.get_data("/k/tree/x/y") is None)
    kinds = set()
    while not {TreeEvent.INITIALIZED, TreeEvent.NODE_ADDED, TreeEvent.NODE_REMOVED} <= kinds:
        kinds.add(events.get(timeout=PATIENCE).event_type)
    cache.close()


@check
def lease(a, b):
    import datetime
    hour = datetime.timedelta(hours=1)
    assert NonBlockingLease(a, "/k/lease", hour, identifier="a")
    assert not NonBlockingLease(b, "/k/lease", hour, identifier="b")
    assert MultiNonBlockingLease(a, 2, "/k/leases", hour, identifier="a")
    assert MultiNonBlockingLease(b, 2, "/k/leases", hour, identifier="b")
    assert not MultiNonBlockingLease(b, 2, "/k/leases", hour, identifier="c")


@check
def chroot(a, b):
    a.ensure_path("/k/root/below")
    hosts = ",".join(f"{host}:{port}" for host, port in a.hosts)
    inside = client(f"{hosts}/k/root")
    assert inside.get_children("/") == ["below"]
    assert inside.create("/n-", sequence=True).startswith("/n-")
    inside.stop()


@check
def session_end(a, b):
    hosts = ",".join(f"{host}:{port}" for host, port in a.hosts)
    other = client(hosts)
    other.create("/k/of-other", b"", ephemeral=True, makepath=True)
    seen = queue.Queue()
    a.exists("/k/of-other", watch=seen.put)
    other.stop()
    assert seen.get(timeout=PATIENCE).type == EventType.DELETED


def run(hosts):
    a, b = client(hosts), client(hosts)
    if a.exists("/k"):
        a.delete("/k", recursive=True)
    for function in CHECKS:
        # Reads are the server's own: on several servers each check begins where both have arrived.
        a.sync("/")
        b.sync("/")
        function(Synced(a, b), Synced(b, a)) if "," in hosts else function(a, b)
        print(f"ok {function.__name__}", flush=True)
    for one in (a, b):
        one.stop()
        one.close()


class Synced:
    """A client whose plain reads first catch up with the other's writes, as a user of several servers has to."""

    READS = ("get", "exists", "get_children", "get_acls")

    def __init__(self, own, other):
        self.__dict__.update(own=own, other=other)

    def __getattr__(self, name):
        found = getattr(self.own, name)
        if name not in self.READS:
            return found

        @functools.wraps(found)
        def synced(path, *args, **options):
            self.own.sync("/")
            return found(path, *args, **options)

        return synced


def lose(hosts):
    a = client(hosts)
    session = a.client_id[0]
    states = queue.Queue()
    a.add_listener(states.put)
    if a.exists("/lose"):
        a.delete("/lose", recursive=True)
    a.create("/lose/ephemeral", b"", ephemeral=True, makepath=True)
    lock = a.Lock("/lose/lock", "a")
    assert lock.acquire(timeout=PATIENCE)
    seen, kids, shots = queue.Queue(), queue.Queue(), queue.Queue()
    a.create("/lose/data", b"before")
    a.DataWatch("/lose/data", lambda data, stat: seen.put(data))
    a.ChildrenWatch("/lose", lambda names: kids.put(sorted(names)))
    a.exists("/lose/later", watch=shots.put)
    assert seen.get(timeout=PATIENCE) == b"before"
    kids.get(timeout=PATIENCE)
    # The other end of the connection's socket is the server that holds it now.
    print(f"attached {a._connection._socket.getpeername()[1]}", flush=True)
    assert sys.stdin.readline().strip() == "gone"
    wait("it comes back", lambda: a.state == KazooState.CONNECTED and not states.empty())
    # kazoo drops its one-shot watches with the connection, and says so to each.
    assert shots.get(timeout=PATIENCE).type == EventType.NONE
    a.retry(a.exists, "/lose/later", watch=shots.put)
    left = client(hosts)
    assert a.retry(a.exists, "/lose/ephemeral").ephemeralOwner == session
    assert a.client_id[0] == session, "the session goes on"
    left.sync("/")
    assert not left.Lock("/lose/lock", "b").acquire(blocking=False), "the lock is still held"
    left.set("/lose/data", b"after")
    while seen.get(timeout=PATIENCE) != b"after":
        pass
    left.create("/lose/later", b"")
    assert shots.get(timeout=PATIENCE).type == EventType.CREATED
    while "later" not in kids.get(timeout=PATIENCE):
        pass
    waits = thread(left.Lock("/lose/lock", "b").acquire, True, PATIENCE)
    lock.release()
    assert waits()
    print("ok lose", flush=True)
    a.stop()
    left.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    if sys.argv[2:] == ["lose"]:
        lose(sys.argv[1])
    run(sys.argv[1])
    print("done", flush=True)
