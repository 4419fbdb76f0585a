/*
 * qlog/types.h: the numbers of a store, which must not be mixed up.
 */
#ifndef QLOG_TYPES_H
#define QLOG_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qbase/err.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Byte address in a log: 64 bits, monotone for ever. */
typedef struct qlog_position {
    uint64_t value;
} qlog_position;

/* Ordinal of a message within its subject: dense, starts at 0. */
typedef struct qlog_sequence {
    uint64_t value;
} qlog_sequence;

/* Ordinal of a message among those handed to one consumer. */
typedef struct qlog_pull_sequence {
    uint64_t value;
} qlog_pull_sequence;

/* When an append is acknowledged. Stored and on the wire. */
enum qlog_mode {
    QLOG_MODE_DEFAULT = 0,      /* the subject's own; sync unless set */
    QLOG_MODE_ASYNC = 1,        /* written: survives the end of the process */
    QLOG_MODE_SYNC = 2,         /* flushed: survives power loss */
    QLOG_MODE_REPLICA = 3,      /* not available yet: refused */
    QLOG_MODE_SYNC_REPLICA = 4, /* not available yet: refused */
};

/* "async", "sync", … */
Q_EXPORT const char *qlog_mode_name(enum qlog_mode mode);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_TYPES_H */
