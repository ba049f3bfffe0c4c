/* MQTT 3.1.1 load: sessions, each on a TCP (or --tls) connection of its own.
 *
 *   mqtt_load --port P --mode exchange  CONNECT, SUBSCRIBE, PUBLISH, its answer, DISCONNECT
 *   mqtt_load --port P --mode connect   CONNECT, CONNACK, DISCONNECT
 *   mqtt_load --port P --mode hold      CONNECT, CONNACK, and stay until standard input ends
 *
 * All at QoS 0. In --request-topic and --response-topic a % stands for the client id. --username, or the lines of
 * --tokens in turn. --certificates: client certificates in turn, each DER after its length in four bytes; all of one
 * --private-key. `hold` has a slot for each session; it prints its results once --count of them are open, and at the end
 * how many the server has ended meanwhile. --again: a session that fails is tried again, as the same device, two seconds
 * after it began, until --patience is over. Servers' certificates are not verified: what this program costs is not what
 * is measured.
 */
#include "load.h"
#include <openssl/err.h>
#include <openssl/ssl.h>

enum packet { CONNACK = 2, PUBLISH = 3, SUBACK = 9 };

struct session {
    int stream;
    int greeted; /* CONNECT is sent */
    long turn;   /* whose token and certificate it has */
    SSL *ssl;
    size_t had;
    char id[32];
    char topic[64];
    unsigned char input[2048];
};

static struct session *sessions;
static SSL_CTX *context;
static char **tokens;
static long token_count;
static X509 **certificates;
static long certificate_count;
static int exchange, hold; /* modes; else it is connect */
static char run_id[16];

static void end_session(struct session *session) {
    if (session->ssl != NULL) SSL_free(session->ssl);
    session->ssl = NULL;
    if (session->stream >= 0) close(session->stream);
    session->stream = -1;
}

static int put(struct session *session, const unsigned char *data, size_t size) {
    if (session->ssl != NULL) return SSL_write(session->ssl, data, (int)size) == (int)size;
    return send(session->stream, data, size, 0) == (ssize_t)size;
}

