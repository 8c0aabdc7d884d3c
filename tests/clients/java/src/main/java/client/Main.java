package client;

import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * A workload as its authors would write it: java-spiffe and its TLS provider (grpc-java, JSSE), nothing of ours.
 * tests/clients/README.md says what it understands and what it says.
 *
 * <p>It runs as the user that it is started as: Java cannot become another one. The argument is there all the same, so
 * that all programs are called alike.
 */
public final class Main {
    private Main() {}

    /** Role, address of the Workload API, user, and for the role of a peer whom it expects. */
    public static void main(String[] args) throws Exception {
        String role = args[0];
        String endpoint = args[1];
        if (role.equals("peer")) {
            Set<String> peers = Stream.of(args[3].split(",")).collect(Collectors.toSet());
            Peer.run(endpoint, peers);
        } else if (role.equals("client")) {
            Client.run(endpoint);
        } else {
            throw new IllegalArgumentException(role);
        }
        // Threads of gRPC and ours have nothing left to save.
        Runtime.getRuntime().halt(0);
    }
}
