/*
 * Cycles of requests on many containers in parallel, each from a client of its own, as the stress
 * tool of Northstar 0.9.2 makes them: every client is subscribed, waits for the response of each
 * step, and after a start for the notification `started`, after a kill (SIGTERM) for `exit`.
 *
 *     cycles SOCKET SECONDS STEP[,STEP..] CONTAINER..       a STEP is mount, start, kill or umount
 *
 * After SECONDS each client completes its cycle. Prints the cycles of all, the seconds that they
 * took, and the processor time of this program in seconds. One thread serves all clients, in C: with
 * 50 subscribers each start and each exit is 50 lines, and an interpreter that reads them would take
 * processor time from the measured runtime.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    STEPS = 4,
    LINE = 1 << 16,
    PATIENCE = 60000, /* ms without a message */
};

static const struct kind {
    const char *name;
    const char *request;
    const char *notice; /* the beginning of the notification to wait for */
} kinds[] = {
    {"mount", "{\"request\":{\"mount\":{\"containers\":[\"%s\"]}}}\n", NULL},
    {"start",
     "{\"request\":{\"start\":{\"container\":\"%s\",\"arguments\":[],\"environment\":{}}}}\n",
     "{\"notification\":{\"started\":\"%s\""},
    {"kill", "{\"request\":{\"kill\":{\"container\":\"%s\",\"signal\":15}}}\n",
     "{\"notification\":{\"exit\":[\"%s\",{\"signalled\":{\"signal\":15}}"},
    {"umount", "{\"request\":{\"umount\":{\"containers\":[\"%s\"]}}}\n", NULL},
};

static const char RESPONSE[] = "{\"response\":";
static const char HELLO[] =
    "{\"connect\":{\"version\":\"0.9.2\",\"subscribe_notifications\":true}}\n";

struct client {
    int fd;
    char *request[STEPS];
    char *notice[STEPS];
    int step;
    bool answered, noticed;
    unsigned long cycles;
    size_t used;
    char buffer[LINE];
};

