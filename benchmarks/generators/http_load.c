/* HTTP load: POSTs of provision requests with unique names over connections that are kept alive.
 *
 *   http_load --port P [--clients N] [--seconds S] [--rate R] [--path /api/v1/provision] [--key K --secret S] …
 *
 * An answer is good when its status is 200 and its body has the text of --expect. Prints one line of JSON.
 */
#include "load.h"

struct connection {
    int stream;
    int opening; /* the request waits until the connection is open */
    size_t had;
    char input[4096];
};

static struct connection *connections;

static void lose(int slot) {
    if (connections[slot].stream >= 0) close(connections[slot].stream);
    connections[slot].stream = -1;
}

static int send_request(int slot) {
    char body[1024], text[2048];
    int length = provision_request(body, sizeof body);
    int size = snprintf(text, sizeof text,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        "Content-Length: %d\r\n\r\n%s",
                        options.path, length, body);
    connections[slot].had = 0;
    return send(connections[slot].stream, text, (size_t)size, 0) == size;
}

static void begin(int slot) {
    struct connection *connection = &connections[slot];
    connection->opening = connection->stream < 0;
    if (connection->opening) {
        connection->stream = connect_tcp();
        if (connection->stream < 0) {
            finish(slot, 0);
            return;
        }
        watch(slot, connection->stream, EPOLLIN | EPOLLOUT | EPOLLET);
    } else if (!send_request(slot)) {
        lose(slot);
        finish(slot, 0);
    }
}

/* Whether the answer is there: 0 not yet, 1 good, -1 bad. */
static int judge(struct connection *connection) {
    connection->input[connection->had] = 0;
    char *end = strstr(connection->input, "\r\n\r\n");
    if (end == NULL) return 0;
    char *length = strcasestr(connection->input, "\r\ncontent-length:");
    if (length == NULL || length > end) return -1;
    char *body = end + 4;
    if (connection->input + connection->had < body + atoi(length + 17)) return 0;
    return strncmp(connection->input, "HTTP/1.1 200", 12) == 0 && strstr(body, options.expect) != NULL ? 1 : -1;
}

static void serve(int slot, uint32_t events) {
    struct connection *connection = &connections[slot];
    if (connection->opening && (events & EPOLLOUT) && !(events & EPOLLERR)) {
        connection->opening = 0;
        if (!send_request(slot)) events |= EPOLLERR;
    }
    int lost = (events & (EPOLLERR | EPOLLHUP)) != 0, verdict = 0;
    if (events & EPOLLIN)
        for (;;) {
            size_t room = sizeof connection->input - 1 - connection->had;
            ssize_t got = room ? recv(connection->stream, connection->input + connection->had, room, 0) : 0;
            if (got > 0) connection->had += (size_t)got;
            if (got < 0 && errno == EAGAIN) break;
            if (got <= 0) {
                lost = 1;
                break;
            }
            if ((size_t)got < room) break;
        }
    if (requests[slot].begun && connection->had) verdict = judge(connection);
    if (lost) lose(slot);
    if (requests[slot].begun && (verdict != 0 || lost)) finish(slot, verdict == 1);
}

static int retry(int slot) {
    (void)slot;
    return 0;
}

static void give_up(int slot) { lose(slot); }

int main(int argc, char **argv) {
    load_set_up(argc, argv);
    connections = calloc((size_t)options.clients, sizeof *connections);
    for (int slot = 0; slot < options.clients; slot++) connections[slot].stream = -1;
    return load_run();
}
