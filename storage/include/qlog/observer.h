/*
 * qlog/observer.h: what a log or store tells while it works. Libraries report, programs print.
 *
 * Thread:   on_event runs on the thread that opened or runs the log.
 * Blocking: it must not block.
 * Memory:   the texts live until on_event returns.
 */
#ifndef QLOG_OBSERVER_H
#define QLOG_OBSERVER_H

#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, what it means). The name is the stable id that a log line carries. */
#define QLOG_EVENT_LIST(X)                                                                         \
    X(CREATED, "a new directory was made")                                                         \
    X(IO_BACKEND, "which way to the kernel is in use, and why")                                    \
    X(BUFFERS_UNREGISTERED, "frame buffers could not be registered; plain direct I/O")             \
    X(BUFFERED, "the file system refuses direct I/O; the page cache is used")                      \
    X(RECOVERED, "the directory was recovered; positions tell where the log ends")                 \
    X(TORN_TAIL, "an unfinished end of a log was cut")                                             \
    X(ROT, "damage below the durable mark: kept, marked, never served")                            \
    X(READ_FAILED,                                                                                 \
      "the disk does not give messages: who pulls them is refused; it is tried again")             \
    X(ROLLED, "a log went on to its next segment")                                                 \
    X(VOID_ACTIONS, "actions on messages that power loss took were dropped")                       \
    X(INDEX_DROPPED, "an index file is damaged or of no use; it is made again from the log")       \
    X(INDEX_FAILED, "an index file could not be written; it is tried again")                       \
    X(DISCARDED, "a file that holds nothing of a log was removed")                                 \
    X(UNLOGGED, "what recovery decided could not be written to recovery.log")                      \
    X(DROPPED, "the head of the logs was dropped by retention")                                    \
    X(EXPIRED, "messages that groups had in hand were dropped without a dead letter")              \
    X(RETENTION_FAILED, "what is to be dropped can not go now: it is tried again each second")     \
    X(DISK_LEVEL, "the free space of the file system crossed a level")                             \
    X(ARCHIVE_FAILED, "a segment could not be archived: it stays, and is tried again")             \
    X(BROKEN, "a write or flush failed; the log refuses everything until it is opened again")

enum qlog_event_kind {
#define QLOG_EVENT_ENUM(name, meaning) QLOG_EVENT_##name,
    QLOG_EVENT_LIST(QLOG_EVENT_ENUM)
#undef QLOG_EVENT_ENUM
    QLOG_EVENT_COUNT,
};

struct qlog_event {
    enum qlog_event_kind kind;
    const char *log;  /* "message", "action", …; "" when it concerns the directory */
    const char *path; /* "" or the file */
    uint64_t position;
    uint64_t bytes;
    const char *text; /* one line for people */
};

struct qlog_observer {
    void *context;
    void (*on_event)(void *context, const struct qlog_event *event);
};

/* "TORN_TAIL" */
Q_EXPORT const char *qlog_event_name(enum qlog_event_kind kind);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_OBSERVER_H */
