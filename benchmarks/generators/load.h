/* What the load generators share: options, arrivals, latencies, one line of results.
 *
 * A slot is one request at a time. Closed loop: every slot begins again as soon as it is answered. Open loop (--rate):
 * requests arrive as a Poisson process, whether or not earlier ones are answered, and wait for a free slot; their
 * latency counts from when they arrived. What arrives in the measured window is waited for after it.
 *
 * --report FILE: a line of JSON at every whole multiple of --every seconds of CLOCK_MONOTONIC, so that those of several
 * generators and of who watches them are of the same time: what was answered since the last line, and what is left.
 *
 * One thread and epoll. A generator defines `begin` and `serve`, then calls `load_run`.
 */
#ifndef LOAD_H
#define LOAD_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define TICK (SECOND / 10) /* how often requests that take long are looked at */
#define FAILURES 5000      /* after which nothing more is asked */

struct options {
    int port, clients;
    int at_once; /* of the requests of a closed loop; 0: as many as there are slots */
    double seconds, warmup, patience;
    double every;                 /* seconds between the lines of --report */
    double rate; /* requests a second of an open loop; 0: closed loop */
    long count;                   /* so many requests and no more; 0: as many as there is time for */
    const char *mode, *path, *key, *secret, *prefix, *expect;
    const char *report;
    const char *request_topic, *response_topic, *username, *tokens, *certificates, *private_key;
    int tls, again; /* again: a session that fails is tried again, as long as there is patience */
};

static struct options options = {
    .clients = 64, .seconds = 2, .warmup = 0.3, .patience = 10, .mode = "", .path = "/api/v1/provision", .key = "key",
    .secret = "secret", .prefix = "device", .expect = "", .request_topic = "/provision/request",
    .response_topic = "/provision/response", .every = 5, .username = "provision"};

static void begin(int slot);                  /* start a request */
static void serve(int slot, uint32_t events); /* its socket has something */
static int retry(int slot);                   /* it takes longer than 2 s: try again; whether it did */
static void give_up(int slot);                /* it is not answered in time: clean up */

/* -- time, randomness, latencies */

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static uint64_t mix(uint64_t value) { /* splitmix64 */
    value += 0x9e3779b97f4a7c15ULL;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

static uint64_t random_state;

static double exponential(double mean) {
    random_state = mix(random_state);
    return -mean * log(((double)(random_state >> 11) + 1) / 9007199254740993.0);
}

/* Latencies in nanoseconds, to 1.6 %: 64 buckets for each power of two. */
#define BUCKETS (64 * 48)
struct latencies {
    long buckets[BUCKETS], count;
    int64_t longest;
};

static struct latencies all, recent; /* recent: since the last line of the report */

static void count_in(struct latencies *latencies, int64_t ns) {
    int power = ns < 64 ? 0 : 63 - __builtin_clzll((uint64_t)ns) - 5;
    int bucket = ns < 64 ? (int)ns : power * 64 + (int)((ns >> power) & 63);
    latencies->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    latencies->count++;
    if (ns > latencies->longest) latencies->longest = ns;
}

static double percentile_ms(const struct latencies *latencies, double share) {
    long wanted = (long)ceil(share * (double)latencies->count), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += latencies->buckets[bucket];
        if (seen < wanted || seen == 0) continue;
        int power = bucket / 64;
        int64_t lower = power == 0 ? bucket : (int64_t)(bucket % 64) << power;
        return (double)(lower + ((1LL << power) >> 1)) / 1e6;
    }
    return 0;
}

/* -- slots */

struct request {
    int64_t arrived, begun; /* 0: the slot is free */
};

static int epoll = -1, timer = -1;
static struct request *requests;
static int *free_slots, free_count, busy_count;
static int64_t *waiting; /* arrivals that have no slot yet: a ring */
static size_t waiting_size = 1 << 20, waiting_first, waiting_count;
static int64_t window_begin, window_end;
static int64_t last_finish;
static long started, done, failed, missed, retried;
static int stopping;
static int once; /* each slot serves once, and is kept */
static long lost; /* of those kept */

static int may_start(int64_t time) {
    return !stopping && time < window_end && (options.count == 0 || started < options.count);
}

static void start_request(int slot, int64_t arrived) {
    started++;
    busy_count++;
    requests[slot].arrived = arrived;
    requests[slot].begun = now_ns();
    begin(slot);
}

static void finish(int slot, int succeeded) {
    int64_t time = now_ns(), arrived = requests[slot].arrived;
    requests[slot].begun = 0;
    busy_count--;
    last_finish = time;
    if (!succeeded && ++failed >= FAILURES) stopping = 1;
    if (time >= window_begin && time < window_end && succeeded) done++;
    if (arrived >= window_begin && arrived < window_end && succeeded) {
        count_in(&all, time - arrived);
        count_in(&recent, time - arrived);
    }
    if (once) {
        if (options.rate == 0 && free_count > 0 && may_start(time)) start_request(free_slots[--free_count], time);
        return;
    }
    if (options.rate == 0 && may_start(time)) start_request(slot, time);
    else if (waiting_count > 0) {
        int64_t next = waiting[waiting_first];
        waiting_first = (waiting_first + 1) % waiting_size;
        waiting_count--;
        start_request(slot, next);
    } else free_slots[free_count++] = slot;
}

