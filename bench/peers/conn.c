#include "conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <qbase/clock.h>

#include "load.h"

enum {
    OUT_SOFT = 128 * 1024, /* sent when there is so much */
    IN_LEAST = 256 * 1024, /* room for a read */
    PATIENCE_S = 60
};

static void *
grown(void *memory, size_t size)
{
    void *more = realloc(memory, size);
    if (more == NULL) load_die("no memory");
    return more;
}

void
conn_open(struct conn *conn, uint64_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(conn, 0, sizeof(*conn));
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        load_die("connect to port %u: %m", (unsigned)port);
    int one = 1;
    (void)setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    conn->out_room = 2 * OUT_SOFT;
    conn->in_room = 4 * IN_LEAST;
    conn->out = grown(NULL, conn->out_room);
    conn->in = grown(NULL, conn->in_room + 1);
}

void
conn_close(struct conn *conn)
{
    (void)close(conn->fd);
    free(conn->out);
    free(conn->in);
}

void
conn_put(struct conn *conn, const void *data, size_t size)
{
    if (conn->out_size + size > conn->out_room) {
        conn->out_room = 2 * (conn->out_size + size);
        conn->out = grown(conn->out, conn->out_room);
    }
    memcpy(conn->out + conn->out_size, data, size);
    conn->out_size += size;
    if (conn->out_size >= OUT_SOFT) conn_flush(conn);
}

void
conn_print(struct conn *conn, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (size < 0 || (size_t)size >= sizeof(text)) load_die("a line is too long");
    conn_put(conn, text, (size_t)size);
}

void
conn_flush(struct conn *conn)
{
    size_t done = 0;
    while (done < conn->out_size) {
        ssize_t sent = send(conn->fd, conn->out + done, conn->out_size - done, MSG_NOSIGNAL);
        if (sent > 0) {
            done += (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            /* A server that takes no more may wait for us to read. */
            struct pollfd polled = { .fd = conn->fd, .events = POLLIN | POLLOUT };
            if (poll(&polled, 1, PATIENCE_S * 1000) == 0) load_die("the server takes nothing");
            if ((polled.revents & POLLIN) != 0 && conn_fill(conn, 0)) conn->unseen = true;
        } else if (errno != EINTR) {
            load_die("send: %m");
        }
    }
    conn->out_size = 0;
}

bool
conn_fill(struct conn *conn, uint64_t wait_ns)
{
    if (conn->unseen) {
        conn->unseen = false;
        return true;
    }
    if (conn->in_at == conn->in_size) {
        conn->in_at = 0;
        conn->in_size = 0;
    } else if (conn->in_room - conn->in_size < IN_LEAST) {
        conn->in_size -= conn->in_at;
        memmove(conn->in, conn->in + conn->in_at, conn->in_size);
        conn->in_at = 0;
        if (conn->in_room - conn->in_size < IN_LEAST) {
            conn->in_room *= 2;
            conn->in = grown(conn->in, conn->in_room + 1);
        }
    }
    for (;;) {
        ssize_t got = recv(conn->fd, conn->in + conn->in_size, conn->in_room - conn->in_size, 0);
        if (got > 0) {
            conn->in_size += (size_t)got;
            conn->in[conn->in_size] = '\0';
            return true;
        }
        if (got == 0) load_die("the server has closed the connection");
        if (errno != EAGAIN && errno != EINTR) load_die("receive: %m");
        if (wait_ns == 0 || !conn_wait(conn->fd, wait_ns)) return false;
    }
}

bool
conn_wait(int fd, uint64_t wait_ns)
{
    bool forever = wait_ns == UINT64_MAX;
    if (forever) wait_ns = PATIENCE_S * (uint64_t)Q_NS_PER_S;
    const struct timespec wait = {
        .tv_sec = (time_t)(wait_ns / Q_NS_PER_S),
        .tv_nsec = (long)(wait_ns % Q_NS_PER_S),
    };
    struct pollfd polled = { .fd = fd, .events = POLLIN };
    int ready = ppoll(&polled, 1, &wait, NULL);
    if (ready == 0 && forever) load_die("no answer for %d s", PATIENCE_S);
    return ready > 0;
}

char *
conn_line(struct conn *conn)
{
    char *line = conn_data(conn);
    char *end = memchr(line, '\n', conn_available(conn));
    if (end == NULL) return NULL;
    conn_take(conn, (size_t)(end + 1 - line));
    *end = '\0';
    if (end > line && end[-1] == '\r') end[-1] = '\0';
    return line;
}

char *
conn_wait_line(struct conn *conn)
{
    char *line;
    while ((line = conn_line(conn)) == NULL)
        (void)conn_fill(conn, UINT64_MAX);
    return line;
}
