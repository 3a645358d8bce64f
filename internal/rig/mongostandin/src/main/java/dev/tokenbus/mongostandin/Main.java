package dev.tokenbus.mongostandin;

import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import io.netty.channel.Channel;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * A stand-in for MongoDB in tests, on a free loopback port. It prints "ready PORT" and ends when
 * its standard input closes, so that it never outlives the test that started it.
 *
 * <p>To the library it adds what tests need: every login is refused, for it has no users, and the
 * fail point "failCommand" of MongoDB (mode, failCommands, namespace, errorCode, writeConcernError,
 * closeConnection).
 */
public final class Main {
    private Main() {}

    public static void main(String[] args) throws IOException {
        MongoServer server = new MongoServer(new Backend().version(new Version()));
        server.bind(new InetSocketAddress("127.0.0.1", 0));
        System.out.println("ready " + server.getLocalAddress().getPort());
        System.out.flush();
        while (System.in.read() >= 0) {
            // Nothing is ever sent: the end of the input is the signal.
        }
        Runtime.getRuntime().halt(0);
    }

    /** The library's own versions end at wire version 8; the Go driver asks for 9. */
    private static final class Version implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(4, 4, 0);
        }

        @Override
        public int getWireVersion() {
            return 9;
        }
    }

    private static final class Backend extends MemoryBackend {
        private Document data = new Document(); // of the fail point
        private int times; // how often it is still to fail

        @Override
        public Document handleCommand(
                Channel channel, String database, String command, Document query) {
            switch (command) {
                case "saslStart":
                    throw new MongoServerError(18, "AuthenticationFailed", "Authentication failed.");
                case "configureFailPoint":
                    configure(query);
                    return new Document("ok", 1.0);
                default:
                    break;
            }
            Document failure = failure(database, command, query);
            if (Boolean.TRUE.equals(failure.get("closeConnection"))) {
                channel.close();
                throw new MongoServerError(0, "FailPoint", "connection closed");
            }
            if (failure.get("errorCode") instanceof Number code) {
                throw new MongoServerError(code.intValue(), "FailPoint", "failing command");
            }
            Document answer = super.handleCommand(channel, database, command, query);
            if (failure.containsKey("writeConcernError")) {
                answer.put("writeConcernError", failure.get("writeConcernError"));
            }
            return answer;
        }

        private synchronized void configure(Document query) {
            Object mode = query.get("mode");
            if (mode instanceof Map<?, ?> map && map.get("times") instanceof Number n) {
                times = n.intValue();
            } else {
                times = "alwaysOn".equals(mode) ? Integer.MAX_VALUE : 0;
            }
            data = query.get("data") instanceof Document d ? d : new Document();
        }

        /** Returns how this command is to fail: an empty document if it isn't. */
        private synchronized Document failure(String database, String command, Document query) {
            Document none = new Document();
            if (times == 0 || !(data.get("failCommands") instanceof Collection<?> commands)) {
                return none;
            }
            String namespace = database + "." + query.get(command);
            if (!commands.contains(command)
                    || !namespace.equals(data.getOrDefault("namespace", namespace))) {
                return none;
            }
            times--;
            return data;
        }
    }
}
