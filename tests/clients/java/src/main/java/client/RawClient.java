package client;

import static client.Lines.say;

import com.google.protobuf.ByteString;
import com.google.protobuf.Empty;
import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.spiffe.workloadapi.grpc.Workload;
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;

/** Calls by grpc-java alone. */
final class RawClient {
    private static final String SERVICE = "SpiffeWorkloadAPI";
    private static final long DEADLINE_S = 20;
    private static final Metadata.Key<String> SECURITY_HEADER =
            Metadata.Key.of("workload.spiffe.io", Metadata.ASCII_STRING_MARSHALLER);

    private final ManagedChannel channel;

    RawClient(String endpoint) {
        channel = NettyChannelBuilder.forAddress(
                        new DomainSocketAddress(URI.create(endpoint).getPath()))
                .eventLoopGroup(new EpollEventLoopGroup(1))
                .channelType(EpollDomainSocketChannel.class)
                .usePlaintext()
                .build();
    }

    /** Says `fetched` or `refused`. */
    void call(String method, String header) {
        try {
            sayFetched(first(method, header));
        } catch (Exception error) {
            say("refused", "code", Summary.code(error), "message", Summary.message(error));
        }
    }

    /** Says `answered`. */
    void answered(String method) {
        try {
            first(method, "true");
            say("answered", "code", "OK");
        } catch (Exception error) {
            say("answered", "code", Summary.code(error), "message", Summary.message(error));
        }
    }

    /** The first message; the rest of its stream is given up. */
    private Message first(String method, String header) throws Exception {
        try (Context.CancellableContext call = Context.current().withCancellation()) {
            return call.call(() -> firstOf(method, header));
        }
    }

    private Message firstOf(String method, String header) {
        Channel caller = channel;
        if (header != null) {
            Metadata headers = new Metadata();
            headers.put(SECURITY_HEADER, header);
            caller = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        Message prototype = answerOf(method);
        // All requests are empty, and an empty message of any type is no octets.
        MethodDescriptor<Message, Message> descriptor = MethodDescriptor.<Message, Message>newBuilder()
                .setType(MethodDescriptor.MethodType.SERVER_STREAMING)
                .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, method))
                .setRequestMarshaller(marshaller(Workload.X509SVIDRequest.getDefaultInstance()))
                .setResponseMarshaller(marshaller(prototype))
                .build();
        CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(DEADLINE_S, TimeUnit.SECONDS);
        Iterator<Message> messages = ClientCalls.blockingServerStreamingCall(
                caller, descriptor, options, Workload.X509SVIDRequest.getDefaultInstance());
        if (!messages.hasNext()) {
            throw new NoSuchElementException("the stream ended without a message");
        }
        return messages.next();
    }

    private static MethodDescriptor.Marshaller<Message> marshaller(Message prototype) {
        return ProtoUtils.marshaller(prototype);
    }

    private static Message answerOf(String method) {
        return switch (method) {
            case "FetchX509SVID" -> Workload.X509SVIDResponse.getDefaultInstance();
            case "FetchX509Bundles" -> Workload.X509BundlesResponse.getDefaultInstance();
            case "FetchJWTSVID" -> Workload.JWTSVIDResponse.getDefaultInstance();
            case "FetchJWTBundles" -> Workload.JWTBundlesResponse.getDefaultInstance();
            case "ValidateJWTSVID" -> Workload.ValidateJWTSVIDResponse.getDefaultInstance();
            // What the library does not know: fields that nobody reads.
            default -> Empty.getDefaultInstance();
        };
    }

    private static void sayFetched(Message message) throws CertificateException {
        List<Map<String, String>> svids = List.of();
        Collection<String> bundles = List.of();
        if (message instanceof Workload.X509SVIDResponse answer) {
            bundles = new TreeSet<>(answer.getFederatedBundlesMap().keySet());
            svids = new ArrayList<>();
            for (Workload.X509SVID svid : answer.getSvidsList()) {
                bundles.add("spiffe://" + URI.create(svid.getSpiffeId()).getAuthority());
                svids.add(Summary.svid(svid.getSpiffeId(), svid.getHint(), Summary.serial(leaf(svid.getX509Svid()))));
            }
        } else if (message instanceof Workload.X509BundlesResponse answer) {
            bundles = answer.getBundlesMap().keySet();
        } else if (message instanceof Workload.JWTBundlesResponse answer) {
            bundles = answer.getBundlesMap().keySet();
        }
        say("fetched", "svids", svids, "bundles", bundles);
    }

    private static X509Certificate leaf(ByteString chain) throws CertificateException {
        return (X509Certificate) CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(chain.toByteArray()));
    }
}
