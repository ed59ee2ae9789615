import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMultiLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreMutex;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.curator.framework.recipes.queue.DistributedDelayQueue;
import org.apache.curator.framework.recipes.queue.DistributedPriorityQueue;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedValue;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/**
 * Curator, and through it ZooKeeper's own Java client, against a server: the recipes, and what survives the loss of a node.
 *
 * <p>Usage: CuratorRecipes HOSTS [lose]. Prints `ok NAME` for each check and ends with 0, or tells what went wrong. With
 * `lose` it holds a lock, a leadership, an ephemeral and watches, prints `attached PORT`, waits for the line `gone` on
 * stdin (its server has been stopped by then), and requires that the session and all of these have outlived it; then it
 * runs the recipes on the servers that are left.
 *
 * <p>Absent: waiting by the clock. Everything waits for a condition, two minutes at most.
 */
public final class CuratorRecipes {
    private static final int PATIENCE_S = 120;

    private final CuratorFramework a;
    private final CuratorFramework b;
    private final ExecutorService threads = Executors.newCachedThreadPool(work -> {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        return thread;
    });

    private CuratorRecipes(String hosts) throws Exception {
        a = client(hosts);
        b = client(hosts);
    }

    private interface Check {
        void run() throws Exception;
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static CuratorFramework client(String hosts) throws Exception {
        CuratorFramework made = CuratorFrameworkFactory.builder()
                .connectString(hosts)
                .sessionTimeoutMs(20_000)
                .connectionTimeoutMs(PATIENCE_S * 1_000)
                .retryPolicy(new RetryNTimes(600, 200))
                .build();
        made.start();
        must(made.blockUntilConnected(PATIENCE_S, TimeUnit.SECONDS), "connected");
        return made;
    }

