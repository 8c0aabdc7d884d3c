package client;

import static client.Lines.say;

import com.google.gson.JsonObject;
import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.exception.BundleNotFoundException;
import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.DefaultX509Source.X509SourceOptions;
import io.spiffe.workloadapi.X509Source;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;

/** Mutual TLS in both roles at once, each handshake with the newest SVID. */
final class Peer {
    private static final int HANDSHAKE_DEADLINE_MS = 20_000;
    private static final int PAUSE_MS = 20;
    private static final int BACKLOG = 64;

    private final X509Source source;
    private final Set<SpiffeId> peers;
    private final ExecutorService threads = Executors.newCachedThreadPool();
    private final Map<Integer, AtomicLong> ports = new ConcurrentSkipListMap<>();
    private final AtomicLong dialed = new AtomicLong();
    private final AtomicLong dialFailed = new AtomicLong();
    private final AtomicLong served = new AtomicLong();
    private final AtomicLong serveFailed = new AtomicLong();
    private volatile boolean paused;

    private Peer(X509Source source, Set<SpiffeId> peers) {
        this.source = source;
        this.peers = peers;
    }

    static void run(String endpoint, Set<String> peerIds) throws IOException {
        X509Source source;
        try {
            source = DefaultX509Source.newSource(X509SourceOptions.builder()
                    .spiffeSocketPath(endpoint)
                    .initTimeout(Duration.ofSeconds(30))
                    // The source tells nobody of a new SVID, but asks which one to take.
                    .svidPicker(Peer::pick)
                    .build());
            // After an error that it takes as final it is there, and empty.
            source.getX509Svid();
        } catch (Exception error) {
            say("no_source", "error", Lines.explain(error));
            return;
        }
        Peer peer = new Peer(source, peerIds.stream().map(SpiffeId::parse).collect(Collectors.toSet()));
        ServerSocket listener = new ServerSocket(0, BACKLOG, InetAddress.getByName("127.0.0.1"));
        peer.threads.execute(() -> peer.serve(listener));
        say("listening", "port", listener.getLocalPort());
        Lines.commands(peer::obey);
    }

    private static X509Svid pick(List<X509Svid> svids) {
        X509Svid svid = svids.get(0);
        say("svid", "spiffe_id", svid.getSpiffeId().toString(), "serial", Summary.serial(svid.getLeaf()));
        return svid;
    }

    private void obey(JsonObject command) {
        if (command.has("dial")) {
            int port = command.get("dial").getAsInt();
            threads.execute(() -> dial(port));
        }
        if (command.has("pause")) {
            paused = command.get("pause").getAsBoolean();
        }
        if (command.has("report")) {
            say(
                    "report",
                    "dialed", dialed.get(),
                    "dial_failed", dialFailed.get(),
                    "served", served.get(),
                    "serve_failed", serveFailed.get(),
                    "ports", ports);
        }
    }

    private void serve(ServerSocket listener) {
        while (true) {
            try {
                Socket tcp = listener.accept();
                threads.execute(() -> account("serve", served, serveFailed, () -> answer(tcp)));
            } catch (IOException error) {
                say("failed", "role", "serve", "error", Lines.explain(error));
                return;
            }
        }
    }

    private void answer(Socket tcp) throws Exception {
        try (tcp; SSLSocket tls = wrap(tcp, false)) {
            expect(tls, "ping");
            tls.getOutputStream().write("pong".getBytes(StandardCharsets.US_ASCII));
        }
    }

    private void dial(int port) {
        AtomicLong count = ports.computeIfAbsent(port, any -> new AtomicLong());
        while (true) {
            if (!paused) {
                account("dial", dialed, dialFailed, () -> {
                    ask(port);
                    count.incrementAndGet();
                });
            }
            try {
                Thread.sleep(PAUSE_MS);
            } catch (InterruptedException error) {
                return;
            }
        }
    }

    private void ask(int port) throws Exception {
        try (Socket tcp = new Socket(InetAddress.getByName("127.0.0.1"), port);
                SSLSocket tls = wrap(tcp, true)) {
            tls.getOutputStream().write("ping".getBytes(StandardCharsets.US_ASCII));
            // In TLS 1.3 the client hears only here whether the server has accepted it.
            expect(tls, "pong");
        }
    }

    /** The connection after its handshake. */
    private SSLSocket wrap(Socket tcp, boolean isClient) throws IOException, GeneralSecurityException {
        tcp.setSoTimeout(HANDSHAKE_DEADLINE_MS);
        tcp.setTcpNoDelay(true);
        SSLSocket tls = (SSLSocket) context().getSocketFactory().createSocket(tcp, null, tcp.getPort(), true);
        tls.setUseClientMode(isClient);
        tls.setNeedClientAuth(!isClient);
        tls.startHandshake();
        return tls;
    }

    /**
     * A context of its own for each connection. A context keeps sessions to resume; and java-spiffe's key manager asks
     * its source for the key and for the chain one after the other, so with the living source a handshake that meets a
     * rotation in between would have two that do not match.
     */
    private SSLContext context() throws GeneralSecurityException {
        return SpiffeSslContextFactory.getSslContext(SslContextOptions.builder()
                .sslProtocol("TLSv1.3")
                .x509Source(new OneSvid(source.getX509Svid(), source))
                .acceptedSpiffeIdsSupplier(() -> peers)
                .build());
    }

    private static void expect(SSLSocket tls, String text) throws IOException {
        String read = new String(tls.getInputStream().readNBytes(text.length()), StandardCharsets.US_ASCII);
        if (!read.equals(text)) {
            throw new IOException("`" + read + "` instead of `" + text + "`");
        }
    }

    private static void account(String role, AtomicLong good, AtomicLong bad, Talk talk) {
        try {
            talk.run();
            good.incrementAndGet();
        } catch (Exception error) {
            bad.incrementAndGet();
            say("failed", "role", role, "error", Lines.explain(error));
        }
    }

    private interface Talk {
        void run() throws Exception;
    }

    /** One SVID of a source, with its living bundles. */
    private record OneSvid(X509Svid svid, X509Source source) implements X509Source {
        @Override
        public X509Svid getX509Svid() {
            return svid;
        }

        @Override
        public X509Bundle getBundleForTrustDomain(TrustDomain trustDomain) throws BundleNotFoundException {
            return source.getBundleForTrustDomain(trustDomain);
        }

        @Override
        public void close() {}
    }
}
