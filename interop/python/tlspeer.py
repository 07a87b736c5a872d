"""Python's own TLS (OpenSSL below) as a client of ours: greets so many times, each time offering the session of the time
before, and prints one fact a line.

    tlspeer.py ADDRESS FOLDER VERSION TIMES

FOLDER holds svid.pem, key.pem and bundle.pem. Exit status 1 when anything is refused.
"""

import socket
import ssl
import sys

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def greet(context, host, port, session):
    with socket.create_connection((host, port), timeout=30) as tcp:
        with context.wrap_socket(tcp, session=session) as tls:
            names = dict(tls.getpeercert())["subjectAltName"]
            tls.sendall(b"hello\n")
            answer = tls.makefile("r").readline().strip()
            # The session is whole only once something was read: TLS 1.3 sends it after the handshake.
            return [name for kind, name in names if kind == "URI"], answer, tls.session_reused, tls.session


def main(address, folder, version, times):
    host, port = address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    # The server is known by its SPIFFE ID.
    context.check_hostname = False
    context.load_verify_locations(f"{folder}/bundle.pem")
    context.load_cert_chain(f"{folder}/svid.pem", f"{folder}/key.pem")
    session, reused = None, 0
    for _ in range(int(times)):
        ids, answer, was_reused, session = greet(context, host, int(port), session)
        reused += was_reused
    print(f"server {' '.join(ids)}")
    print(f"answer {answer}")
    print(f"resumed {reused}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError) as error:
        print(f"tlspeer: {error}", file=sys.stderr)
        sys.exit(1)