    private static void must(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private static void equal(Object wanted, Object found) {
        must(wanted.equals(found), "wanted " + wanted + ", found " + found);
    }

    private static void await(String what, Condition condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        while (!condition.holds()) {
            must(System.nanoTime() < deadline, what + ": not within " + PATIENCE_S + " s");
            Thread.sleep(20);
        }
    }

    private static <T> T next(BlockingQueue<T> queue) throws Exception {
        T found = queue.poll(PATIENCE_S, TimeUnit.SECONDS);
        must(found != null, "nothing comes");
        return found;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private <T> Future<T> thread(Callable<T> work) {
        return threads.submit(work);
    }

    /** Reads are the server's own: a reader of another server catches up first. */
    private static void sync(CuratorFramework client) throws Exception {
        client.getZookeeperClient().getZooKeeper().sync("/");
    }

    private void basics() throws Exception {
        a.create().creatingParentsIfNeeded().forPath("/c/basics", bytes("one"));
        sync(b);
        Stat stat = new Stat();
        equal("one", new String(b.getData().storingStatIn(stat).forPath("/c/basics"), StandardCharsets.UTF_8));
        equal(0, stat.getVersion());
        equal(1, b.setData().withVersion(0).forPath("/c/basics", bytes("two")).getVersion());
        try {
            a.setData().withVersion(0).forPath("/c/basics", bytes("three"));
            throw new AssertionError("a bad version passed");
        } catch (KeeperException.BadVersionException expected) {
            equal("/c/basics", expected.getPath());
        }
        String path = a.create().withProtection().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath("/c/basics/n-");
        must(path.endsWith("n-0000000000"), path);
        a.create().withMode(CreateMode.CONTAINER).forPath("/c/box");
        a.create().withTtl(3_600_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath("/c/ttl");
        a.create().orSetData().forPath("/c/basics", bytes("four"));
        List<CuratorTransactionResult> done = a.transaction().forOperations(
                a.transactionOp().create().forPath("/c/txn", bytes("1")),
                a.transactionOp().setData().withVersion(0).forPath("/c/txn", bytes("2")),
                a.transactionOp().check().withVersion(1).forPath("/c/txn"),
                a.transactionOp().delete().withVersion(1).forPath("/c/txn"));
        equal(4, done.size());
        equal(1, done.get(1).getResultStat().getVersion());
        try {
            a.transaction().forOperations(
                    a.transactionOp().create().forPath("/c/txn"), a.transactionOp().delete().forPath("/c/none"));
            throw new AssertionError("a failed transaction passed");
        } catch (KeeperException.NoNodeException expected) {
            must(a.checkExists().forPath("/c/txn") == null, "it left a trace");
        }
        a.delete().guaranteed().deletingChildrenIfNeeded().forPath("/c/basics");
    }

    private void plainClient() throws Exception {
        ZooKeeper zk = a.getZookeeperClient().getZooKeeper();
        zk.create("/c/plain", bytes("x"), ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        zk.create("/c/plain/e", null, ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        equal(List.of("/c/plain/e"), zk.getEphemerals("/c/plain"));
        equal(1, zk.getAllChildrenNumber("/c/plain"));
        equal("ip", zk.whoAmI().get(0).getAuthScheme());
        equal(List.of("e"), zk.getChildren("/c/plain", false, new Stat()));
        List<OpResult> read = zk.multi(List.of(Op.getData("/c/plain"), Op.getChildren("/c/plain"), Op.getData("/c/no")));
        equal("x", new String(((OpResult.GetDataResult) read.get(0)).getData(), StandardCharsets.UTF_8));
        equal(List.of("e"), ((OpResult.GetChildrenResult) read.get(1)).getChildren());
        equal(KeeperException.Code.NONODE.intValue(), ((OpResult.ErrorResult) read.get(2)).getErr());
        BlockingQueue<WatchedEvent> seen = new LinkedBlockingQueue<>();
        Watcher watcher = seen::add;
        zk.addWatch("/c/plain", watcher, AddWatchMode.PERSISTENT_RECURSIVE);
        zk.setData("/c/plain/e", null, -1);
        WatchedEvent event = next(seen);
        equal("/c/plain/e", event.getPath());
        equal(Watcher.Event.EventType.NodeDataChanged, event.getType());
        zk.removeWatches("/c/plain", watcher, Watcher.WatcherType.Any, false);
        equal(Watcher.Event.EventType.PersistentWatchRemoved, next(seen).getType());
        zk.getConfig(false, new Stat());
        zk.addAuthInfo("digest", bytes("ann:secret"));
        zk.create("/c/private", null, ZooDefs.Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
        equal(1, zk.getACL("/c/private", new Stat()).size());
        try {
            ZooKeeper other = b.getZookeeperClient().getZooKeeper();
            sync(b);
            other.getData("/c/private", false, null);
            throw new AssertionError("a private node was read");
        } catch (KeeperException.NoAuthException expected) {
            equal("/c/private", expected.getPath());
        }
    }

    private void mutex() throws Exception {
        contended(new InterProcessMutex(a, "/c/mutex"), new InterProcessMutex(b, "/c/mutex"));
        InterProcessMutex reentrant = new InterProcessMutex(a, "/c/mutex");
        reentrant.acquire();
        reentrant.acquire();
        reentrant.release();
        must(reentrant.isAcquiredInThisProcess(), "held once more");
        reentrant.release();
    }

    private void semaphoreMutex() throws Exception {
        contended(new InterProcessSemaphoreMutex(a, "/c/semutex"), new InterProcessSemaphoreMutex(b, "/c/semutex"));
    }

    private void multiLock() throws Exception {
        List<String> paths = List.of("/c/multi/a", "/c/multi/b");
        contended(new InterProcessMultiLock(a, paths), new InterProcessMultiLock(b, paths));
    }

    private void contended(InterProcessLock mine, InterProcessLock theirs) throws Exception {
        must(mine.acquire(PATIENCE_S, TimeUnit.SECONDS), "free");
        must(!thread(() -> theirs.acquire(200, TimeUnit.MILLISECONDS)).get(), "held by another");
        Future<Boolean> waits = thread(() -> {
            must(theirs.acquire(PATIENCE_S, TimeUnit.SECONDS), "freed");
            theirs.release();
            return true;
        });
        mine.release();
        must(waits.get(PATIENCE_S, TimeUnit.SECONDS), "handed over");
    }

    private void readWriteLock() throws Exception {
        InterProcessReadWriteLock mine = new InterProcessReadWriteLock(a, "/c/rw");
        InterProcessReadWriteLock theirs = new InterProcessReadWriteLock(b, "/c/rw");
        mine.readLock().acquire();
        Future<Boolean> both = thread(() -> {
            must(theirs.readLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "two readers");
            theirs.readLock().release();
            return !theirs.writeLock().acquire(200, TimeUnit.MILLISECONDS);
        });
        must(both.get(PATIENCE_S, TimeUnit.SECONDS), "no writer beside a reader");
        mine.readLock().release();
        must(mine.writeLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "a writer alone");
        mine.writeLock().release();
    }

    private void semaphore() throws Exception {
        InterProcessSemaphoreV2 mine = new InterProcessSemaphoreV2(a, "/c/sem", 2);
        InterProcessSemaphoreV2 theirs = new InterProcessSemaphoreV2(b, "/c/sem", 2);
        Lease one = mine.acquire(PATIENCE_S, TimeUnit.SECONDS);
        Lease two = theirs.acquire(PATIENCE_S, TimeUnit.SECONDS);
        must(one != null && two != null, "two leases");
        must(theirs.acquire(200, TimeUnit.MILLISECONDS) == null, "no third");
        mine.returnLease(one);
        theirs.returnLease(theirs.acquire(PATIENCE_S, TimeUnit.SECONDS));
        theirs.returnLease(two);
    }

    private void leaderLatch() throws Exception {
        LeaderLatch first = new LeaderLatch(a, "/c/latch", "a");
        LeaderLatch second = new LeaderLatch(b, "/c/latch", "b");
        first.start();
        must(first.await(PATIENCE_S, TimeUnit.SECONDS), "leads");
        second.start();
        await("two stand", () -> second.getParticipants().size() == 2);
        must(!second.hasLeadership(), "one leads");
        equal("a", second.getLeader().getId());
        first.close();
        must(second.await(PATIENCE_S, TimeUnit.SECONDS), "the other leads");
        second.close();
    }

    private void leaderSelector() throws Exception {
        BlockingQueue<String> led = new LinkedBlockingQueue<>();
        List<LeaderSelector> all = new ArrayList<>();
        for (CuratorFramework client : List.of(a, b)) {
            String name = client == a ? "a" : "b";
            LeaderSelector selector = new LeaderSelector(client, "/c/selector", new LeaderSelectorListenerAdapter() {
                @Override
                public void takeLeadership(CuratorFramework leading) {
                    led.add(name);
                }
            });
            selector.autoRequeue();
            selector.start();
            all.add(selector);
        }
        TreeSet<String> names = new TreeSet<>();
        while (names.size() < 2) {
            names.add(next(led));
        }
        for (LeaderSelector selector : all) {
            selector.close();
        }
    }

    private void barriers() throws Exception {
        DistributedBarrier barrier = new DistributedBarrier(a, "/c/barrier");
        barrier.setBarrier();
        sync(b);
        Future<Boolean> waits = thread(() -> new DistributedBarrier(b, "/c/barrier").waitOnBarrier(PATIENCE_S, TimeUnit.SECONDS));
        barrier.removeBarrier();
        must(waits.get(PATIENCE_S, TimeUnit.SECONDS), "removed");
        DistributedDoubleBarrier one = new DistributedDoubleBarrier(a, "/c/double", 2);
        DistributedDoubleBarrier two = new DistributedDoubleBarrier(b, "/c/double", 2);
        Future<Boolean> enters = thread(() -> one.enter(PATIENCE_S, TimeUnit.SECONDS));
        must(two.enter(PATIENCE_S, TimeUnit.SECONDS) && enters.get(), "both enter");
        Future<Boolean> leaves = thread(() -> one.leave(PATIENCE_S, TimeUnit.SECONDS));
        must(two.leave(PATIENCE_S, TimeUnit.SECONDS) && leaves.get(), "both leave");
    }

    private void shared() throws Exception {
        SharedCount one = new SharedCount(a, "/c/count", 7);
        SharedCount two = new SharedCount(b, "/c/count", 7);
        one.start();
        two.start();
        equal(7, one.getCount());
        one.setCount(8);
        await("the other sees it", () -> two.getCount() == 8);
        must(two.trySetCount(two.getVersionedValue(), 9), "by version");
        await("and back", () -> one.getCount() == 9);
        one.close();
        two.close();
        SharedValue value = new SharedValue(a, "/c/value", bytes("seed"));
        value.start();
        value.setValue(bytes("new"));
        must(Arrays.equals(bytes("new"), value.getValue()), "set");
        value.close();
    }

    private void atomic() throws Exception {
        Callable<Long> add = () -> {
            DistributedAtomicLong mine = new DistributedAtomicLong(a, "/c/atomic", new RetryNTimes(1_000, 5));
            long last = 0;
            for (int n = 0; n < 20; n++) {
                AtomicValue<Long> added = mine.increment();
                must(added.succeeded(), "added");
                last = added.postValue();
            }
            return last;
        };
        Future<Long> one = thread(add);
        Future<Long> two = thread(add);
        equal(40L, Math.max(one.get(PATIENCE_S, TimeUnit.SECONDS), two.get(PATIENCE_S, TimeUnit.SECONDS)));
    }

    private void cache() throws Exception {
        a.create().creatingParentsIfNeeded().forPath("/c/cache/x", bytes("1"));
        sync(b);
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        try (CuratorCache cache = CuratorCache.build(b, "/c/cache")) {
            cache.listenable().addListener(CuratorCacheListener.builder()
                    .forInitialized(() -> seen.add("initialized"))
                    .forCreates(node -> seen.add("created " + node.getPath()))
                    .forChanges((before, after) -> seen.add("changed " + after.getPath()))
                    .forDeletes(node -> seen.add("deleted " + node.getPath()))
                    .build());
            cache.start();
            List<String> first = new ArrayList<>(List.of(next(seen), next(seen), next(seen)));
            Collections.sort(first);
            equal(List.of("created /c/cache", "created /c/cache/x", "initialized"), first);
            a.create().forPath("/c/cache/x/y", bytes("2"));
            equal("created /c/cache/x/y", next(seen));
            a.setData().forPath("/c/cache/x", bytes("3"));
            equal("changed /c/cache/x", next(seen));
            a.delete().forPath("/c/cache/x/y");
            equal("deleted /c/cache/x/y", next(seen));
            await("it holds what is there", () -> cache.size() == 2);
        }
    }

    private void nodes() throws Exception {
        try (PersistentNode node = new PersistentNode(a, CreateMode.EPHEMERAL, false, "/c/node", bytes("x"))) {
            node.start();
            must(node.waitForInitialCreate(PATIENCE_S, TimeUnit.SECONDS), "made");
            sync(b);
            b.delete().forPath("/c/node");
            await("made again", () -> b.checkExists().forPath("/c/node") != null);
        }
        try (PersistentTtlNode node = new PersistentTtlNode(a, "/c/ttl-node", 60_000, bytes("x"))) {
            node.start();
            must(node.waitForInitialCreate(PATIENCE_S, TimeUnit.SECONDS), "made");
        }
        try (GroupMember one = new GroupMember(a, "/c/group", "one", bytes("1"));
                GroupMember two = new GroupMember(b, "/c/group", "two", bytes("2"))) {
            one.start();
            two.start();
            await("both are seen", () -> {
                Map<String, byte[]> members = one.getCurrentMembers();
                return members.size() == 2 && Arrays.equals(bytes("2"), members.get("two"));
            });
        }
    }

    private void persistentWatcher() throws Exception {
        BlockingQueue<WatchedEvent> seen = new LinkedBlockingQueue<>();
        BlockingQueue<Boolean> armed = new LinkedBlockingQueue<>();
        try (PersistentWatcher watcher = new PersistentWatcher(b, "/c/watcher", true)) {
            watcher.getListenable().addListener(seen::add);
            watcher.getResetListenable().addListener(() -> armed.add(true));
            watcher.start();
            next(armed);
            a.create().forPath("/c/watcher");
            a.create().forPath("/c/watcher/kid");
            equal("/c/watcher", next(seen).getPath());
            equal("/c/watcher/kid", next(seen).getPath());
        }
    }

    private void queues() throws Exception {
        QueueSerializer<String> text = new QueueSerializer<>() {
            @Override
            public byte[] serialize(String item) {
                return bytes(item);
            }

            @Override
            public String deserialize(byte[] item) {
                return new String(item, StandardCharsets.UTF_8);
            }
        };
        BlockingQueue<String> got = new LinkedBlockingQueue<>();
        QueueConsumer<String> consumer = new QueueConsumer<>() {
            @Override
            public void consumeMessage(String message) {
                got.add(message);
            }

            @Override
            public void stateChanged(CuratorFramework client, ConnectionState state) {}
        };
        try (DistributedQueue<String> queue =
                QueueBuilder.builder(a, consumer, text, "/c/queue").lockPath("/c/queue-lock").buildQueue()) {
            queue.start();
            queue.put("one");
            queue.put("two");
            equal("one", next(got));
            equal("two", next(got));
        }
        try (DistributedPriorityQueue<String> queue =
                QueueBuilder.builder(a, consumer, text, "/c/priority").buildPriorityQueue(1)) {
            queue.start();
            queue.put("urgent", 1);
            equal("urgent", next(got));
        }
        try (DistributedDelayQueue<String> queue =
                QueueBuilder.builder(a, consumer, text, "/c/delay").buildDelayQueue()) {
            queue.start();
            queue.put("late", System.currentTimeMillis() + 100);
            equal("late", next(got));
        }
        SimpleDistributedQueue simple = new SimpleDistributedQueue(a, "/c/simple");
        simple.offer(bytes("1"));
        simple.offer(bytes("2"));
        equal("1", new String(simple.take(), StandardCharsets.UTF_8));
        equal("2", new String(simple.poll(PATIENCE_S, TimeUnit.SECONDS), StandardCharsets.UTF_8));
    }

    private static int port(CuratorFramework client) throws Exception {
        Matcher found = Pattern.compile("remoteserver:[^ ]*:(\\d+)").matcher(client.getZookeeperClient().getZooKeeper().toString());
        must(found.find(), "attached to a server");
        return Integer.parseInt(found.group(1));
    }

    private static void lose(String hosts) throws Exception {
        CuratorFramework a = client(hosts);
        BlockingQueue<ConnectionState> states = new LinkedBlockingQueue<>();
        a.getConnectionStateListenable().addListener((client, state) -> states.add(state));
        if (a.checkExists().forPath("/lose-c") != null) {
            a.delete().deletingChildrenIfNeeded().forPath("/lose-c");
        }
        long session = a.getZookeeperClient().getZooKeeper().getSessionId();
        a.create().creatingParentsIfNeeded().withMode(CreateMode.EPHEMERAL).forPath("/lose-c/ephemeral");
        InterProcessSemaphoreMutex lock = new InterProcessSemaphoreMutex(a, "/lose-c/lock");
        lock.acquire();
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        CuratorCache cache = CuratorCache.build(a, "/lose-c/cache");
        BlockingQueue<Boolean> filled = new LinkedBlockingQueue<>();
        cache.listenable().addListener(CuratorCacheListener.builder()
                .forInitialized(() -> filled.add(true))
                .forCreates(node -> seen.add(node.getPath())).build());
        cache.start();
        next(filled);
        BlockingQueue<WatchedEvent> shots = new LinkedBlockingQueue<>();
        a.checkExists().usingWatcher((Watcher) shots::add).forPath("/lose-c/later");
        System.out.println("attached " + port(a));
        equal("gone", new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).readLine());
        CuratorFramework left = client(hosts);
        while (next(states) != ConnectionState.RECONNECTED) {
            // SUSPENDED comes before it.
        }
        equal(session, a.getZookeeperClient().getZooKeeper().getSessionId());
        equal(session, a.checkExists().forPath("/lose-c/ephemeral").getEphemeralOwner());
        InterProcessSemaphoreMutex rival = new InterProcessSemaphoreMutex(left, "/lose-c/lock");
        must(!rival.acquire(200, TimeUnit.MILLISECONDS), "the lock is still held");
        left.create().forPath("/lose-c/cache", bytes("x"));
        equal("/lose-c/cache", next(seen));
        left.create().forPath("/lose-c/later");
        WatchedEvent shot = next(shots);
        while (shot.getType() == Watcher.Event.EventType.None) {
            shot = next(shots);
        }
        equal(Watcher.Event.EventType.NodeCreated, shot.getType());
        lock.release();
        must(rival.acquire(PATIENCE_S, TimeUnit.SECONDS), "handed over");
        rival.release();
        cache.close();
        a.close();
        left.close();
        System.out.println("ok lose");
    }

    private void check(String name, Check check) throws Exception {
        sync(a);
        sync(b);
        check.run();
        System.out.println("ok " + name);
    }

    private void run() throws Exception {
        if (a.checkExists().forPath("/c") != null) {
            a.delete().deletingChildrenIfNeeded().forPath("/c");
        }
        check("basics", this::basics);
        check("plain_client", this::plainClient);
        check("mutex", this::mutex);
        check("semaphore_mutex", this::semaphoreMutex);
        check("multi_lock", this::multiLock);
        check("read_write_lock", this::readWriteLock);
        check("semaphore", this::semaphore);
        check("leader_latch", this::leaderLatch);
        check("leader_selector", this::leaderSelector);
        check("barriers", this::barriers);
        check("shared", this::shared);
        check("atomic", this::atomic);
        check("cache", this::cache);
        check("nodes", this::nodes);
        check("persistent_watcher", this::persistentWatcher);
        check("queues", this::queues);
        a.close();
        b.close();
    }

    /** Runs. */
    public static void main(String[] args) throws Exception {
        try {
            if (args.length > 1) {
                lose(args[0]);
            }
            new CuratorRecipes(args[0]).run();
            System.out.println("done");
            System.exit(0);
        } catch (Throwable failed) {
            failed.printStackTrace();
            System.exit(1);
        }
    }
}
