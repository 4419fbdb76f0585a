/*
 * read/reader.h: batches of the message log, in memory and right, without the store thread waiting.
 *
 * A pull asks with ql_reader_get(). What was written lately is there (see ql_reader_on_frame()). What
 * is not is wanted: ql_reader_want() notes which parts of the log are missing, and it is asked again
 * when `on_news` has told of it.
 *
 * A want:
 *
 *   QUEUED    its parts (frame header, envelope, payload) are added to reads, which lie next to each
 *             other are one; reads are handed to the io in the order of the log, a few at a time
 *   ARRIVED   all parts are in memory
 *   CHECKING  the worker holds them against the hashes and against the index entry
 *   ENDED     right: marked so. Wrong, or not to be read: once more, each part by a read of its own,
 *             past all caches. Wrong again: the batch is bad, which is told once
 *
 * While messages are being written, and for a second after, no more than 64 KiB are under way at a
 * time, a larger read in pieces of that: a flush waits for what the disk was given before it. Else
 * reads are as large, and as many, as the disk is fastest with.
 *
 * A batch that does not match is bad for as long as the store is open; one that could not be read is
 * tried again when it is asked for a second later.
 *
 * Invariants: a want's parts are pinned from when they arrive until it has ended; the segment of a
 * read under way is pinned; what is queued or under way is bounded.
 *
 * Thread:   the store's; `on_news` and `on_bad` are called from ql_reader_turn().
 * Blocking: never, but ql_reader_fini(): until nothing is under way.
 * Memory:   keep.h, and a fixed number of wants and reads, taken on demand.
 */
#ifndef QL_READ_READER_H
#define QL_READ_READER_H

#include "format/index_file.h"
#include "read/keep.h"
#include "read/worker.h"
#include "segment/log.h"

enum {
    QL_READS_MAX = 256,
    QL_WANTS_MAX = 4096,
    QL_WANT_BUCKETS = 1024,
    QL_BAD_MAX = 256
};

struct ql_want;
struct ql_read;

struct ql_reader_options {
    uint64_t tail_bytes; /* of frames that were written lately */
    uint64_t read_bytes; /* of what was read back */
    bool threaded;       /* as worker.h tells */
    void *context;
    /* A want of this subject has ended. */
    void (*on_news)(void *context, uint32_t subject_id);
    /* A batch is damaged (Q_E_CORRUPT), or can't be read (`sys`: why). */
    void (*on_bad)(
        void *context, uint32_t subject_id, const struct ql_entry *entry, enum q_err err, int sys);
};

/* A batch that is not to be had. */
struct ql_bad {
    uint64_t at; /* position of its envelope */
    enum q_err err;
    int sys;
    uint64_t until_ns; /* then it is tried again */
};

struct ql_reader {
    struct ql_log *log;
    struct ql_reader_options options;
    struct ql_keep keep;
    struct ql_worker worker;
    uint64_t now_ns;
    uint64_t tail_until_ns; /* somebody reads what was just written: frames are kept until then */
    uint64_t shrink_ns;

    struct ql_want *wants; /* NULL: none was ever needed */
    uint32_t wants_used;   /* of the array, ever */
    struct q_list free_wants;
    struct ql_want *buckets[QL_WANT_BUCKETS];
    struct q_list arrived;
    uint32_t checking; /* wants that the worker has */

    struct ql_read *reads;
    uint32_t reads_used;
    struct q_list free_reads;
    struct ql_read *queued[QL_READS_MAX]; /* by position */
    uint32_t queued_count;
    uint32_t under_way;
    uint32_t depth;
    uint64_t bytes_under_way; /* that the disk has at a time */
    uint64_t gentle_until_ns; /* somebody waits for what is written: until then reads are small */
    uint64_t swept;           /* where the last read that was handed over began */

    struct ql_bad bad[QL_BAD_MAX];
    uint32_t bad_count;
    uint32_t bad_next;

    uint64_t read_count;
    uint64_t read_bytes;
};

/* A batch in memory. Pinned by ql_batch_view_pin(), or looked at before the next call. */
struct ql_batch_view {
    const uint8_t *envelope;
    const uint8_t *payload;
    struct ql_keep_block *blocks[2]; /* that hold the envelope, the payload */
    bool fetched;                    /* it was read from the disk */
};

enum ql_wanted {
    QL_WANTED,        /* now */
    QL_WANTED_BEFORE, /* and under way */
    QL_WANTED_NOT     /* there is no room: some other want ends first */
};

/* `log` is there until the reader is gone. */
void ql_reader_init(
    struct ql_reader *reader, struct ql_log *log, const struct ql_reader_options *options);
/* Its worker has stopped. Nothing of it is under way afterwards. Before the log goes. No pins. */
void ql_reader_fini(struct ql_reader *reader);

/*
 * The batch of an entry, its payload too if `whole`. Q_OK; Q_AGAIN: not here, to be wanted;
 * Q_E_CORRUPT: damaged, and told; Q_E_IO, Q_E_NOMEM: it can't be read now.
 */
Q_MUST_CHECK enum q_err ql_reader_get(
    struct ql_reader *reader,
    const struct ql_entry *entry,
    bool whole,
    struct ql_batch_view *ret_view);
enum ql_wanted ql_reader_want(
    struct ql_reader *reader, uint32_t subject_id, const struct ql_entry *entry, bool whole);

/* The parts of a turn: before requests are looked at, and after the log's own writes. */
void ql_reader_turn(struct ql_reader *reader, uint64_t now_ns);
void ql_reader_submit(struct ql_reader *reader);
/* The next turn has something to do, though nothing completes. */
bool ql_reader_is_due(const struct ql_reader *reader);
/* Something that was wanted is on its way. */
bool ql_reader_is_busy(const struct ql_reader *reader);

/* Somebody waits for what will be written. */
void ql_reader_expect(struct ql_reader *reader);
/* ql_log's hook: a frame is on its way to the disk. */
void ql_reader_on_frame(void *context, uint64_t position, const uint8_t *data, uint64_t size);

#endif /* QL_READ_READER_H */
