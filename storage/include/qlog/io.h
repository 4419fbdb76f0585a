/*
 * qlog/io.h: the seam between a log and the kernel.
 *
 * Reads, writes and flushes are asynchronous: an operation is a struct of the caller's that holds
 * its own completion. What happens rarely (open, list, allocate, map) is a blocking call. Two
 * implementations come with the library, io_uring and plain threads; tests bring a simulated disk
 * and a fault injector.
 *
 * Thread:   the thread that created it, for everything but wake().
 * Blocking: submit() never; enter() up to its time; the rest as the system calls behind it.
 * Memory:   an operation and its data belong to the implementation from submit() until `done`.
 * Failure:  negative errno, as the kernel says it. A read or write may be short.
 * Order:    none between operations under way. A flush covers the writes whose `done` had been
 *           called before it was submitted.
 */
#ifndef QLOG_IO_H
#define QLOG_IO_H

#include <qbase/list.h>
#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_io;
struct qlog_io_op;

enum qlog_io_op_kind {
    QLOG_IO_READ,
    QLOG_IO_WRITE,
    QLOG_IO_FLUSH
};

/* Called from inside enter(), after all completions of that call were collected. */
typedef void qlog_io_done_fn(struct qlog_io_op *op);

struct qlog_io_op {
    /* Set by the caller. */
    enum qlog_io_op_kind kind;
    bool durable;    /* WRITE: flushed when done */
    int file;        /* from open() */
    int buffer;      /* index from register_buffer() that holds `data`, or -1 */
    uint32_t length; /* of data */
    uint64_t at;     /* byte in the file */
    void *data;
    qlog_io_done_fn *done;

    /* Set before `done`: bytes, 0 for a flush, or negative errno. */
    int64_t result;

    /* Private to the implementation between submit and done. */
    struct q_list link;
};

enum {
    QLOG_IO_OPEN_READ = 1 << 0, /* else read and write */
    QLOG_IO_OPEN_CREATE = 1 << 1,
    QLOG_IO_OPEN_DIRECT = 1 << 2, /* past the page cache; -EINVAL where the file system can't */
};

/* `name` is a name in the directory; false ends the listing. */
typedef bool qlog_io_list_fn(void *context, const char *name);

struct qlog_io_table {
    const char *name;

    void (*submit)(struct qlog_io *io, struct qlog_io_op *op);
    /* Hand over what was submitted, collect what is complete, call each `done`. With wait_ns > 0
     * and nothing complete: sleep until something is, wake() was called, or the time is over. 0, or
     * -errno when this can't go on: then all that was under way has been called back. */
    int (*enter)(struct qlog_io *io, uint64_t wait_ns);
    /* End a present or the next sleep in enter(). Any thread. */
    void (*wake)(struct qlog_io *io);
    /* Make data known to the kernel. Index >= 0, or -errno: go on without. -EOPNOTSUPP: there is
     * nothing to make it known to. */
    int (*register_buffer)(struct qlog_io *io, void *data, size_t size);
    /* Nothing may be under way. */
    void (*destroy)(struct qlog_io *io);

    /* File number >= 0, or -errno. */
    int (*open)(struct qlog_io *io, const char *path, unsigned flags);
    void (*close)(struct qlog_io *io, int file);
    int (*size)(struct qlog_io *io, int file, uint64_t *ret_size);
    /* Make the file at least this long, with space that is really there. */
    int (*allocate)(struct qlog_io *io, int file, uint64_t size);
    /* Exclusive, until close; -EWOULDBLOCK when another process holds it. A file that is locked is
     * not read or written. */
    int (*lock)(struct qlog_io *io, int file);
    /* Read-only view of the whole file; NULL and `*ret_error` on failure. */
    const uint8_t *(*map)(struct qlog_io *io, int file, uint64_t size, int *ret_error);
    void (*unmap)(struct qlog_io *io, const uint8_t *data, uint64_t size);
    int (*make_directory)(struct qlog_io *io, const char *path);
    int (*sync_directory)(struct qlog_io *io, const char *path);
    int (*list)(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context);
    int (*unlink)(struct qlog_io *io, const char *path);
    /* Free and total bytes of the file system. */
    int (*space)(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total);
};

struct qlog_io {
    const struct qlog_io_table *table;
};

/* A ring of this thread's. -errno where the kernel refuses io_uring. */
Q_EXPORT int qlog_io_uring_new(struct qlog_io **ret_io);
/* pread, pwrite and fdatasync in a few threads. */
Q_EXPORT int qlog_io_plain_new(struct qlog_io **ret_io);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_IO_H */
