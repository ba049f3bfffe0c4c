/* CoAP load: confirmable requests (RFC 7252), one at a time on each of many sockets.
 *
 *   coap_load --port P [--mode post|put] [--path /api/v1/provision] [--clients N] [--seconds S] [--rate R] …
 *
 * Takes answers in the ACK and separate ones; sends again after two seconds. An answer is good when its code is 2.xx
 * and it has the text of --expect. A socket is replaced before its message ids come round. Prints one line of JSON.
 */
#include "load.h"

#define MESSAGES_PER_SOCKET 50000
#define CON 0
#define ACK 2

struct peer {
    int datagrams;
    uint16_t message_id;
    uint32_t token;
    long sent;
    int64_t again; /* when to send again */
    size_t size;
    unsigned char message[1200];
};

static struct peer *peers;
static uint32_t tokens;

static void open_socket(int slot) {
    struct peer *peer = &peers[slot];
    struct sockaddr_in source = next_source(), server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (peer->datagrams >= 0) close(peer->datagrams);
    peer->datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(peer->datagrams >= 0, "socket");
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(bind(peer->datagrams, (struct sockaddr *)&source, sizeof source) == 0, "bind");
    must(connect(peer->datagrams, (struct sockaddr *)&server, sizeof server) == 0, "connect");
    watch(slot, peer->datagrams, EPOLLIN);
    peer->sent = 0;
    peer->message_id = (uint16_t)mix((uint64_t)now_ns() + (uint64_t)slot);
}

/* An option whose number is `delta` above the last one's (§3.1). */
static size_t put_option(unsigned char *at, int delta, const void *value, size_t length) {
    unsigned char *to = at;
    *to++ = (unsigned char)(delta << 4 | (length < 13 ? (int)length : 13));
    if (length >= 13) *to++ = (unsigned char)(length - 13);
    memcpy(to, value, length);
    return (size_t)(to - at) + length;
}

static void begin(int slot) {
    struct peer *peer = &peers[slot];
    unsigned char *at = peer->message;
    if (peer->datagrams < 0 || peer->sent >= MESSAGES_PER_SOCKET) open_socket(slot);
    peer->message_id++;
    peer->token = ++tokens;
    *at++ = 0x40 | CON << 4 | 4;
    *at++ = strcmp(options.mode, "put") == 0 ? 3 : 2;
    *at++ = (unsigned char)(peer->message_id >> 8);
    *at++ = (unsigned char)peer->message_id;
    memcpy(at, &peer->token, 4);
    at += 4;
    int delta = 11; /* Uri-Path */
    for (const char *part = options.path; *part == '/'; delta = 0) {
        size_t length = strcspn(++part, "/");
        at += put_option(at, delta, part, length);
        part += length;
    }
    at += put_option(at, 1, "\x32", 1); /* Content-Format: application/json */
    *at++ = 0xff;
    at += provision_request((char *)at, (size_t)(peer->message + sizeof peer->message - at));
    peer->size = (size_t)(at - peer->message);
    peer->again = now_ns() + 2 * SECOND;
    peer->sent++;
    (void)!send(peer->datagrams, peer->message, peer->size, 0);
}

static void serve(int slot, uint32_t events) {
    struct peer *peer = &peers[slot];
    unsigned char answer[2048];
    (void)events;
    ssize_t got;
    while ((got = recv(peer->datagrams, answer, sizeof answer - 1, 0)) >= 4) {
        answer[got] = 0;
        int type = answer[0] >> 4 & 3, code = answer[1], token_length = answer[0] & 15;
        uint32_t token;
        if (code == 0 || token_length != 4 || got < 8) continue;
        memcpy(&token, answer + 4, 4);
        if (type == CON) {
            unsigned char ack[4] = {0x40 | ACK << 4, 0, answer[2], answer[3]};
            (void)!send(peer->datagrams, ack, 4, 0);
        }
        if (requests[slot].begun == 0 || token != peer->token) continue;
        int good = code >> 5 == 2;
        if (good && *options.expect) good = memmem(answer, (size_t)got, options.expect, strlen(options.expect)) != NULL;
        finish(slot, good);
        return; /* what else there is comes with the next event: the socket may be another by now */
    }
}

static int retry(int slot) {
    struct peer *peer = &peers[slot];
    if (now_ns() < peer->again) return 0;
    peer->again = now_ns() + 4 * SECOND;
    (void)!send(peer->datagrams, peer->message, peer->size, 0);
    return 1;
}

static void give_up(int slot) { open_socket(slot); }

int main(int argc, char **argv) {
    load_set_up(argc, argv);
    peers = calloc((size_t)options.clients, sizeof *peers);
    for (int slot = 0; slot < options.clients; slot++) peers[slot].datagrams = -1;
    for (int slot = 0; slot < options.clients; slot++) open_socket(slot);
    return load_run();
}
