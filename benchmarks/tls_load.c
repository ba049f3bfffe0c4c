/* Load for benchmarks/tls_handshake.py: MQTT 3.1.1 sessions over TLS, each CONNECT, CONNACK, DISCONNECT on a
 * connection of its own, from a number of threads for a number of seconds.
 *
 *   tls_load PORT CERTIFICATE KEY VERSION resume|full THREADS SECONDS
 *
 * VERSION: 1.2 or 1.3. Prints one line: sessions, failures, and seconds (CLOCK_MONOTONIC) from first to last.
 * Servers are not verified: what this program costs is not what is measured.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const unsigned char CONNECT[] = {
    0x10, 0x17, 0x00, 0x04, 'M', 'Q', 'T', 'T', 0x04, 0x82, 0x00, 0x3c,  /* user name, clean session, 60 s */
    0x00, 0x00, 0x00, 0x09, 'p', 'r', 'o', 'v', 'i', 's', 'i', 'o', 'n'};
static const unsigned char DISCONNECT[] = {0xe0, 0x00};

static SSL_CTX *context;
static struct sockaddr_in server;
static int resume;
static double end;
static atomic_long sessions, failures;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Whether a session was resumed as it was meant to, and answered. */
static int converse(SSL *ssl, int expect_resumed) {
    unsigned char answer[4];
    if (SSL_connect(ssl) != 1 || SSL_session_reused(ssl) != expect_resumed) return 0;
    if (SSL_write(ssl, CONNECT, sizeof CONNECT) != sizeof CONNECT) return 0;
    for (size_t had = 0; had < sizeof answer;) {
        int got = SSL_read(ssl, answer + had, (int)(sizeof answer - had));
        if (got <= 0) return 0;
        had += (size_t)got;
    }
    if (answer[0] != 0x20 || answer[1] != 2) return 0;
    if (SSL_write(ssl, DISCONNECT, sizeof DISCONNECT) != sizeof DISCONNECT) return 0;
    SSL_shutdown(ssl);
    return 1;
}

static void *run(void *unused) {
    SSL_SESSION *session = NULL;
    (void)unused;
    while (now() < end) {
        int on = 1, done = 0;
        int sock = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (sock >= 0 && connect(sock, (struct sockaddr *)&server, sizeof server) == 0) {
            SSL *ssl = SSL_new(context);
            SSL_set_fd(ssl, sock);
            if (session != NULL) SSL_set_session(ssl, session);
            done = converse(ssl, session != NULL);
            if (resume && done) {
                SSL_SESSION_free(session);
                session = SSL_get1_session(ssl);
            }
            SSL_free(ssl);
        }
        close(sock);
        atomic_fetch_add(done ? &sessions : &failures, 1);
        ERR_clear_error();
    }
    SSL_SESSION_free(session);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: %s PORT CERTIFICATE KEY 1.2|1.3 resume|full THREADS SECONDS\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    context = SSL_CTX_new(TLS_client_method());
    int version = strcmp(argv[4], "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (SSL_CTX_use_certificate_chain_file(context, argv[2]) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, argv[3], SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        return 1;
    }
    resume = strcmp(argv[5], "resume") == 0;
    int threads = atoi(argv[6]);
    double begin = now();
    end = begin + atof(argv[7]);
    pthread_t *started = calloc((size_t)threads, sizeof *started);
    for (int i = 0; i < threads; i++) pthread_create(&started[i], NULL, run, NULL);
    for (int i = 0; i < threads; i++) pthread_join(started[i], NULL);
    printf("%ld %ld %.6f\n", atomic_load(&sessions), atomic_load(&failures), now() - begin);
    free(started);
    SSL_CTX_free(context);
    return 0;
}
