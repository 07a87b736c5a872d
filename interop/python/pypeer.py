"""py-spiffe as a peer: each verb does one thing over the Workload API named by SPIFFE_ENDPOINT_SOCKET and prints one fact
a line, "word value", for the checks that run it. Its gRPC core writes the socket's path into `:authority`, so every call
also shows that the server bears that. Any exception ends the program with status 1 and the exception on standard error.

    pypeer.py x509                     SVIDs, bundles and context, by one-shot calls and by X509Source
    pypeer.py chain                    the chains once more, judged by cryptography's own path builder
    pypeer.py jwt AUDIENCE OTHER       a JWT-SVID for AUDIENCE, judged here and by the Workload API
    pypeer.py watch UPDATES            X.509 contexts until that many serial numbers were seen
"""

import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from spiffe import JwtSource, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError
from spiffe.svid.jwt_svid import JwtSvid

# Seconds that one call, or one wait for an update, may take.
PATIENCE = 20


def fetch_x509(api):
    for svid in api.fetch_x509_svids():
        print("svid", svid.spiffe_id, format(svid.leaf.serial_number, "x"))
    print("default", api.fetch_x509_svid().spiffe_id)
    for bundle in api.fetch_x509_bundles().bundles:
        print("bundle", bundle.trust_domain, len(bundle.x509_authorities))
    context = api.fetch_x509_context()
    print("context", context.default_svid.spiffe_id, len(context.x509_svids), len(context.x509_bundle_set.bundles))
    with X509Source(timeout_in_seconds=PATIENCE) as source:
        held = source.get_x509_context()
        print("source", held.default_svid.spiffe_id, len(held.x509_bundle_set.bundles))


def judge_chains(api):
    context = api.fetch_x509_context()
    for svid in context.x509_svids:
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        verifier = PolicyBuilder().store(Store(list(bundle.x509_authorities))).build_client_verifier()
        leaf, *rest = svid.cert_chain
        verified = verifier.verify(leaf, rest)
        print("verified", *(name.value for name in verified.subjects if isinstance(name, x509.UniformResourceIdentifier)))
        broken = forged_certificate(leaf)
        try:
            verifier.verify(broken, rest)
            print("forged accepted")
        except VerificationError as error:
            print("forged refused", one_line(error))


def forged_certificate(leaf):
    """The same certificate with the last bit of its signature turned over."""
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_certificate(bytes(der))


def judge_jwt(api, audience, other):
    svid = api.fetch_jwt_svid(audience={audience})
    print("jwt", svid.spiffe_id, ",".join(sorted(svid.audience)))
    bundle = api.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    for word, token, wanted in (
        ("good", svid.token, audience),
        ("other-audience", svid.token, other),
        ("forged", forged_token(svid.token), audience),
    ):
        judge("here", word, lambda: JwtSvid.parse_and_validate(token, bundle, {wanted}))
        judge("there", word, lambda: api.validate_jwt_svid(token, wanted))
    with JwtSource(timeout_in_seconds=PATIENCE) as source:
        print("source", source.fetch_svid(audience={audience}).spiffe_id)


def judge(where, what, call):
    try:
        print(where, what, "accepted", call().spiffe_id)
    except PySpiffeError as error:
        print(where, what, "refused", type(error).__name__, one_line(error))


def forged_token(token):
    """Changes one character in the middle of the signature: still base64url, still the right length."""
    at = (token.rindex(".") + len(token)) // 2
    return token[:at] + ("B" if token[at] == "A" else "A") + token[at + 1 :]


def watch(api, updates):
    serials, failures, done = [], [], threading.Event()

    def updated(context):
        svid = context.default_svid
        serial = format(svid.leaf.serial_number, "x")
        if serial not in serials and not done.is_set():
            serials.append(serial)
            print("update", svid.spiffe_id, serial, int(svid.leaf.not_valid_after_utc.timestamp()), flush=True)
            if len(serials) == updates:
                done.set()

    def failed(error):
        failures.append(error)
        done.set()

    subscription = api.stream_x509_contexts(updated, failed)
    finished = done.wait(PATIENCE)
    subscription.cancel()
    if failures:
        raise failures[0]
    if not finished:
        raise TimeoutError(f"{len(serials)} of {updates} serial numbers seen in {PATIENCE} s")


def one_line(error):
    return " ".join(str(error).split())


def main(verb, *arguments):
    with WorkloadApiClient(default_timeout=PATIENCE) as api:
        match verb, arguments:
            case "x509", ():
                fetch_x509(api)
            case "chain", ():
                judge_chains(api)
            case "jwt", (audience, other):
                judge_jwt(api, audience, other)
            case "watch", (updates,):
                watch(api, int(updates))
            case _:
                sys.exit(f"pypeer.py: {verb}: unknown, or a wrong number of arguments")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"pypeer.py: {type(error).__name__}: {one_line(error)}")
