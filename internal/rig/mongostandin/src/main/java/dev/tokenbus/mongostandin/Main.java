package dev.tokenbus.mongostandin;

import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.List;

/**
 * A stand-in for MongoDB in tests, on a free loopback port. It prints "ready PORT" and ends when
 * its standard input closes, so that it never outlives the test that started it.
 */
public final class Main {
    /** The library's own versions end at wire version 8; the Go driver asks for 9. */
    private static final MongoVersion VERSION =
            new MongoVersion() {
                @Override
                public List<Integer> getVersionArray() {
                    return List.of(4, 4, 0);
                }

                @Override
                public int getWireVersion() {
                    return 9;
                }
            };

    private Main() {}

    public static void main(String[] args) throws IOException {
        MongoServer server = new MongoServer(new MemoryBackend().version(VERSION));
        server.bind(new InetSocketAddress("127.0.0.1", 0));
        System.out.println("ready " + server.getLocalAddress().getPort());
        System.out.flush();
        while (System.in.read() >= 0) {
            // Nothing is ever sent: the end of the input is the signal.
        }
        server.shutdownNow();
        System.exit(0);
    }
}
