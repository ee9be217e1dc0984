/* Asks a daemon as often as it answers: connections that are open at the same time, each with one request under way.
 *
 * Usage: load (unix|tcp) (PATH|PORT) (blank|http|eof) (keep|once) CONNECTIONS SECONDS EXPECTED < REQUESTS
 *
 * REQUESTS are separated by a NUL; each is sent in turn. An answer ends with a blank line, as HTTP says, or with the connection. One without
 * EXPECTED in it ends the measurement. Prints how many answers came, in how many seconds, and the 50th and 99th percentile of the time
 * between request and answer in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 1024
#define MAX_REQUESTS 100000
#define MAX_TIMES 20000000
#define FAIL(...) (fprintf(stderr, __VA_ARGS__), exit(1))

struct connection {
    int fd;
    size_t have;
    double began;
    char answer[16384];
};

static const char *framing, *expected;
static int is_unix, keep;
static struct sockaddr_un unix_address;
static struct sockaddr_in tcp_address;
static char *requests[MAX_REQUESTS];
static size_t lengths[MAX_REQUESTS], request_count, next_request;
static struct connection connections[MAX_CONNECTIONS];
static float *times;
static int epoll;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void begin(struct connection *connection)
{
    size_t number = next_request++ % request_count;
    connection->began = now();
    connection->have = 0;
    if (connection->fd < 0) {
        connection->fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr *address = is_unix ? (struct sockaddr *)&unix_address : (struct sockaddr *)&tcp_address;
        socklen_t length = is_unix ? sizeof unix_address : sizeof tcp_address;
        if (connection->fd < 0 || connect(connection->fd, address, length) != 0)
            FAIL("cannot connect: %s\n", strerror(errno));
        int one = 1;
        if (!is_unix)
            setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
            FAIL("epoll_ctl: %s\n", strerror(errno));
    }
    /* Smaller than any socket's buffer, so it goes at once. */
    if (send(connection->fd, requests[number], lengths[number], MSG_NOSIGNAL) != (ssize_t)lengths[number])
        FAIL("cannot send: %s\n", strerror(errno));
    if (strcmp(framing, "eof") == 0)
        shutdown(connection->fd, SHUT_WR);
}

static int is_whole(struct connection *connection, int ended)
{
    char *answer = connection->answer;
    size_t have = connection->have;
    if (strcmp(framing, "eof") == 0)
        return ended;
    if (strcmp(framing, "blank") == 0)
        return have >= 2 && memcmp(answer + have - 2, "\n\n", 2) == 0;
    answer[have] = 0;
    char *end = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "\r\ncontent-length:");
    return end && length && length < end && have >= (size_t)(end + 4 - answer) + strtoul(length + 17, NULL, 10);
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 8)
        FAIL("usage: load (unix|tcp) (PATH|PORT) (blank|http|eof) (keep|once) CONNECTIONS SECONDS EXPECTED\n");
    is_unix = strcmp(argv[1], "unix") == 0;
    framing = argv[3];
    keep = strcmp(argv[4], "keep") == 0;
    int count = atoi(argv[5]);
    double seconds = atof(argv[6]);
    expected = argv[7];
    unix_address.sun_family = AF_UNIX;
    snprintf(unix_address.sun_path, sizeof unix_address.sun_path, "%s", argv[2]);
    tcp_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (count < 1 || count > MAX_CONNECTIONS)
        FAIL("1 to %d connections\n", MAX_CONNECTIONS);
    size_t capacity = 1 << 26, size = 0;
    char *all = malloc(capacity);
    times = malloc(MAX_TIMES * sizeof *times);
    if (!all || !times)
        FAIL("no memory\n");
    for (ssize_t got; (got = read(0, all + size, capacity - size - 1)) > 0;)
        size += (size_t)got;
    all[size] = 0;
    for (char *at = all; at < all + size && request_count < MAX_REQUESTS; at += lengths[request_count - 1] + 1) {
        requests[request_count] = at;
        lengths[request_count++] = strlen(at);
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    double start = now(), end = start + seconds;
    size_t answers = 0;
    for (int i = 0; i < count; i++) {
        connections[i].fd = -1;
        begin(&connections[i]);
    }
    double at = start;
    while (at < end) {
        struct epoll_event events[MAX_CONNECTIONS];
        int ready = epoll_wait(epoll, events, MAX_CONNECTIONS, 5000);
        if (ready <= 0)
            FAIL("no answer in five seconds\n");
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            ssize_t got = recv(connection->fd, connection->answer + connection->have, sizeof connection->answer - connection->have - 1, 0);
            if (got < 0)
                FAIL("cannot receive: %s\n", strerror(errno));
            connection->have += (size_t)got;
            if (!is_whole(connection, got == 0)) {
                if (got == 0)
                    FAIL("the connection ended in the middle of an answer\n");
                continue;
            }
            at = now();
            if (!memmem(connection->answer, connection->have, expected, strlen(expected)))
                FAIL("not the answer: %.*s\n", (int)connection->have, connection->answer);
            if (answers < MAX_TIMES)
                times[answers] = (float)((at - connection->began) * 1e6);
            answers++;
            if (!keep) {
                close(connection->fd);
                connection->fd = -1;
            }
            begin(connection);
        }
    }
    size_t timed = answers < MAX_TIMES ? answers : MAX_TIMES;
    qsort(times, timed, sizeof *times, by_size);
    printf("%zu %.6f %.1f %.1f\n", answers, at - start, times[timed / 2], times[timed * 99 / 100]);
    return 0;
}
