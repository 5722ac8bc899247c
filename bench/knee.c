// The two outer ends of bench/knee.py: a model server and its clients, in one thread on one core.
//
// The model server sends events at a pace, each with the time at which it was sent as its delta. The clients
// read them from whatever gateway is in between. Both ends have one clock, so the difference is what the
// event took. A thread that is written in C spends about 5 us on an event, so that it stays on time where
// the gateway no longer does.
//
//   knee PORT      listens on PORT as a model server, and reads orders from stdin, a line each:
//                  GATEWAY_PORT STREAMS INTERVAL_US EVENTS LOCKSTEP STORE
//                  (numbers; LOCKSTEP and STORE are 0 or 1). Prints a line of JSON for each.
//
// Streams begin within a second, the events of each at an own phase, or in lock-step: all at one instant.
// Lateness is counted from the first instant at which all streams should have begun to the last at which
// none should have ended. A stream that hasn't ended long after it should have is given up.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 8192, BUFFER = 1 << 17, RAMP_NS = 1000000000, PATIENCE_NS = 20000000, SENDS_IN_A_ROW = 16 };
enum role { NOBODY, LISTENER, ORDERS, MODEL, CLIENT };

struct peer {
    enum role role;
    char *buffer;           // what was read and not used yet
    size_t used;
    // a model server's side:
    int sent;               // events of the stream; -1 when there is none
    uint64_t due;           // when to send the next one
    // a client's side:
    uint64_t asked, first;
    int ended;
};

static struct peer peers[MAX_FDS];
static int poller, listener, highest;
static struct { int port, streams, interval_us, events, lockstep, store, begun, ended; uint64_t start; } order;
static uint64_t *late;      // lateness of each counted event
static uint64_t *firsts;
static size_t lates, late_room, received;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static void add(int fd, enum role role) {
    if (fd >= MAX_FDS) { fprintf(stderr, "too many connections\n"); exit(1); }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    char *buffer = peers[fd].buffer ? peers[fd].buffer : malloc(BUFFER);
    peers[fd] = (struct peer){.role = role, .buffer = buffer, .sent = -1};
    if (fd > highest) highest = fd;
}

static void drop(int fd) { peers[fd].role = NOBODY; peers[fd].sent = -1; close(fd); }

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void post(int fd, const char *data, size_t size) {
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) drop(fd);  // its reader is far behind
}

// ---- the model server

#define EVENT "event: %s\ndata: "
static const char ITEM[] = "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[%s]}";

static size_t chunk(char *out, size_t room, const char *type, const char *members, int number) {
    char data[4096];
    int size = snprintf(data, sizeof data, EVENT "{\"type\":\"%s\",\"sequence_number\":%d,%s}\n\n", type, type, number, members);
    return (size_t)snprintf(out, room, "%x\r\n%s\r\n", size, data);
}

static size_t response(char *out, size_t room, const char *status, const char *output) {
    return (size_t)snprintf(out, room,
        "\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"created_at\":1,\"status\":\"%s\",\"model\":\"tiny\","
        "\"output\":[%s],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[]%s}",
        status, output, *output ? ",\"usage\":{\"input_tokens\":1,\"output_tokens\":1,\"total_tokens\":2,"
        "\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens_details\":{\"reasoning_tokens\":0}}" : "");
}

static void begin(int fd) {
    char out[8192], members[2048], item[512];
    size_t size = (size_t)snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    response(members, sizeof members, "in_progress", "");
    size += chunk(out + size, sizeof out - size, "response.created", members, 0);
    size += chunk(out + size, sizeof out - size, "response.in_progress", members, 1);
    snprintf(item, sizeof item, ITEM, "in_progress", "");
    snprintf(members, sizeof members, "\"output_index\":0,\"item\":%s", item);
    size += chunk(out + size, sizeof out - size, "response.output_item.added", members, 2);
    size += chunk(out + size, sizeof out - size, "response.content_part.added",
        "\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[],\"logprobs\":[]}", 3);
    post(fd, out, size);
    uint64_t step = (uint64_t)order.interval_us * 1000;
    peers[fd].sent = 0;
    peers[fd].due = order.lockstep ? (now() / step + 1) * step : now() + (uint64_t)rand() % step;
}

