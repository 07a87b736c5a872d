// Java's own TLS as a client of ours: for each version greets once in each of two connections, and prints one fact a line.
//
//     java TlsPeer.java HOST PORT FOLDER VERSION...
//
// FOLDER holds svid.pem, key.pem and bundle.pem. Exit status 1 when anything is refused, each time with a line "refused
// VERSION why"; a version that was refused is not tried again.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class TlsPeer {
    private static final char[] NO_PASSWORD = new char[0];
    private static final int URI = 6;

    public static void main(String[] args) throws Exception {
        SSLContext context = context(Path.of(args[2]));
        int status = 0;
        for (String version : Arrays.asList(args).subList(3, args.length)) {
            try {
                run(context, args[0], Integer.parseInt(args[1]), version);
            } catch (IOException error) {
                System.out.println("refused " + version + " " + error.getMessage());
                status = 1;
            }
        }
        System.exit(status);
    }

    private static void run(SSLContext context, String host, int port, String version) throws Exception {
        for (int time = 0; time < 2; time++) {
            try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(host, port)) {
                socket.setEnabledProtocols(new String[] {version});
                socket.getOutputStream().write("hello\n".getBytes(StandardCharsets.UTF_8));
                X509Certificate leaf = (X509Certificate) socket.getSession().getPeerCertificates()[0];
                for (List<?> name : leaf.getSubjectAlternativeNames()) {
                    if ((Integer) name.get(0) == URI) {
                        System.out.println("server " + version + " " + name.get(1));
                    }
                }
                var reader = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8));
                String answer = reader.readLine();
                if (answer == null) {
                    throw new IOException("no answer");
                }
                System.out.println("answer " + version + " " + answer);
            }
        }
    }

    private static SSLContext context(Path folder) throws Exception {
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        own.setKeyEntry("svid", key(folder.resolve("key.pem")), NO_PASSWORD, certificates(folder.resolve("svid.pem")));
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(own, NO_PASSWORD);

        KeyStore bundle = KeyStore.getInstance("PKCS12");
        bundle.load(null, null);
        int number = 0;
        for (Certificate authority : certificates(folder.resolve("bundle.pem"))) {
            bundle.setCertificateEntry("authority" + number++, authority);
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(bundle);

        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private static Certificate[] certificates(Path file) throws Exception {
        try (var in = Files.newInputStream(file)) {
            return CertificateFactory.getInstance("X.509").generateCertificates(in).toArray(new Certificate[0]);
        }
    }

    private static PrivateKey key(Path file) throws Exception {
        String pem = Files.readString(file).replaceAll("-----[^-]+-----|\\s", "");
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
    }
}