static void arrive(int64_t arrived) {
    if (free_count > 0) start_request(free_slots[--free_count], arrived);
    else if (waiting_count < waiting_size) waiting[(waiting_first + waiting_count++) % waiting_size] = arrived;
    else missed++;
}

static void set_timer(int64_t at) {
    struct itimerspec spec = {.it_value = {at / SECOND, at % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void look_at_the_time(int64_t time) {
    for (int slot = 0; slot < options.clients; slot++) {
        if (requests[slot].begun == 0) continue;
        if (time - requests[slot].begun > (int64_t)(options.patience * 1e9)) {
            give_up(slot);
            finish(slot, 0);
        } else if (time - requests[slot].begun > 2 * SECOND) retried += retry(slot);
    }
}

static void must(int good, const char *what) {
    if (good) return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Watch a slot's socket. */
static void watch(int slot, int socket_, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)slot};
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, socket_, &event) == 0, "epoll_ctl");
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static FILE *report;
static int64_t next_report;

static void set_next_report(int64_t time) {
    int64_t every = (int64_t)(options.every * 1e9);
    next_report = (time / every + 1) * every;
}

static void open_report(int64_t time) {
    if (options.report == NULL) return;
    report = fopen(options.report, "w");
    must(report != NULL, options.report);
    set_next_report(time);
}

/* at: the multiple of --every that was due. backlog: what has arrived and is not answered, waiting: of it what has not
 * been sent, as there was no free slot. */
static void write_report(int64_t time) {
    if (report == NULL) return;
    fprintf(report,
            "{\"at\": %.3f, \"done\": %ld, \"failed\": %ld, \"p50\": %.4f, \"p99\": %.4f, \"max\": %.4f, "
            "\"backlog\": %ld, \"waiting\": %ld, \"cpu_seconds\": %.4f}\n",
            (double)next_report / 1e9, recent.count, failed + missed, percentile_ms(&recent, 0.5),
            percentile_ms(&recent, 0.99), (double)recent.longest / 1e6, busy_count + (long)waiting_count,
            (long)waiting_count, cpu_seconds());
    fflush(report);
    memset(&recent, 0, sizeof recent);
    set_next_report(time);
}

/* Drive it all until the window is over and everything is answered; print the results. Returns the exit code. */
static int load_run(void) {
    struct epoll_event events[512];
    int64_t begun = now_ns(), next_arrival = begun, next_tick = begun + TICK;
    double cpu_before = -1, cpu_after = -1;
    random_state = mix((uint64_t)begun ^ (uint64_t)getpid());
    window_begin = begun + (int64_t)(options.warmup * 1e9);
    window_end = window_begin + (int64_t)(options.seconds * 1e9);
    waiting = malloc(waiting_size * sizeof *waiting);
    open_report(begun);
    for (int slot = 0; slot < options.clients; slot++) free_slots[free_count++] = slot;
    if (options.rate > 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event) == 0, "epoll_ctl");
        set_timer(begun);
    } else
        while (free_count > 0 && (options.at_once == 0 || busy_count < options.at_once) && may_start(begun)) start_request(free_slots[--free_count], now_ns());
    for (;;) {
        int count = epoll_wait(epoll, events, 512, (int)(TICK / 1000000));
        int64_t time = now_ns();
        if (cpu_before < 0 && time >= window_begin) cpu_before = cpu_seconds();
        if (cpu_after < 0 && time >= window_end) cpu_after = cpu_seconds();
        for (int i = 0; i < count; i++)
            if (events[i].data.u32 != UINT32_MAX) serve((int)events[i].data.u32, events[i].events);
        if (options.rate > 0) {
            time = now_ns();
            while (next_arrival <= time && may_start(next_arrival)) {
                arrive(next_arrival);
                next_arrival += (int64_t)exponential(1e9 / options.rate) + 1;
            }
            if (may_start(next_arrival)) set_timer(next_arrival);
            else {
                uint64_t expirations;
                (void)!read(timer, &expirations, sizeof expirations);
            }
        }
        if (time >= next_tick) {
            look_at_the_time(time);
            next_tick = time + TICK;
        }
        if (report != NULL && time >= next_report) write_report(time);
        int over = stopping || time >= window_end || (options.count > 0 && started >= options.count);
        if (over && busy_count == 0 && waiting_count == 0) break;
    }
    write_report(now_ns());
    double window = options.count > 0 ? (double)(last_finish - begun) / 1e9 : options.seconds;
    if (options.count > 0) done = started - failed;
    if (cpu_before < 0 || cpu_after < 0 || options.count > 0) cpu_before = 0, cpu_after = cpu_seconds();
    printf("{\"done\": %ld, \"failed\": %ld, \"retried\": %ld, \"lost\": %ld, \"seconds\": %.6f, \"rate\": %.3f, \"cpu\": %.4f, \"p50\": %.4f, "
           "\"p90\": %.4f, \"p99\": %.4f, \"p999\": %.4f, \"max\": %.4f}\n",
           done, failed + missed, retried, lost, window, (double)done / window, (cpu_after - cpu_before) / window,
           percentile_ms(&all, 0.5), percentile_ms(&all, 0.9), percentile_ms(&all, 0.99), percentile_ms(&all, 0.999),
           (double)all.longest / 1e6);
    fflush(stdout);
    return 0;
}

