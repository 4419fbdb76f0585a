/*
 * qlog/options.h: every limit and period of a log directory and of a store.
 *
 * Zero a struct and set what differs: 0 means the default named here, so that a program that knows
 * nothing gets the safe thing.
 */
#ifndef QLOG_OPTIONS_H
#define QLOG_OPTIONS_H

#include <qbase/clock.h>
#include <qlog/io.h>
#include <qlog/observer.h>
#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_options {
    /* The kernel seam. NULL: io_uring, or plain threads where it is refused (an event tells). */
    struct qlog_io *io;
    /* NULL: the machine's clocks. */
    const struct q_clock *clock;
    /* NULL: nobody is told. */
    const struct qlog_observer *observer;
    /* Size of a segment file. 0: 256 MiB, less on file systems below 16 GiB (1/64, at least 16 MiB). */
    uint64_t segment_bytes;
    /* A frame grows up to this with load. 0: 1 MiB. */
    uint32_t frame_bytes_max;
    /* Frames in flight per log. 0: 4. */
    uint32_t depth_max;
    /* What is written but not flushed is flushed after this time or amount. 0: 200 ms, 16 MiB. */
    uint64_t async_flush_ns;
    uint64_t async_flush_bytes;
    /* Create the directory when it does not exist. */
    bool create;
    /* Only look: no lock, no recovery, nothing is written. */
    bool read_only;
};

/*
 * Who wants to keep what retention drops. `take` is asked on the store thread, and must not block,
 * before a segment of the message log, positions [from, to), goes; until it says Q_OK the file stays
 * as it is. Q_AGAIN: at work on it; asked again a second later. A failure (with a fault) is told as
 * an event, and it is asked again. So it is after Q_OK when a reader kept the file from going.
 */
struct qlog_archive {
    void *context;
    enum q_err (*take)(void *context, const char *path, uint64_t from, uint64_t to);
};

/* What a message store needs beyond its logs. */
struct qlog_store_options {
    struct qlog_options log;
    /* Requests waiting for the store thread; above: Q_BUSY. 0: 65536. */
    uint32_t mailbox_max;
    /* Un-acknowledged messages of one consumer. 0: 10000 messages, 64 MiB. */
    uint32_t window_messages_max;
    uint64_t window_bytes_max;
    /* A consumer that shows no sign of life for this long loses what it holds. 0: 30 s. */
    uint64_t consumer_timeout_ns;
    /* Subjects, groups. 0: 1,000,000; 200,000. */
    uint32_t subjects_max;
    uint32_t groups_max;
    /* Producers whose last requests are known, at most 1.7 KiB of memory each; the one that was seen
     * least recently is forgotten first, and each when it was not seen for so long. 0: 100,000; 24 h. */
    uint32_t producers_max;
    uint64_t producer_keep_ms;
    /* Durability of subjects that do not say otherwise. 0: sync. */
    enum qlog_mode mode;
    /* Memory for messages: for those written lately, while somebody reads them, and for those read back
     * from the disk, ahead of who consumes them. What pulls hold pinned comes on top. Taken on demand.
     * 0: 16 MiB, 32 MiB. */
    uint64_t tail_bytes_max;
    uint64_t read_bytes_max;
    /* Memory for groups and what their consumers hold or is pending. When it is full, no group or
     * consumer is added (Q_TOO_BIG) and no new messages are handed out (QLOG_HELD_MEMORY); acks,
     * failures and what is pending go on. 0: 512 MiB. */
    uint64_t group_bytes_max;
    /* Batches, and keys, that wait for an index file that can't be written; above: publishes are
     * answered Q_BUSY. 80 bytes each. 0: 8 Mi. */
    uint32_t index_entries_max;
    /* All of the above together, with what else a store needs: limits that are 0 and can be less
     * (tail_bytes_max, read_bytes_max, group_bytes_max, index_entries_max, producers_max) are made to
     * fit. What does not fit even so is not opened. 0: whatever they come to. qlog_store_memory() tells. */
    uint64_t memory_max;
    /* How fast sealed segments are read again, once a day, to find what has rotted. 0: 4 MiB/s;
     * UINT64_MAX: never. */
    uint64_t scrub_bytes_per_s;

    /* Retention drops whole segments of messages, the oldest first: those older than this. 0: 72 h;
     * UINT64_MAX: none for its age. */
    uint64_t retention_ms;
    /* And those by which the message log is larger than this. 0: no limit. */
    uint64_t retention_bytes;
    /* But none before every group of its subjects has consumed it. */
    bool retention_consumed;
    /* Less free space than this: segments that are consumed go before their time; no publish is taken.
     * 0: 15 % of the file system, at most 20 GiB; 5 %, at most 2 GiB. */
    uint64_t disk_soft_bytes;
    uint64_t disk_hard_bytes;
    /* NULL: nobody keeps what goes. The store's until it is closed. */
    const struct qlog_archive *archive;
};

#ifdef __cplusplus
}
#endif

#endif /* QLOG_OPTIONS_H */
