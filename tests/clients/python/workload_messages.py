"""The messages of the X.509 part of the Workload API, from the field numbers of the published interface."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HEADER = (("workload.spiffe.io", "true"),)


def messages():
    """X509SVIDResponse and X509BundlesResponse, from the numbers of the published interface."""
    file = descriptor_pb2.FileDescriptorProto(name="check.proto", syntax="proto3")
    repeated, optional = 3, 1
    text, octets, message = 9, 12, 11

    def add(parent, name, fields):
        new = parent.add(name=name)
        for number, (field, label, kind, type_name) in fields.items():
            of_type = {"type_name": type_name} if type_name else {}
            new.field.add(name=field, number=number, label=label, type=kind, **of_type)
        return new

    def bundle_map(parent, name):
        entry = add(parent.nested_type, name, {1: ("key", optional, text, ""), 2: ("value", optional, octets, "")})
        entry.options.map_entry = True

    add(
        file.message_type,
        "X509SVID",
        {
            1: ("spiffe_id", optional, text, ""),
            2: ("x509_svid", optional, octets, ""),
            3: ("x509_svid_key", optional, octets, ""),
            4: ("bundle", optional, octets, ""),
            5: ("hint", optional, text, ""),
        },
    )
    bundle_map(
        add(
            file.message_type,
            "X509SVIDResponse",
            {
                1: ("svids", repeated, message, ".X509SVID"),
                2: ("crl", repeated, octets, ""),
                3: ("federated_bundles", repeated, message, ".X509SVIDResponse.FederatedBundlesEntry"),
            },
        ),
        "FederatedBundlesEntry",
    )
    bundle_map(
        add(
            file.message_type,
            "X509BundlesResponse",
            {
                1: ("crl", repeated, octets, ""),
                2: ("bundles", repeated, message, ".X509BundlesResponse.BundlesEntry"),
            },
        ),
        "BundlesEntry",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClassesForFiles(["check.proto"], pool)
    return made["X509SVIDResponse"], made["X509BundlesResponse"]