static void finish(int fd) {
    // The text isn't repeated: what the gateway has streamed is what its clients get.
    char out[8192], members[2048], item[512];
    size_t size = 0;
    int number = order.events + 4;
    snprintf(item, sizeof item, ITEM, "completed", "{\"type\":\"output_text\",\"text\":\"done\",\"annotations\":[],\"logprobs\":[]}");
    snprintf(members, sizeof members, "\"output_index\":0,\"item\":%s", item);
    size += chunk(out + size, sizeof out - size, "response.output_item.done", members, number++);
    response(members, sizeof members, "completed", item);
    size += chunk(out + size, sizeof out - size, "response.completed", members, number);
    size += (size_t)snprintf(out + size, sizeof out - size, "0\r\n\r\n");
    post(fd, out, size);
}

static void send_due(uint64_t time) {
    static int next;
    int in_a_row = 0;
    for (int looked = 0; looked <= highest && in_a_row < SENDS_IN_A_ROW; looked++, next++) {
        if (next > highest) next = 0;
        struct peer *peer = &peers[next];
        if (peer->role != MODEL || peer->sent < 0 || peer->due > time) continue;
        in_a_row++;
        if (peer->sent == order.events) {
            peer->sent = -1;
            finish(next);
            continue;
        }
        char out[512], members[256];
        snprintf(members, sizeof members, "\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"T%019llu\",\"logprobs\":[]",
            (unsigned long long)now());
        size_t size = chunk(out, sizeof out, "response.output_text.delta", members, 4 + peer->sent);
        peer->sent++;
        peer->due += (uint64_t)order.interval_us * 1000;
        post(next, out, size);
    }
}

