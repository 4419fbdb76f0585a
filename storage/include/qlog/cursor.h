/*
 * qlog/cursor.h: read a log of a directory, forward, without opening it to write.
 *
 * A cursor may read while another process writes: it then ends at the durable mark that the
 * superblock tells, and passes over what that process has dropped from the log's head meanwhile. It
 * goes on behind damage, which it reports.
 *
 * Thread:   one.
 * Blocking: yes, it reads files.
 * Memory:   a record's bytes are valid until the next call on its cursor.
 */
#ifndef QLOG_CURSOR_H
#define QLOG_CURSOR_H

#include <qbase/bytes.h>
#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_cursor;

struct qlog_record {
    qlog_position frame; /* position of the frame that holds it */
    uint32_t index;      /* among the records of its frame */
    uint32_t frame_size; /* bytes of the log that the frame takes */
    uint32_t frame_body; /* those of them that are records and payloads, without the padding */
    unsigned kind;
    uint64_t wall_ms;
    uint64_t generation;
    struct q_bytes bytes;   /* as stored, head included */
    struct q_bytes payload; /* of a batch; else empty */
};

/* What lies at the end of a log; complete once qlog_cursor_next() has answered Q_END. */
struct qlog_log_state {
    uint64_t first;
    uint64_t end;
    uint64_t durable;    /* the newest mark known */
    uint64_t torn_bytes; /* behind the end: an unfinished write; 0 for a clean end */
    uint64_t rot_bytes;  /* below the mark, and damaged */
    uint64_t frames;
    uint64_t records;
    uint64_t generation; /* of the directory: rises with every start after an unclean stop */
    uint32_t segments;
    bool clean; /* the directory was closed orderly */
    bool live;  /* a process has it open: the log was read up to `durable`, and may go on */
};

struct qlog_damage {
    uint64_t from; /* positions */
    uint64_t to;
    const char *what;
};

/*
 * `log`: its name, NULL: the first of the directory. `from`: position of a frame; 0: from the start.
 *
 * Q_OK, Q_NOT_FOUND (no such log), Q_GONE (below the first position), Q_E_FOREIGN, Q_E_*.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_cursor_open(
    const char *directory, const char *log, qlog_position from, struct qlog_cursor **ret_cursor);
Q_EXPORT void qlog_cursor_close(struct qlog_cursor *cursor);
/* Check the hash of every payload, not only of those above the durable mark. */
Q_EXPORT void qlog_cursor_set_deep(struct qlog_cursor *cursor, bool deep);

/*
 * Go on with the frames of [from, to), behind what was read so far; then there is Q_END, until the next
 * call. `from`: position of a frame, as an index tells it.
 */
Q_EXPORT void qlog_cursor_range(struct qlog_cursor *cursor, qlog_position from, qlog_position to);

/* Q_OK, Q_END, Q_E_CORRUPT (`*ret_damage` tells the range; go on calling), other failures. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_cursor_next(
    struct qlog_cursor *cursor, struct qlog_record *ret_record, struct qlog_damage *ret_damage);
Q_EXPORT void qlog_cursor_state(const struct qlog_cursor *cursor, struct qlog_log_state *ret_state);
/*
 * Whether a frame that was read, and whose payloads are not what they should be, still was there:
 * Q_GONE when the process that writes has dropped it from the log's head meanwhile, else Q_OK.
 * Reads the superblock.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_cursor_check(struct qlog_cursor *cursor, qlog_position frame);

/* Names of the directory's logs: Q_OK or Q_END when `index` is behind the last. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_log_name(
    const char *directory, unsigned index, char ret_name[16]);

/* The bytes that a program appended. Q_OK, Q_NOT_FOUND (another kind), Q_E_CORRUPT. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_record_bytes(
    const struct qlog_record *record, struct q_bytes *ret_bytes);
/* "BATCH", "PULL", … */
Q_EXPORT const char *qlog_record_name(const struct qlog_record *record);
/* One line of text, or the members of one JSON object. False: it does not decode. */
Q_EXPORT bool qlog_record_describe(
    const struct qlog_record *record, bool json, char *out, size_t out_size);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_CURSOR_H */
