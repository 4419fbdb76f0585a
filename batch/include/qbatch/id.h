/*
 * qbatch/id.h: the global name of a message.
 *
 * 48 bits of creation time in ms, 48 bits of the producer's random id, 32 bits of counter:
 * unique, ordered by time, readable: "20260111T041502.113Z-9f3c01ab22cd-1".
 */
#ifndef QBATCH_ID_H
#define QBATCH_ID_H

#include <qbase/err.h>

enum {
    QBATCH_ID_TEXT_SIZE = 48
};

struct qbatch_id {
    uint64_t time_ms;
    uint64_t producer; /* low 48 bits of the producer id (its first 6 bytes, big-endian) */
    uint32_t counter;
};

/* At least QBATCH_ID_TEXT_SIZE bytes; returns `out`. */
const char *qbatch_id_format(const struct qbatch_id *id, char *out);
/* Q_INVALID when the text is no id. */
Q_MUST_CHECK enum q_err qbatch_id_parse(const char *text, struct qbatch_id *ret_id);

#endif /* QBATCH_ID_H */
