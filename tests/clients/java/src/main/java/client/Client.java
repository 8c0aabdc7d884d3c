package client;

import static client.Lines.say;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultWorkloadApiClient.ClientOptions;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.io.IOException;
import java.util.List;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/** The Workload API alone. */
final class Client {
    /** Held so that it is not collected together with its handler. */
    private static final Logger LIBRARY = Logger.getLogger("io.spiffe.workloadapi");

    private final String endpoint;
    private WorkloadApiClient library;
    private RawClient raw;
    private Sources sources;

    private Client(String endpoint) {
        this.endpoint = endpoint;
    }

    static void run(String endpoint) throws IOException {
        Client client = new Client(endpoint);
        Lines.commands(client::obey);
    }

    private void obey(JsonObject command) {
        if (command.has("fetch")) {
            fetch();
        }
        if (command.has("watch")) {
            watch();
        }
        if (command.has("raw")) {
            JsonObject call = command.getAsJsonObject("raw");
            JsonElement header = call.get("header");
            String value = header == null || header.isJsonNull() ? null : header.getAsString();
            raw().call(call.get("method").getAsString(), value);
        }
        if (command.has("call")) {
            call(command.get("call").getAsString());
        }
        if (command.has("sources")) {
            saySources(command.get("sources").getAsString());
        }
        if (command.has("strict")) {
            sources.strict();
        }
        if (command.has("reach")) {
            sources.reach(command.getAsJsonObject("reach"));
        }
    }

    private void saySources(String hint) {
        try {
            if (sources == null) {
                sources = new Sources(endpoint, hint);
            }
            sources.say();
        } catch (Exception error) {
            say("refused", "code", Summary.code(error), "message", Lines.explain(error));
        }
    }

    private WorkloadApiClient library() throws Exception {
        if (library == null) {
            library = DefaultWorkloadApiClient.newClient(
                    ClientOptions.builder().spiffeSocketPath(endpoint).build());
        }
        return library;
    }

    private RawClient raw() {
        if (raw == null) {
            raw = new RawClient(endpoint);
        }
        return raw;
    }

    private void fetch() {
        try {
            Summary.sayContext("fetched", library().fetchX509Context());
        } catch (Exception error) {
            say("refused", "code", Summary.code(error), "message", Summary.message(error));
        }
    }

    private void call(String method) {
        try {
            switch (method) {
                case "FetchX509Bundles" -> {
                    say("answered", "code", "OK", "bundles", Summary.domains(library().fetchX509Bundles()));
                }
                case "FetchJWTBundles" -> {
                    List<String> domains = Summary.domains(
                            library().fetchJwtBundles().getBundles().keySet());
                    say("answered", "code", "OK", "bundles", domains);
                }
                case "FetchJWTSVID" -> {
                    library().fetchJwtSvid("test");
                    say("answered", "code", "OK");
                }
                case "ValidateJWTSVID" -> {
                    library().validateJwtSvid("x.y.z", "test");
                    say("answered", "code", "OK");
                }
                default -> raw().answered(method);
            }
        } catch (Exception error) {
            say("answered", "code", Summary.code(error), "message", Summary.message(error));
        }
    }

    private void watch() {
        LIBRARY.addHandler(new Retries());
        try {
            library().watchX509Context(new Watcher<>() {
                @Override
                public void onUpdate(X509Context update) {
                    Summary.sayContext("update", update);
                }

                @Override
                public void onError(Throwable error) {
                    say("ended", "code", Summary.code(error), "message", Summary.message(error));
                }
            });
        } catch (Exception error) {
            say("ended", "code", Summary.code(error), "message", Summary.message(error));
        }
    }

    /** The library tells its watcher only of the last error; of those after which it comes again it writes a log. */
    private static final class Retries extends Handler {
        @Override
        public void publish(LogRecord line) {
            if (line.getThrown() != null) {
                say("retry", "code", Summary.code(line.getThrown()));
            } else if (line.getMessage().endsWith("stream is completed")) {
                // An end without an error is for ever, and the watcher is not told at all.
                say("ended", "code", "OK");
            }
        }

        @Override
        public void flush() {}

        @Override
        public void close() {}
    }
}
