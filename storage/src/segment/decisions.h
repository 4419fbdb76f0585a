/*
 * segment/decisions.h: what recovery decided, for those who ask later.
 *
 * While a directory is opened, each decision that took something away or passed something over, and
 * each start after an unclean stop, is a line of JSON in DIR/recovery.log: the event that the
 * observer was told. Nothing reads it but people; it is begun anew when it reaches a mebibyte. If it
 * can't be written, an event says so, and the start goes on.
 *
 * Thread: the owner of the directory. Memory: one block while the directory is opened.
 */
#ifndef QL_SEGMENT_DECISIONS_H
#define QL_SEGMENT_DECISIONS_H

#include "segment/env.h"

#define QL_RECOVERY_LOG "recovery.log"

enum {
    QL_DECISIONS_BYTES = 16 * 1024, /* of one start; what does not fit is counted */
    QL_RECOVERY_LOG_BYTES = 1024 * 1024
};

struct ql_decisions {
    uint32_t used;
    uint32_t left_out; /* lines */
    char text[QL_DECISIONS_BYTES];
};

/* Does this kind of event take something away, or pass something over? */
bool ql_is_decision(enum qlog_event_kind kind);
void ql_decisions_note(
    struct ql_decisions *decisions, const struct q_clock *clock, const struct qlog_event *event);
/* The directory is open: write what was noted, and note no more. Blocks. */
void ql_decisions_write(struct ql_env *env);

#endif /* QL_SEGMENT_DECISIONS_H */
