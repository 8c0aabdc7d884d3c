package client;

import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.spiffe.bundle.x509bundle.X509BundleSet;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.X509Context;
import java.security.cert.X509Certificate;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What events say of answers and of errors. */
final class Summary {
    private Summary() {}

    static String serial(X509Certificate certificate) {
        return certificate.getSerialNumber().toString(16);
    }

    static void sayContext(String event, X509Context context) {
        List<Map<String, String>> svids =
                context.getX509Svids().stream().map(Summary::svid).toList();
        Lines.say(event, "svids", svids, "bundles", domains(context.getX509BundleSet()));
    }

    static List<String> domains(X509BundleSet bundles) {
        return domains(bundles.getBundles().keySet());
    }

    static List<String> domains(Collection<TrustDomain> domains) {
        return domains.stream().map(TrustDomain::toIdString).sorted().toList();
    }

    static Map<String, String> svid(X509Svid svid) {
        return svid(svid.getSpiffeId().toString(), svid.getHint(), serial(svid.getLeaf()));
    }

    static Map<String, String> svid(String spiffeId, String hint, String serial) {
        Map<String, String> members = new LinkedHashMap<>();
        members.put("spiffe_id", spiffeId);
        members.put("hint", hint);
        members.put("serial", serial);
        return members;
    }

    /** The gRPC status that is the cause, or null. */
    static Status status(Throwable error) {
        for (Throwable at = error; at != null; at = at.getCause()) {
            if (at instanceof StatusRuntimeException status) {
                return status.getStatus();
            }
            if (at instanceof StatusException status) {
                return status.getStatus();
            }
        }
        return null;
    }

    static String code(Throwable error) {
        Status status = status(error);
        return status == null ? "UNKNOWN_TO_LIBRARY" : status.getCode().name();
    }

    static String message(Throwable error) {
        Status status = status(error);
        if (status == null) {
            return Lines.explain(error);
        }
        return status.getDescription() == null ? "" : status.getDescription();
    }
}
