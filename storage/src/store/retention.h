/*
 * store/retention.h: which messages go, and what happens when the disk fills up.
 *
 * Once a second, or less often when it takes long to find out what groups need, the oldest sealed
 * segments of the message log are held against the rules:
 *
 *   age        its last message is older than `retention_ms`; at most one in ten seconds, so that a
 *              clock that jumped takes little before somebody sees it
 *   size       the message log takes more than `retention_bytes`
 *   pressure   less than the soft level is free, and every group has consumed it
 *
 * and, whatever the rule, a segment stays while it is pinned, while the archive has not taken it,
 * and, with `retention_consumed`, while a group needs it. A subject without a group needs all of its
 * messages: its first consumer may be on its way. The action log keeps its last few segments; what a
 * dropped one said is stated again first (state.c).
 *
 * Levels of free space, looked at once a second:
 *
 *   NORMAL -> SOFT    pressure, as above; also when a log can't make its next segment
 *   SOFT   -> HARD    publishes are refused with STORAGE_FULL; pulls and acknowledgements go on
 *   and back, by itself, when space is free again
 *
 * Thread: the store's.
 */
#ifndef QL_STORE_RETENTION_H
#define QL_STORE_RETENTION_H

#include <qlog/store.h>

enum {
    QL_ACTION_SEGMENTS = 4, /* of the action log, that stay */
    QL_ACTION_FILES = 7,    /* of the action log, that it may come to between two looks */
};

enum ql_disk_level {
    QL_DISK_NORMAL,
    QL_DISK_SOFT,
    QL_DISK_HARD
};

struct ql_retention {
    /* Options, defaults filled in. */
    uint64_t age_ms;
    uint64_t bytes;
    bool consumed;
    uint64_t soft_bytes; /* 0: from the size of the file system */
    uint64_t hard_bytes;
    const struct qlog_archive *archive;

    enum ql_disk_level level;
    uint64_t next_ns; /* the next look */
    uint64_t aged_ns; /* when the last segment went by age; 0: none */
    struct qlog_trim trim;
    bool trimming;
    enum q_err failed; /* how the last trim ended */

    /* A pass over all subjects, in slices: the oldest position that a group needs. */
    bool passing;
    uint64_t pass_began_ns;
    uint32_t pass_next;
    uint64_t needed;
};

struct qlog_store;
struct ql_subject;

void ql_retention_init(struct ql_retention *retention, const struct qlog_store_options *options);
/* Once a turn. */
void ql_retention_step(struct qlog_store *store);
/* A group of the subject is new, or was moved back: a pass that is under way may be past it. */
void ql_retention_group_went_back(struct qlog_store *store, struct ql_subject *subject);
/* Q_OK or Q_STORAGE_FULL. */
Q_MUST_CHECK enum q_err ql_retention_admits(const struct qlog_store *store);

#endif /* QL_STORE_RETENTION_H */