/* -- sockets */

/* Clients come from many loopback addresses, as their ports would not last: an ended connection keeps its own. Each run
 * has others, so that no client is taken for one of an earlier run, whose CoAP messages are remembered. */
static struct sockaddr_in next_source(void) {
    static uint32_t network, number;
    struct sockaddr_in source = {.sin_family = AF_INET};
    if (network == 0) network = 0x7f010000 + (uint32_t)(mix((uint64_t)now_ns() ^ (uint64_t)getpid()) % 0xfe0000 & ~255u);
    source.sin_addr.s_addr = htonl(network + 1 + number++ % 64);
    return source;
}

/* A TCP connection that is, or is about to be, open. */
__attribute__((unused)) static int connect_tcp(void) {
    struct sockaddr_in source = next_source(), server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int on = 1, stream = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(stream >= 0, "socket");
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(stream, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    must(bind(stream, (struct sockaddr *)&source, sizeof source) == 0, "bind");
    if (connect(stream, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS) {
        close(stream);
        return -1;
    }
    return stream;
}

/* -- what devices say */

static long named;

/* A name that none had before, of any run with this prefix: scattered, as those of a mixed fleet are. */
static int next_name(char *into, size_t size) {
    return snprintf(into, size, "%s-%016llx", options.prefix, (unsigned long long)mix((uint64_t)named++ << 20));
}

static int provision_request(char *into, size_t size) {
    char name[128];
    next_name(name, sizeof name);
    return snprintf(into, size,
                    "{\"deviceName\":\"%s\",\"provisionDeviceKey\":\"%s\",\"provisionDeviceSecret\":\"%s\"}", name,
                    options.key, options.secret);
}

static void load_set_up(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'},     {"clients", 1, 0, 'c'},  {"seconds", 1, 0, 's'},        {"warmup", 1, 0, 'w'},
        {"rate", 1, 0, 'r'},     {"count", 1, 0, 'n'},    {"mode", 1, 0, 'm'},           {"path", 1, 0, 'P'},
        {"key", 1, 0, 'k'},      {"secret", 1, 0, 'S'},   {"prefix", 1, 0, 'x'},         {"expect", 1, 0, 'e'},
        {"username", 1, 0, 'u'}, {"tokens", 1, 0, 't'},   {"request-topic", 1, 0, 'q'},  {"response-topic", 1, 0, 'a'},
        {"tls", 0, 0, 'T'},      {"again", 0, 0, 'A'},    {"certificates", 1, 0, 'C'},   {"private-key", 1, 0, 'K'},
        {"patience", 1, 0, 'W'}, {"at-once", 1, 0, 'O'},
        {"report", 1, 0, 'R'},   {"every", 1, 0, 'E'},    {0, 0, 0, 0}};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.clients = atoi(optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'w': options.warmup = atof(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'n': options.count = atol(optarg); break;
        case 'm': options.mode = optarg; break;
        case 'P': options.path = optarg; break;
        case 'k': options.key = optarg; break;
        case 'S': options.secret = optarg; break;
        case 'x': options.prefix = optarg; break;
        case 'e': options.expect = optarg; break;
        case 'u': options.username = optarg; break;
        case 't': options.tokens = optarg; break;
        case 'q': options.request_topic = optarg; break;
        case 'a': options.response_topic = optarg; break;
        case 'T': options.tls = 1; break;
        case 'A': options.again = 1; break;
        case 'R': options.report = optarg; break;
        case 'E': options.every = atof(optarg); break;
        case 'O': options.at_once = atoi(optarg); break;
        case 'W': options.patience = atof(optarg); break;
        case 'C': options.certificates = optarg; break;
        case 'K': options.private_key = optarg; break;
        default: exit(2);
        }
    if (options.port == 0 || options.clients < 1) {
        fprintf(stderr, "--port and --clients are needed\n");
        exit(2);
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    requests = calloc((size_t)options.clients, sizeof *requests);
    free_slots = calloc((size_t)options.clients, sizeof *free_slots);
}
#endif
