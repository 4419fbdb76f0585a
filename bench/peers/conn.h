/*
 * conn.h: a buffered socket that never blocks, for protocols that are spoken by hand. One thread.
 * Failures end the process.
 */
#ifndef BENCH_PEERS_CONN_H
#define BENCH_PEERS_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn {
    int fd;
    char *out;
    size_t out_size;
    size_t out_room;
    char *in; /* ends with a NUL */
    size_t in_at;
    size_t in_size;
    size_t in_room;
    bool unseen; /* something came while it was sent */
};

void conn_open(struct conn *conn, uint64_t port);
void conn_close(struct conn *conn);
/* Into the buffer, which is sent when it is big. */
void conn_put(struct conn *conn, const void *data, size_t size);
void conn_print(struct conn *conn, const char *format, ...) __attribute__((format(printf, 2, 3)));
void conn_flush(struct conn *conn);
/* Read what there is. Waits as load_peer.pump() does. True when something came. */
bool conn_fill(struct conn *conn, uint64_t wait_ns);
/* A line without its end, taken; NULL: there is none yet. */
char *conn_line(struct conn *conn);
char *conn_wait_line(struct conn *conn);

/* As conn_fill(), of any descriptor. */
bool conn_wait(int fd, uint64_t wait_ns);

/* What has come and was not taken. */
static inline char *
conn_data(struct conn *conn)
{
    return conn->in + conn->in_at;
}

static inline size_t
conn_available(const struct conn *conn)
{
    return conn->in_size - conn->in_at;
}

static inline void
conn_take(struct conn *conn, size_t size)
{
    conn->in_at += size;
}

#endif /* BENCH_PEERS_CONN_H */
