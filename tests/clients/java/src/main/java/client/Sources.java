package client;

import com.google.gson.JsonObject;
import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.DefaultX509Source.X509SourceOptions;
import io.spiffe.workloadapi.X509Source;
import java.io.IOException;
import java.net.InetAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import javax.net.ssl.SSLSocket;

/** Two sources of the library: one as it is by default, one that picks by a hint. */
final class Sources {
    private static final int DEADLINE_MS = 20_000;

    private final X509Source byDefault;
    private final X509Source picked;
    private final String endpoint;
    private final String hint;
    private X509Source strict;

    Sources(String endpoint, String hint) throws Exception {
        this.endpoint = endpoint;
        this.hint = hint;
        byDefault = DefaultX509Source.newSource(options(endpoint).build());
        picked = DefaultX509Source.newSource(
                options(endpoint).svidPicker(svids -> pick(svids, hint, svids.get(0))).build());
    }

    private static X509SourceOptions.Builder options(String endpoint) {
        return X509SourceOptions.builder().spiffeSocketPath(endpoint).initTimeout(Duration.ofSeconds(30));
    }

    private static X509Svid pick(List<X509Svid> svids, String hint, X509Svid otherwise) {
        return svids.stream()
                .filter(svid -> hint.equals(svid.getHint()))
                .findFirst()
                .orElse(otherwise);
    }

    /** What they have now. */
    void say() {
        Lines.say(
                "sources",
                "default", Summary.svid(byDefault.getX509Svid()),
                "picked", Summary.svid(picked.getX509Svid()));
    }

    /** What a source has that takes nothing but the hint. */
    void strict() {
        try {
            if (strict == null) {
                strict = DefaultX509Source.newSource(
                        options(endpoint).svidPicker(svids -> pick(svids, hint, null)).build());
            }
            X509Svid svid = strict.getX509Svid();
            Lines.say("strict", "has", svid == null ? null : Summary.svid(svid));
        } catch (Exception error) {
            Lines.say("strict", "has", null, "error", Lines.explain(error));
        }
    }

    void reach(JsonObject command) {
        boolean isPicked = command.get("with").getAsString().equals("picked");
        Set<SpiffeId> server = Set.of(SpiffeId.parse(command.get("server").getAsString()));
        try {
            Lines.say("reached", "answer", get(command.get("port").getAsInt(), isPicked ? picked : byDefault, server));
        } catch (Exception error) {
            Lines.say("reached", "answer", null, "error", Lines.explain(error));
        }
    }

    private static String get(int port, X509Source source, Set<SpiffeId> server)
            throws IOException, GeneralSecurityException {
        SslContextOptions options = SslContextOptions.builder()
                .sslProtocol("TLSv1.3")
                .x509Source(source)
                .acceptedSpiffeIdsSupplier(() -> server)
                .build();
        try (Socket tcp = new Socket(InetAddress.getByName("127.0.0.1"), port);
                SSLSocket tls = (SSLSocket) SpiffeSslContextFactory.getSslContext(options)
                        .getSocketFactory()
                        .createSocket(tcp, null, port, true)) {
            tcp.setSoTimeout(DEADLINE_MS);
            String request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            tls.getOutputStream().write(request.getBytes(StandardCharsets.US_ASCII));
            String answer = new String(tls.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            if (!answer.startsWith("HTTP/1.1 200 ")) {
                throw new IOException("answered `" + answer + "`");
            }
            return answer.substring(answer.indexOf("\r\n\r\n") + 4);
        }
    }
}