static double seconds(clockid_t clock)
{
    struct timespec now;

    if (clock_gettime(clock, &now) != 0)
        err(1, "clock_gettime");
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static char *text(const char *format, const char *container)
{
    size_t size = strlen(format) + strlen(container);
    char *made = malloc(size);

    if (made == NULL)
        err(1, "malloc");
    const char *name = strstr(format, "%s");
    int before = (int)(name - format);
    snprintf(made, size, "%.*s%s%s", before, format, container, name + 2);
    return made;
}

/* Returns the number of steps. */
static int prepare(struct client *client, const char *words, const char *container)
{
    char *copy = strdup(words), *rest = copy, *word;
    int count = 0;

    if (copy == NULL)
        err(1, "strdup");
    while ((word = strsep(&rest, ",")) != NULL) {
        size_t kind = 0;
        while (kind < sizeof(kinds) / sizeof(*kinds) && strcmp(kinds[kind].name, word) != 0)
            kind++;
        if (kind == sizeof(kinds) / sizeof(*kinds) || count == STEPS)
            errx(2, "%s is no list of at most %d steps", words, STEPS);
        client->request[count] = text(kinds[kind].request, container);
        if (kinds[kind].notice != NULL)
            client->notice[count] = text(kinds[kind].notice, container);
        count++;
    }
    free(copy);
    return count;
}

static void send_all(int fd, const char *data)
{
    for (size_t left = strlen(data); left > 0;) {
        ssize_t sent = send(fd, data, left, MSG_NOSIGNAL);
        if (sent < 0)
            err(1, "send");
        data += sent;
        left -= (size_t)sent;
    }
}

static void join(struct client *client, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        errx(2, "%s is too long for a socket", path);
    strcpy(address.sun_path, path);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        err(1, "%s", path);
    send_all(client->fd, HELLO);
    /* Nothing follows the acknowledgement: no container has been started yet. */
    do {
        ssize_t got = recv(client->fd, client->buffer + client->used, LINE - client->used, 0);
        if (got <= 0)
            errx(1, "the runtime has closed the connection");
        client->used += (size_t)got;
    } while (client->buffer[client->used - 1] != '\n' && client->used < LINE);
    if (memmem(client->buffer, client->used, "connect_ack", strlen("connect_ack")) == NULL)
        errx(1, "no acknowledgement: %.*s", (int)client->used, client->buffer);
    client->used = 0;
}

static void begin(struct client *client)
{
    client->answered = false;
    client->noticed = client->notice[client->step] == NULL;
    send_all(client->fd, client->request[client->step]);
}

static bool starts(const char *line, size_t length, const char *with)
{
    size_t size = strlen(with);

    return length >= size && memcmp(line, with, size) == 0;
}

static void take(struct client *client, const char *line, size_t length)
{
    if (starts(line, length, RESPONSE)) {
        if (memmem(line, length, "\"error\"", strlen("\"error\"")) != NULL)
            errx(1, "refused: %.*s", (int)length, line);
        client->answered = true;
    } else if (!client->noticed && starts(line, length, client->notice[client->step])) {
        client->noticed = true;
    }
}

/* Receives once, and takes all complete lines. */
static void receive(struct client *client)
{
    ssize_t got = recv(client->fd, client->buffer + client->used, LINE - client->used, 0);
    if (got <= 0)
        errx(1, "the runtime has closed the connection");
    client->used += (size_t)got;
    char *line = client->buffer, *end = line + client->used, *newline;
    while ((newline = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        take(client, line, (size_t)(newline - line));
        line = newline + 1;
    }
    client->used = (size_t)(end - line);
    if (client->used == LINE)
        errx(1, "a line is longer than %d bytes", LINE);
    memmove(client->buffer, line, client->used);
}

static unsigned long run(struct client *clients, int count, int steps, double duration)
{
    int poll = epoll_create1(EPOLL_CLOEXEC), busy = count;
    double end = seconds(CLOCK_MONOTONIC) + duration;
    unsigned long cycles = 0;

    if (poll < 0)
        err(1, "epoll_create1");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].fd, &event) != 0)
            err(1, "epoll_ctl");
        begin(&clients[i]);
    }
    while (busy > 0) {
        struct epoll_event ready[64];
        int found = epoll_wait(poll, ready, 64, PATIENCE);
        if (found <= 0)
            errx(1, "%d clients wait for a message since %d ms", busy, PATIENCE);
        for (int i = 0; i < found; i++) {
            struct client *client = ready[i].data.ptr;
            receive(client);
            /* One that is complete still reads: a runtime closes a slow subscriber. */
            if (client->step == steps || !client->answered || !client->noticed)
                continue;
            client->step++;
            if (client->step == steps) {
                client->cycles++;
                if (seconds(CLOCK_MONOTONIC) < end)
                    client->step = 0;
            }
            if (client->step < steps)
                begin(client);
            else
                busy--;
        }
    }
    for (int i = 0; i < count; i++)
        cycles += clients[i].cycles;
    close(poll);
    return cycles;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        errx(2, "usage: cycles SOCKET SECONDS STEP[,STEP..] CONTAINER..");
    int count = argc - 4, steps = 0;
    struct client *clients = calloc((size_t)count, sizeof(*clients));
    if (clients == NULL)
        err(1, "calloc");
    for (int i = 0; i < count; i++) {
        steps = prepare(&clients[i], argv[3], argv[4 + i]);
        join(&clients[i], argv[1]);
    }
    double begun = seconds(CLOCK_MONOTONIC), used = seconds(CLOCK_PROCESS_CPUTIME_ID);
    unsigned long cycles = run(clients, count, steps, strtod(argv[2], NULL));
    printf("%lu %.6f %.6f\n", cycles, seconds(CLOCK_MONOTONIC) - begun,
           seconds(CLOCK_PROCESS_CPUTIME_ID) - used);
    return 0;
}