static void take_requests(int fd) {
    struct peer *peer = &peers[fd];
    for (;;) {
        peer->buffer[peer->used] = 0;
        char *end = strstr(peer->buffer, "\r\n\r\n");
        if (!end) return;
        char *length = strcasestr(peer->buffer, "\r\ncontent-length:");
        size_t whole = (size_t)(end + 4 - peer->buffer) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        if (peer->used < whole) return;
        int streams = !strncmp(peer->buffer, "POST", 4);
        memmove(peer->buffer, peer->buffer + whole, peer->used - whole);
        peer->used -= whole;
        if (streams) begin(fd);
        else {
            const char models[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 58\r\n\r\n"
                "{\"object\":\"list\",\"data\":[{\"id\":\"tiny\",\"object\":\"model\"}]} ";
            post(fd, models, sizeof models - 1);
        }
    }
}

// ---- the clients

static void ask(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(order.port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    no_delay(fd);
    add(fd, CLIENT);
    char body[256], request[512];
    int length = snprintf(body, sizeof body, "{\"model\":\"tiny\",\"input\":\"Say hello.\",\"stream\":true,\"store\":%s}", order.store ? "true" : "false");
    int size = snprintf(request, sizeof request, "POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", order.port, length, body);
    peers[fd].asked = now();
    post(fd, request, (size_t)size);
    order.begun++;
}

static int counted(uint64_t sent) {
    uint64_t length = (uint64_t)order.interval_us * 1000 * (uint64_t)order.events;
    return sent > order.start + RAMP_NS && sent < order.start + length;
}

static void take_events(int fd, uint64_t time) {
    struct peer *peer = &peers[fd];
    peer->buffer[peer->used] = 0;
    if (!peer->first && strstr(peer->buffer, "data:")) peer->first = time;
    char *from = peer->buffer, *found;
    while ((found = strstr(from, "\"T")) && found + 22 <= peer->buffer + peer->used) {
        from = found + 2;
        if (found[21] != '"') continue;
        uint64_t sent = strtoull(found + 2, NULL, 10);
        received++;
        if (counted(sent) && lates < late_room) late[lates++] = time - sent;
    }
    if (strstr(from, "\r\n0\r\n\r\n") && !peer->ended) {
        peer->ended = 1;
        firsts[order.ended++] = peer->first - peer->asked;
        drop(fd);
        return;
    }
    size_t keep = (size_t)(peer->buffer + peer->used - from);
    if (keep > 64) keep = 64;
    memmove(peer->buffer, peer->buffer + peer->used - keep, keep);
    peer->used = keep;
}

// ---- both

static void take_in(int fd) {
    struct peer *peer = &peers[fd];
    ssize_t size = recv(fd, peer->buffer + peer->used, BUFFER - 1 - peer->used, 0);
    uint64_t time = now();
    if (size <= 0) {
        if (size < 0 && errno == EAGAIN) return;
        drop(fd);
        return;
    }
    peer->used += (size_t)size;
    if (peer->role == MODEL) take_requests(fd);
    else take_events(fd, time);
    if (peers[fd].role != NOBODY && peer->used >= BUFFER - 1) drop(fd);
}

static int by_size(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static double ms(uint64_t *sorted, size_t count, double share) {
    return count ? (double)sorted[(size_t)((double)(count - 1) * share)] / 1e6 : -1;
}

static void report(void) {
    qsort(late, lates, sizeof *late, by_size);
    qsort(firsts, (size_t)order.ended, sizeof *firsts, by_size);
    printf("{\"streams\":%d,\"ended\":%d,\"events\":%zu,\"counted\":%zu,\"p50\":%.3f,\"p99\":%.3f,\"first_p50\":%.3f,\"first_p99\":%.3f}\n",
        order.streams, order.ended, received, lates, ms(late, lates, .5), ms(late, lates, .99),
        ms(firsts, (size_t)order.ended, .5), ms(firsts, (size_t)order.ended, .99));
    fflush(stdout);
    free(late);
    free(firsts);
    for (int fd = 0; fd <= highest; fd++)
        if (peers[fd].role == CLIENT) drop(fd);
    order.port = 0;
}

static void take_order(void) {
    char line[256];
    if (!fgets(line, sizeof line, stdin)) exit(0);
    if (sscanf(line, "%d %d %d %d %d %d", &order.port, &order.streams, &order.interval_us, &order.events, &order.lockstep, &order.store) != 6) exit(2);
    order.begun = order.ended = 0;
    order.start = now();
    lates = received = 0;
    late_room = (size_t)order.streams * (size_t)order.events;
    late = malloc(late_room * sizeof *late);
    firsts = malloc((size_t)order.streams * sizeof *firsts);
}

static void go_on(void) {
    uint64_t time = now(), length = (uint64_t)order.interval_us * 1000 * (uint64_t)order.events;
    while (order.begun < order.streams && time >= order.start + (uint64_t)RAMP_NS / (uint64_t)order.streams * (uint64_t)order.begun) ask();
    send_due(time);
    if (order.ended == order.streams || time > order.start + RAMP_NS + length + 500ull * PATIENCE_NS) report();
}

int main(int count, char **arguments) {
    poller = epoll_create1(0);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = loopback(count > 1 ? atoi(arguments[1]) : 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) die("bind");
    add(listener, LISTENER);
    add(STDIN_FILENO, ORDERS);
    for (;;) {
        struct epoll_event ready[256];
        int found = epoll_wait(poller, ready, 256, order.port ? 0 : -1);
        for (int i = 0; i < found; i++) {
            int fd = ready[i].data.fd;
            if (peers[fd].role == LISTENER) {
                int accepted = accept(fd, NULL, NULL);
                if (accepted < 0) continue;
                no_delay(accepted);
                add(accepted, MODEL);
            } else if (peers[fd].role == ORDERS) take_order();
            else if (peers[fd].role != NOBODY) take_in(fd);
        }
        if (order.port) go_on();
    }
}
