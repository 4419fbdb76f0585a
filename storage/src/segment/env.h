/*
 * segment/env.h: what all logs of one directory share.
 *
 * Thread: the owner of the directory. Memory: embedded in struct ql_home.
 */
#ifndef QL_SEGMENT_ENV_H
#define QL_SEGMENT_ENV_H

#include <qbase/clock.h>
#include <qlog/io.h>
#include <qlog/observer.h>
#include <qlog/options.h>

enum {
    QL_PATH_MAX = 4096,
    QL_DIRECTORY_MAX = QL_PATH_MAX - 64
};

/* A directory of this name in a log directory holds what a repair has moved out of the way. */
#define QL_SET_ASIDE "set-aside"

/* A start asks so often for what it has to know, and then is refused: decision 017. */
enum {
    QL_READ_TRIES = 3
};
#define QL_UNREADABLE_HINT                                                                         \
    "the logs are as they were: try again, or copy the directory to another disk; what no try "    \
    "brings back is given up by: qlog repair DIR --give-up"

struct ql_buffer;
struct ql_decisions;

struct ql_env {
    struct qlog_io *io;
    const struct q_clock *clock;
    const struct qlog_observer *observer;
    char path[QL_DIRECTORY_MAX]; /* of the directory */
    bool read_only;
    bool buffered; /* the file system refuses direct I/O */
    uint8_t store_id[16];
    uint64_t generation;

    /* Limits, defaults filled in. */
    uint64_t segment_bytes;
    uint32_t frame_bytes_max;
    uint32_t depth_max;
    uint64_t async_flush_ns;
    uint64_t async_flush_bytes;

    /* Free frame buffers, small and large; see segment/buffer.h. */
    struct ql_buffer *small_buffers;
    struct ql_buffer *large_buffers;
    uint64_t buffer_bytes; /* of all there are */
    uint32_t registered_bytes;
    bool registration_refused;
    const uint8_t *zeros; /* segment/zero.h */

    struct ql_decisions *decisions; /* while it is opened to write; else NULL */

    /* Set once, by ql_env_break(), and never cleared: nothing is written after a failed write. */
    enum q_err broken;
    struct q_fault broken_fault;

    /* Counters. */
    uint64_t frame_count;
    uint64_t flush_count;
    uint64_t byte_count;
};

/*
 * A write or flush of a log or the superblock failed: latch it and tell the observer. Retrying
 * could hide the loss, since the kernel may have dropped the pages and marked them clean.
 */
void ql_env_break(
    struct ql_env *env, const char *log, const char *path, uint64_t at, int sys_errno);
/* Q_OK, or the latched failure with its fault as this thread's last one. */
Q_MUST_CHECK enum q_err ql_env_check(const struct ql_env *env);

struct ql_event_args {
    const char *log;
    const char *path;
    uint64_t position;
    uint64_t bytes;
    const char *text;
};

void ql_env_tell(
    const struct ql_env *env, enum qlog_event_kind kind, const struct ql_event_args *args);

#define QL_TELL(env, event, ...)                                                                   \
    ql_env_tell((env), QLOG_EVENT_##event, &(const struct ql_event_args){ __VA_ARGS__ })

#endif /* QL_SEGMENT_ENV_H */