/* Bytes read, 0 when there are none just now, -1 when it is over. */
static ssize_t take(struct session *session, unsigned char *into, size_t room) {
    if (session->ssl != NULL) {
        int got = SSL_read(session->ssl, into, (int)room);
        if (got > 0) return got;
        int error = SSL_get_error(session->ssl, got);
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
    ssize_t got = recv(session->stream, into, room, 0);
    if (got > 0) return got;
    return got < 0 && errno == EAGAIN ? 0 : -1;
}

static unsigned char *put_text(unsigned char *at, const char *text) {
    size_t length = strlen(text);
    *at++ = (unsigned char)(length >> 8);
    *at++ = (unsigned char)length;
    memcpy(at, text, length);
    return at + length;
}

/* Send a packet; body: what follows the fixed header, with 5 bytes of room before it. */
static int put_packet(struct session *session, int first, unsigned char *body, const unsigned char *end) {
    size_t length = (size_t)(end - body);
    unsigned char header[5], *at = header;
    *at++ = (unsigned char)first;
    for (size_t rest = length; ; ) {
        *at++ = (unsigned char)((rest & 127) | (rest > 127 ? 128 : 0));
        if ((rest >>= 7) == 0) break;
    }
    size_t size = (size_t)(at - header);
    memcpy(body - size, header, size);
    return put(session, body - size, size + length);
}

static const char *topic_of(struct session *session, const char *pattern) {
    const char *mark = strchr(pattern, '%');
    if (mark == NULL) return pattern;
    snprintf(session->topic, sizeof session->topic, "%.*s%s%s", (int)(mark - pattern), pattern, session->id, mark + 1);
    return session->topic;
}

static int send_connect(struct session *session) {
    unsigned char room[512], *body = room + 5;
    int named_ = token_count > 0 || *options.username;
    unsigned char *at = put_text(body, "MQTT");
    *at++ = 4;
    *at++ = (unsigned char)(0x02 | (named_ ? 0x80 : 0));
    *at++ = 3600 >> 8;
    *at++ = 3600 & 255;
    at = put_text(at, session->id);
    if (named_) at = put_text(at, token_count > 0 ? tokens[session->turn % token_count] : options.username);
    return put_packet(session, 0x10, body, at);
}

static int send_subscribe(struct session *session) {
    unsigned char room[256], *body = room + 5, *at = body;
    *at++ = 0;
    *at++ = 1;
    at = put_text(at, topic_of(session, options.response_topic));
    *at++ = 0;
    return put_packet(session, 0x82, body, at);
}

static int send_request(struct session *session) {
    unsigned char room[1024], *body = room + 5;
    unsigned char *at = put_text(body, topic_of(session, options.request_topic));
    at += provision_request((char *)at, (size_t)(room + sizeof room - at));
    return put_packet(session, 0x30, body, at);
}

static void begin(int slot) {
    static long count;
    struct session *session = &sessions[slot];
    session->had = 0;
    session->greeted = 0;
    snprintf(session->id, sizeof session->id, "%s%lx", run_id, count);
    session->turn = hold ? slot : count;
    count++;
    session->stream = connect_tcp();
    if (session->stream < 0) {
        if (!options.again) finish(slot, 0);
        return;
    }
    if (context != NULL) {
        session->ssl = SSL_new(context);
        SSL_set_fd(session->ssl, session->stream);
        SSL_set_connect_state(session->ssl);
        if (certificate_count > 0) SSL_use_certificate(session->ssl, certificates[session->turn % certificate_count]);
    }
    watch(slot, session->stream, EPOLLIN | EPOLLOUT | EPOLLET);
}

/* One packet has come: 0 go on, 1 the session has what it wanted, -1 it is refused. */
static int hear(struct session *session, int type, const unsigned char *body, size_t length) {
    switch (type) {
    case CONNACK:
        if (length < 2 || body[1] != 0) return -1;
        return exchange ? (send_subscribe(session) ? 0 : -1) : 1;
    case SUBACK:
        if (length < 3 || body[2] > 2) return -1;
        return send_request(session) ? 0 : -1;
    case PUBLISH:
        return memmem(body, length, options.expect, strlen(options.expect)) != NULL ? 1 : -1;
    default:
        return 0;
    }
}

/* Take the whole packets from the input. */
static int digest(struct session *session) {
    size_t at = 0;
    int verdict = 0;
    while (verdict == 0 && session->had - at >= 2) {
        size_t length = 0, size = 1;
        int shift = 0, more = 1;
        while (more && at + size < session->had && size < 5) {
            length |= (size_t)(session->input[at + size] & 127) << shift;
            more = session->input[at + size++] & 128;
            shift += 7;
        }
        if (more || at + size + length > session->had) break;
        verdict = hear(session, session->input[at] >> 4, session->input + at + size, length);
        at += size + length;
    }
    memmove(session->input, session->input + at, session->had - at);
    session->had -= at;
    return verdict;
}

static void serve(int slot, uint32_t events) {
    static const unsigned char disconnect[] = {0xe0, 0};
    struct session *session = &sessions[slot];
    int verdict = 0;
    if (session->stream < 0) return;
    if (requests[slot].begun == 0) { /* one that is held */
        unsigned char unread[64];
        if (take(session, unread, sizeof unread) < 0) {
            end_session(session);
            lost++;
        }
        return;
    }
    if (!session->greeted) {
        if (events & (EPOLLERR | EPOLLHUP)) verdict = -1;
        else if (session->ssl != NULL && SSL_do_handshake(session->ssl) != 1) {
            int error = SSL_get_error(session->ssl, -1);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return;
            verdict = -1;
        } else {
            session->greeted = 1;
            if (!send_connect(session)) verdict = -1;
        }
    }
    while (verdict == 0) {
        ssize_t got = take(session, session->input + session->had, sizeof session->input - session->had);
        if (got == 0) return;
        if (got < 0) verdict = -1;
        else {
            session->had += (size_t)got;
            verdict = digest(session);
        }
    }
    if (verdict < 0) {
        ERR_clear_error();
        end_session(session);
        if (options.again) return;
    } else if (!hold) {
        put(session, disconnect, sizeof disconnect);
        if (session->ssl != NULL) SSL_shutdown(session->ssl);
        end_session(session);
    }
    finish(slot, verdict > 0);
}

static int retry(int slot) {
    if (!options.again || sessions[slot].stream >= 0) return 0;
    begin(slot);
    return 1;
}

static void give_up(int slot) { end_session(&sessions[slot]); }

static void read_tokens(void) {
    FILE *file = fopen(options.tokens, "r");
    char *line = NULL;
    size_t size = 0;
    must(file != NULL, options.tokens);
    for (ssize_t length; (length = getline(&line, &size, file)) > 0;) {
        line[strcspn(line, "\n")] = 0;
        tokens = realloc(tokens, (size_t)(token_count + 1) * sizeof *tokens);
        tokens[token_count++] = strdup(line);
    }
    free(line);
    fclose(file);
}

static void read_certificates(void) {
    FILE *file = fopen(options.certificates, "rb");
    unsigned char length[4], der[8192];
    must(file != NULL, options.certificates);
    while (fread(length, 1, 4, file) == 4) {
        size_t size = (size_t)length[0] << 24 | (size_t)length[1] << 16 | (size_t)length[2] << 8 | length[3];
        const unsigned char *at = der;
        must(size <= sizeof der && fread(der, 1, size, file) == size, options.certificates);
        certificates = realloc(certificates, (size_t)(certificate_count + 1) * sizeof *certificates);
        certificates[certificate_count] = d2i_X509(NULL, &at, (long)size);
        must(certificates[certificate_count++] != NULL, options.certificates);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    load_set_up(argc, argv);
    exchange = strcmp(options.mode, "exchange") == 0;
    once = hold = strcmp(options.mode, "hold") == 0;
    snprintf(run_id, sizeof run_id, "b%x-", (unsigned)(now_ns() >> 10) & 0xffffff);
    if (options.tokens != NULL) read_tokens();
    if (options.certificates != NULL) read_certificates();
    if (options.tls) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
        if (options.private_key != NULL &&
            SSL_CTX_use_PrivateKey_file(context, options.private_key, SSL_FILETYPE_PEM) != 1) {
            ERR_print_errors_fp(stderr);
            return 1;
        }
    }
    sessions = calloc((size_t)options.clients, sizeof *sessions);
    for (int slot = 0; slot < options.clients; slot++) sessions[slot].stream = -1;
    int code = load_run();
    if (hold) {
        char unread[64];
        while (read(0, unread, sizeof unread) > 0) {}
        struct epoll_event event;
        while (epoll_wait(epoll, &event, 1, 0) > 0) serve((int)event.data.u32, event.events);
        printf("%ld\n", lost);
    }
    return code;
}
